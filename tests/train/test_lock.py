"""One job at a time has a workdir; the lock ends with its process, however that ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jalign import config
from jalign.cli._runs import train_in
from jalign.errors import ConfigError
from jalign.train.lock import LOCK_FILE, WorkdirLock, lock_state
from jalign.train.run_config import RunConfig
from tests.conftest import ROOT
from tests.tiny import run_entries, write_tiny_dataset

HOLD = """
import sys, time
from pathlib import Path
from jalign.train.lock import WorkdirLock
with WorkdirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_job_is_refused_and_told_who_has_it(tmp_path, other):
    state = lock_state(tmp_path)
    assert state["state"] == "held" and state["owner"]["pid"] == other.pid
    with pytest.raises(ConfigError, match=f"process {other.pid} on "):
        WorkdirLock(tmp_path, wait_s=0.3).__enter__()
    assert lock_state(tmp_path)["state"] == "held"  # neither of the two has broken it


def test_a_killed_job_leaves_no_lock(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / LOCK_FILE).exists() and lock_state(tmp_path) == {"state": "free"}
    with WorkdirLock(tmp_path) as lock:
        assert lock.held


def test_a_job_waits_for_one_that_is_about_to_end(tmp_path, other):
    other.stdin.close()
    with WorkdirLock(tmp_path, wait_s=60) as lock:
        assert lock.held


def test_looking_leaves_no_trace(tmp_path):
    assert lock_state(tmp_path / "new") == {"state": "free"}
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write into --workdir"):
        WorkdirLock(tmp_path / "file/run").__enter__()


@pytest.mark.slow
def test_a_run_takes_the_lock_before_it_touches_anything(tmp_path, other, monkeypatch):
    data = write_tiny_dataset(tmp_path / "data", 60)
    cfg = config.build(RunConfig, run_entries(data, steps=2))
    monkeypatch.setattr(WorkdirLock.__init__, "__defaults__", (0.2,))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=f"in use by process {other.pid}"):
        train_in(tmp_path, cfg)
    assert sorted(tmp_path.iterdir()) == before
