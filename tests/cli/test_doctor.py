"""jalign doctor finds what is wrong with one process and with many, and says nothing otherwise."""

from __future__ import annotations

import copy
import errno
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from jalign.cli import _doctor_probes as probes
from jalign.cli import doctor
from jalign.cli._doctor_report import judge, table
from jalign.errors import ConfigError, UserError
from jalign.train.processes import OURS, Place
from jalign.train.rendezvous import Meeting
from tests.conftest import ROOT

DISK = {
    "path": "/runs/a",
    "base": "/runs",
    "exists": False,
    "free_gib": 500.0,
    "free_files": 10**6,
    "lock": {"state": "free"},
    "write_mib_s": 400.0,
}
DEVICES = {
    "platform": "tpu",
    "kind": "TPU v5 lite",
    "local": 4,
    "all": 8,
    "processes": 2,
    "start_s": 1.0,
    "sum_s": 0.1,
    "sum_right": True,
}


@pytest.fixture(scope="module")
def machine():
    return probes.probe_machine({"PATH": "/bin"})


@pytest.fixture
def two(machine):
    """Reports of two processes with which all is well."""
    return {
        n: copy.deepcopy(
            machine
            | {"host": f"node{n}", "skew_s": 0.001, "round_trip_s": 0.001}
            | {"workdir": DISK, "devices": DEVICES, "sees_workdir": True}
        )
        for n in range(2)
    }


@pytest.fixture
def as_process(monkeypatch):
    """Set the variables of one process of several; returns their free port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]

    def become(process, num):
        for name, value in zip(OURS, (f"localhost:{port}", num, process), strict=True):
            monkeypatch.setenv(name, str(value))
        return port

    return become


def wrong(reports, num=2):
    return [f.text for f in judge(reports, num, 60) if f.wrong]


def notes(reports):
    return [f.text for f in judge(reports, 2, 60) if not f.wrong]


def test_one_process_describes_itself_and_leaves_nothing(tmp_path, capsys):
    flags = ["--json", f"--workdir={tmp_path}/runs/a", "--write_mib=1", "--timeout=500"]
    assert doctor.main(flags) == 0
    said = json.loads(capsys.readouterr().out)
    report = said["processes"]["0"]
    assert report["versions"]["jax"] and report["versions"]["flax"]
    assert report["devices"]["local"] == report["devices"]["all"] == 8
    assert report["devices"]["sum_right"] and report["workdir"]["write_mib_s"] > 0
    assert report["workdir"]["base"] == str(tmp_path) and list(tmp_path.iterdir()) == []
    text = table({0: report}, "one", [])
    assert "8 of 8 x cpu" in text and "lock free" in text and "all is well" in text


def test_a_missing_process_is_named_after_the_timeout(as_process, capsys):
    as_process(0, 3)
    assert doctor.main(["--distributed", "--timeout=1"]) == 2
    said = capsys.readouterr().out
    assert f"processes 1, 2 of 3 are missing after 1 s; here: 0 ({socket.gethostname()})" in said
    assert "not started" in said  # JAX's runtime would have hung


def test_a_coordinator_that_is_not_there_is_named_with_the_reason(as_process, capsys):
    port = as_process(1, 2)
    assert doctor.main(["--distributed", "--timeout=1"]) == 2
    assert f"coordinator localhost:{port} within 1 s: localhost refuses" in capsys.readouterr().out


def test_no_scheduler_is_an_error_of_the_user(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "JALIGN_", "OMPI_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match="no scheduler was found"):
        doctor.main(["--distributed", "--timeout=1"])
    with pytest.raises(UserError, match="timeout"):
        doctor.main(["--timeout=0"])


def test_devices_that_hang_or_fail_are_reported_not_waited_for():
    stop = threading.Event()
    found = doctor._within(0.1, stop.wait)
    stop.set()
    assert "did not answer within 0.1 s" in found["error"] and found["hangs"]

    def fail():
        raise RuntimeError("no TPU")

    assert doctor._within(60, fail) == {
        "error": "JAX failed to start its devices: RuntimeError: no TPU"
    }


@pytest.mark.slow
def test_a_process_that_falls_silent_while_jax_starts_is_named(as_process, tmp_path):
    port = as_process(0, 2)
    flags = ["--distributed", "--json", "--timeout=8"]
    with subprocess.Popen(
        [sys.executable, "-m", "jalign", "doctor", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        meeting = Meeting(Place("test", f"localhost:{port}", 2, 1), 200)
        meeting.gather(probes.probe_machine() | {"token": ""})
        said = json.loads(process.stdout.read())  # here ends what this process does
        assert process.wait(timeout=60) == 2
        meeting.close()
    texts = [f["text"] for f in said["findings"] if f["wrong"]]
    silent = f"process 1 ({socket.gethostname()}): silent for 8 s while JAX's runtime started"
    assert silent in texts and any("did not answer within 8 s" in t for t in texts)


def test_nothing_is_said_where_all_is_well(two):
    assert judge(two, 2, 60) == []
    assert "all is well" in table(two, "two", [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"skew_s": 2.5}, "clock of process 1 (node1) is 2.5 s ahead of process 0's"),
        ({"skew_s": -2.5}, "2.5 s behind process 0's"),
        ({"sees_workdir": False}, "process 1 (node1) sees another /runs than process 0"),
        ({"devices": {"error": "no answer"}}, "process 1 (node1): no answer"),
        ({"devices": DEVICES | {"sum_right": False}}, "a sum over all devices came out wrong"),
        ({"devices": DEVICES | {"local": 3}}, "unequal devices: 4 x TPU v5 lite in 0 (node0); 3 x"),
        ({"workdir": {"fault": "/runs is no folder"}}, "cannot be written: /runs is no folder"),
        ({"workdir": {"fault": "No space", "full": True}}, "--workdir has no room left: No space"),
    ],
)
def test_what_is_wrong_with_one_process_is_said_with_its_host(two, change, said):
    two[1].update(change)
    (text,) = wrong(two)
    assert said in text
    assert f"WRONG: {text}" in table(two, "two", judge(two, 2, 60))


def test_a_clock_is_not_blamed_for_a_slow_network(two):
    two[1].update(skew_s=1.4, round_trip_s=1.0)
    assert wrong(two) == []


def test_versions_that_differ_are_named_with_their_hosts(two):
    two[1]["versions"]["jax"] = "0.0.1"
    (text,) = wrong(two)
    assert text.startswith("jax differs: ") and "0.0.1 on 1 (node1)" in text
    two[0]["versions"]["jax"] = two[1]["versions"]["jax"] = None
    assert wrong(two) == ["jax is not installed"]


def test_a_lock_that_another_holds_is_said_once_with_its_owner(two):
    owner = {"host": "node9", "pid": 77, "since": 1e9}
    for report in two.values():
        report["workdir"] = DISK | {"lock": {"state": "held", "owner": owner}}
    (text,) = wrong(two)
    assert text.startswith("/runs/a is in use by process 77 on node9, since 2001-")


def test_an_idle_accelerator_is_wrong_unless_the_cpu_was_asked_for(two):
    for report in two.values():
        report["devices"] = DEVICES | {"platform": "cpu", "kind": "cpu"}
    two[1]["device_files"] = {"GPU": 8}
    assert "process 1 (node1) has 8 GPU device file(s), and JAX uses the CPU" in wrong(two)[0]
    two[1]["environment"] = {"JAX_PLATFORMS": "cpu"}
    assert wrong(two) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workdir": DISK | {"free_gib": 1.5}}, "process 1 (node1): 1.5 GiB free in /runs"),
        ({"workdir": DISK | {"write_mib_s": 3.0}}, "process 1 (node1) writes 3 MiB/s into /runs"),
        ({"workdir": DISK | {"lock": {"state": "unsupported"}}}, "/runs/a has no locks"),
        ({"proxies": ["http_proxy"]}, "http_proxy set for process 1 (node1)"),
    ],
)
def test_what_may_matter_is_noted_and_is_not_wrong(two, change, said):
    two[1].update(change)
    (text,) = notes(two)
    assert said in text and wrong(two) == []


def test_memory_pages_matter_on_a_cpu_alone(two):
    for report in two.values():
        report["huge_pages"] = "never"
    assert notes(two) == []
    for report in two.values():
        report["devices"] = DEVICES | {"platform": "cpu"}
        report["device_files"] = {}
    assert "no huge pages" in notes(two)[0]


def test_values_of_proxies_stay_private():
    report = probes.probe_machine({"HTTP_PROXY": "http://me:secret@proxy", "XLA_FLAGS": "--x"})
    assert report["proxies"] == ["http_proxy"] and "secret" not in json.dumps(report)
    assert report["environment"] == {"XLA_FLAGS": "--x"}


def test_a_workdir_under_a_file_and_a_full_disk_are_faults(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "no folder" in probes.probe_workdir(tmp_path / "file", 1)["fault"]

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(probes.os, "fsync", full)
    found = probes.probe_workdir(tmp_path, 1)
    assert found["full"] and "No space left" in found["fault"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_marker_is_seen_while_it_lies_there(tmp_path):
    with probes.marker(tmp_path, "abc"):
        assert probes.sees_marker(str(tmp_path), "abc")
        assert not probes.sees_marker(str(tmp_path), "abd")
    assert not probes.sees_marker(str(tmp_path), "abc")
    with probes.marker(None, "abc"):
        assert list(tmp_path.iterdir()) == []
