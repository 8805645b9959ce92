"""Two processes with disks of their own start runs together: they wait, and fail, alike.

Both are started once, without any way to compute together, and try all cases in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from jalign import config
from jalign.train.processes import Place, start
from jalign.train.run import RunConfig, make_run
from jalign.train.together import attempt, gather, tell
from tests.conftest import ROOT
from tests.tiny import run_entries, write_tiny_dataset
from tests.tiny_tasks import finetune_entries, task_stream, write_tagging, write_tags

SLOW_S = 3  # longer than one slice of a wait
FILE = "columns/pair/en-ru/heldout/trg.ids.npy"  # of the last split


def flip_a_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def write_disks(folder: Path) -> list[Path]:
    """Write what two hosts hold under the same names; the second has other bytes in some."""
    from safetensors.numpy import load_file, save_file

    data = write_tiny_dataset(folder / "data", 30)
    other = write_tiny_dataset(folder / "other", 29)
    base = write_tagging(folder)
    hosts = [folder / "host0", folder / "host1"]
    for host, newest in zip(hosts, (data, other), strict=True):
        shutil.copytree(data, host / "data")
        shutil.copytree(newest, host / "mixed")
        shutil.copytree(base / "model", host / "model")
        shutil.copytree(base / "model", host / "tuned")
        shutil.copy(base / "train", host / "train")
        write_tags(host / "tags", seed=1, shift=hosts.index(host))
    weights = hosts[1] / "tuned/model.safetensors"
    tensors = {name: values + 1 for name, values in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    return hosts


def outcome_of(entries, workdir=None) -> str:
    try:
        make_run(config.build(RunConfig, entries), workdir=workdir)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "made"


def try_all(process: int) -> dict:
    """Try every case; both processes do the same in the same order."""
    here, found, workdir = Path("."), {}, Path("..") / "run"
    begin = time.monotonic()
    attempt(lambda: time.sleep(0 if process else SLOW_S))
    found["slow"] = time.monotonic() - begin
    found["told"] = [tell(process), gather(process)]

    pretrain, finetune = run_entries(Path("data")), finetune_entries(here)
    if process == 0:
        flip_a_bit(here / "data" / FILE)
    found["damaged"] = outcome_of(pretrain, workdir)
    found["left"] = sorted(path.name for path in workdir.iterdir())
    gather(None)
    if process == 0:
        flip_a_bit(here / "data" / FILE)
    found["mended"] = outcome_of(pretrain, workdir)
    changed = dict(log_every=7, seed=4) if process else {}
    found["flags"] = outcome_of(pretrain | changed)
    found["mixed"] = outcome_of(run_entries(Path("mixed")))
    found["absent"] = outcome_of(run_entries(Path("absent" if process else "data")))
    found["finetune"] = outcome_of(finetune)
    found["init"] = outcome_of(finetune | dict(init="tuned"))
    found["tags"] = outcome_of(finetune | dict(streams=dict(task=task_stream(here / "tags"))))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    hosts = write_disks(tmp_path_factory.mktemp("disks"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(i), str(port)],
            cwd=host,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, host in enumerate(hosts)
    ]
    said = [process.communicate(timeout=200) for process in both]
    for process, (_, err) in zip(both, said, strict=True):
        assert process.returncode == 0, err[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def test_the_others_wait_for_a_slow_one_without_their_devices(found):
    assert all(SLOW_S - 1 < each["slow"] < SLOW_S + 20 for each in found)
    assert [each["told"] for each in found] == [[0, [0, 1]]] * 2


def test_damage_that_process_0_finds_is_said_by_all(found):
    for each, whose in zip(found, ("", "process 0: "), strict=True):
        said = each["damaged"]
        assert said.startswith(
            f"DamagedColumns: {whose}data/columns/pair/en-ru/heldout is not what"
        )
        assert "trg.ids.npy holds other bytes" in said
        assert each["left"] == ["checked.json"]
        assert each["mended"] == "made"


def test_processes_with_other_flags_data_or_weights_are_named(found):
    beginning = "ConfigError: not all processes read the same; other than process 0 (host0) have "
    wanted = {
        "flags": "process 1: config.log_every=7 (not 2), config.seed=4 (not 3) on host1. Start",
        "mixed": "process 1: manifest_sha256=",
        "init": "process 1: init_sha256=",
        "tags": "process 1: labelled_sha256.task=",
    }
    for name, said in wanted.items():
        assert found[0][name].startswith(beginning + said), found[0][name]
        assert found[1][name] == found[0][name]
        assert found[0][name].count("(not") == (2 if name == "flags" else 1)
    assert found[0]["finetune"] == found[1]["finetune"] == "made"


def test_what_only_one_process_lacks_is_said_by_all(found):
    said = "absent does not exist, so it is no prepared dataset"
    assert found[1]["absent"].startswith(f"ManifestError: {said}")
    assert found[0]["absent"].startswith(f"ManifestError: process 1: {said}")


if __name__ == "__main__":
    number, port = int(sys.argv[1]), int(sys.argv[2])
    socket.gethostname = lambda: f"host{number}"
    jax.config.update("jax_cpu_collectives_implementation", None)  # who computes together fails
    start(Place("test", f"localhost:{port}", 2, number))
    sys.stdout.write(json.dumps(try_all(number)) + "\n")
