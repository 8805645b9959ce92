"""The fault matrix of benchmarks/faults.py, a few cases of each kind, as its user runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kinds",
    [
        "sigkill,sigterm,two_jobs",
        "devices,processes,sigterm_one_of_two",
        "files,data,compile_cache",
        "disk_full,export,read_only,slow_storage,tensorboard,nan,lr_x_100,loader",
    ],
)
def test_every_fault_is_survived_without_a_wrong_result(kinds, tmp_path):
    command = [sys.executable, "-m", "benchmarks.faults", "--quick", f"--only={kinds}"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "| all | " in done.stdout and "LOST" not in done.stdout
    assert not list(tmp_path.glob("faults_*"))  # it deletes its runs
