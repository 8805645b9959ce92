"""The run as its user meets it: `jalign pretrain` as a process, killed, stopped, resumed,
diverging.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data.hashes import find_damage
from jalign.train.checkpoint import Checkpoints
from tests.tiny import write_tiny_dataset

CONFIG = Path(__file__).parent / "tiny_config.py"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


def start(data, workdir, *flags, devices=8, **env):
    command = [
        sys.executable,
        "-m",
        "jalign",
        "pretrain",
        f"--config={CONFIG}:{data}",
        f"--workdir={workdir}",
        *flags,
    ]
    xla = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": xla} | env,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err[-3000:]
    return err


def records(workdir, name="metrics"):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def wait_for(workdir, step, process):
    """Wait until the run has logged a step."""
    for _ in range(3000):
        assert process.poll() is None, process.communicate()[1][-3000:]
        path = workdir / "metrics.jsonl"
        if path.exists() and any(
            f'"step": {s},' in path.read_text() for s in range(step, step + 20)
        ):
            return
        time.sleep(0.05)
    raise AssertionError("the run logged nothing")


def arrays(workdir, step):
    """Read every array of a checkpoint, by path, without knowing what made it."""
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(
        (workdir / "checkpoints" / str(step) / "state").absolute()
    )
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_bit_equal(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory):
    """A run of 12 steps that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, finish(start(data, workdir, "--config.steps=12"))


def test_a_run_logs_what_its_user_needs(whole):
    workdir, err = whole
    assert (workdir / "checked.json").exists()  # data are not read whole again
    assert "stream pair: joint, 8 rows of 64, attention" in err and "MFU = analytic FLOPs" in err
    assert "12/12" in err and "tokens/s" in err and "left" in err
    last = records(workdir)[-1]
    assert last["step"] == 12
    wanted = {
        "step",
        "loss",
        "loss/mlm",
        "loss/tlm",
        "tokens_per_s",
        "pack_efficiency",
        "input_wait_frac",
        "mfu",
    }
    assert wanted <= last.keys()
    assert last["loss"] == pytest.approx(last["loss/mlm"] + 0.5 * last["loss/tlm"], rel=1e-5)
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()) == [
        8,
        10,
        12,
    ]
    assert list((workdir / "tensorboard").iterdir())


def test_a_finished_run_says_so_and_changes_nothing(data, whole):
    workdir, _ = whole
    before = (workdir / "metrics.jsonl").read_text()
    assert "finished at step 12" in finish(start(data, workdir, "--config.steps=12"))
    assert (workdir / "metrics.jsonl").read_text() == before


def killed_and_resumed(data, workdir, step):
    process = start(data, workdir, "--config.steps=12")
    wait_for(workdir, step, process)
    while step >= 4 and not any((workdir / "checkpoints" / str(s)).exists() for s in (4, 6, 8)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return finish(start(data, workdir, "--config.steps=12"))


def test_a_killed_run_ends_with_the_same_bits(data, whole, tmp_path):
    err = killed_and_resumed(data, tmp_path, 4)
    assert "resuming at step" in err or "finished at step" in err  # not from the start
    assert_bit_equal(arrays(tmp_path, 12), arrays(whole[0], 12))
    mine = [(r["step"], r["loss"]) for r in records(tmp_path)]
    assert mine == [(r["step"], r["loss"]) for r in records(whole[0])]


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3, 5, 6, 7, 8, 9, 10])
def test_a_run_killed_at_any_step_ends_with_the_same_bits(data, whole, tmp_path, step):
    killed_and_resumed(data, tmp_path, step)
    assert_bit_equal(arrays(tmp_path, 12), arrays(whole[0], 12))


def stopped(data, workdir, number, code):
    """Ask a run to stop after its first steps; return what it said."""
    process = start(data, workdir, "--config.steps=12", "--config.checkpoint_every=100")
    wait_for(workdir, 2, process)
    process.send_signal(number)
    err = finish(process, code)
    assert f"{number.name}: saved step" in err
    return err


def test_a_run_asked_to_stop_saves_and_goes_on(data, whole, tmp_path):
    stopped(data, tmp_path, signal.SIGTERM, 143)
    finish(start(data, tmp_path, "--config.steps=12"))
    assert_bit_equal(arrays(tmp_path, 12), arrays(whole[0], 12))


@pytest.mark.slow
def test_a_run_interrupted_from_the_keyboard_saves_too(data, tmp_path):
    err = stopped(data, tmp_path, signal.SIGINT, 130)
    assert f"saved step {Checkpoints(tmp_path, 3).latest_step()}" in err


@pytest.mark.slow
def test_another_mesh_goes_on_with_the_same_losses(data, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for step in (10, 12):
        shutil.rmtree(tmp_path / f"run/checkpoints/{step}")
    mesh = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    err = finish(start(data, tmp_path / "run", "--config.steps=12", *mesh))
    assert "changed since: mesh" in err and "resuming at step 8" in err
    mine, wanted = ([r["loss"] for r in records(d)] for d in (tmp_path / "run", whole[0]))
    np.testing.assert_allclose(mine, wanted, rtol=1e-5)


def start_two(data, workdir, *flags):
    """Start a run as two processes of four devices each."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    return [
        start(
            data,
            workdir,
            *flags,
            "--distributed",
            devices=4,
            JAX_COMPILATION_CACHE_DIR=f"{workdir}.cache",
            JALIGN_COORDINATOR=f"localhost:{port}",
            JALIGN_NUM_PROCESSES="2",
            JALIGN_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]


@pytest.mark.parametrize(
    "mesh",
    [(), pytest.param(("--config.mesh.tensor=8",), marks=pytest.mark.slow)],  # both hold every row
)
def test_two_processes_train_as_one(data, whole, tmp_path, mesh):
    best = ("--config.evaluate.every=2", "--config.evaluate.best=heldout/tlm/accuracy/all")
    for process in start_two(data, tmp_path, "--config.steps=12", *best, *mesh):
        finish(process)
    # process 0 alone would load it at the next start, and on CPUs not match what the other compiles
    assert not list(Path(f"{tmp_path}.cache").glob("*step*"))
    score = {
        r["step"]: r["value"]
        for r in records(tmp_path, "results")
        if (r["task"], r["metric"]) == ("heldout/tlm", "accuracy")
    }
    (kept,) = (tmp_path / "best").iterdir()  # saved while the checkpoint of the same step was
    assert len(score) == 6 and score[int(kept.name)] == max(score.values())
    assert find_damage(kept) == []
    mine, theirs = records(tmp_path), records(whole[0])
    np.testing.assert_allclose([r["loss"] for r in mine], [r["loss"] for r in theirs], rtol=1e-5)
    for found in (lambda r: r["pack_efficiency"], lambda r: r["tokens_per_s"] * r["step_s"]):
        assert [found(r) for r in mine] == pytest.approx([found(r) for r in theirs])


def test_a_process_that_fails_alone_ends_with_its_own_exit_code(data, tmp_path):
    (tmp_path / "skipped.json").write_text("[{")  # process 0 alone reads it
    first, second = start_two(data, tmp_path, "--config.steps=2")
    out, err = first.communicate(timeout=200)  # it must not wait for the other, who waits for it
    assert first.returncode == 2 and "skipped.json is damaged" in err
    second.communicate(timeout=200)
    assert second.returncode != 0


@pytest.mark.parametrize(
    "flags, what",
    [
        (("--config.optimizer.lr=1e30", "--config.optimizer.clip_norm=0.0"), "is not finite"),
        pytest.param(
            ("--config.optimizer.lr=3.0", "--config.divergence.window=2"),
            "rose from",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_diverged_run_exits_4_and_its_last_checkpoint_is_good(data, tmp_path, flags, what):
    err = finish(start(data, tmp_path, "--config.steps=40", *flags), 4)
    assert what in err and ("mlm" in err or "tlm" in err) and "Records of its batch: " in err
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert {name.split("/")[0] for name, _ in report["records"]["pair"]} == {"pair"}
    latest = Checkpoints(tmp_path, 3).latest_step()
    assert latest is None or latest < report["step"]
    for name, values in (arrays(tmp_path, latest) if latest else {}).items():
        assert np.isfinite(values).all(), name


def test_another_config_in_the_same_workdir_is_refused(data, whole):
    err = finish(start(data, whole[0], "--config.steps=14", "--config.seed=4"), 2)
    assert "config.seed was 3 and is 4" in err and "another --workdir" in err


@pytest.mark.parametrize(
    "flags, what",
    [
        (("--config.optimiser.lr=1",), "optimiser"),
        (("--config.steps=0",), "steps=0: need at least 1"),
        (("--config.data=nowhere",), "jalign prepare"),
        (("extra",), "unexpected"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_type(data, tmp_path, capsys, flags, what):
    argv = ["pretrain", f"--config={CONFIG}:{data}", f"--workdir={tmp_path}", *flags]
    assert main(argv) == 2  # in this process: the one above is as users meet it
    assert what in capsys.readouterr().err
