"""launch/tpu_vm.sh goes through preemptions; a stand-in for gcloud runs the workers here."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.test_scripts import write_script

# A queued resource is a file with its state, a worker a home folder.
GCLOUD = r"""#!/usr/bin/env bash
verb=$4 name=$5
echo "$verb $name ${*:6}" >>"$CLOUD/calls"
state() { cat "$CLOUD/state" 2>/dev/null; }
case $verb in
  describe)
    state || exit 1
    [[ $(state) == PROVISIONING ]] && echo ACTIVE >"$CLOUD/state"
    exit 0
    ;;
  create) echo PROVISIONING >"$CLOUD/state" ;;
  delete) rm "$CLOUD/state" ;;
  scp) for home in "$CLOUD"/worker*; do cp "$name" "$home/jalign.tgz"; done ;;
  ssh)
    worst=0
    for arg in "$@"; do [[ $arg == --command=* ]] && command=${arg#--command=}; done
    for home in "$CLOUD"/worker*; do
      (cd "$home" && HOME=$home bash -c "$command") || worst=$?
    done
    exit "$worst"
    ;;
esac
"""
# The program on a worker: takes its next outcome, and may lose the TPU.
JALIGN = r"""#!/usr/bin/env bash
echo "${HOME##*/} $*" >>"$CLOUD/ran"
outcome=$(head -n 1 "$HOME/outcomes")
sed -i 1d "$HOME/outcomes"
if [[ $outcome == preempted ]]; then
  echo SUSPENDED >"$CLOUD/state"
  exit 137
fi
exit "$outcome"
"""


@pytest.fixture
def cloud(tmp_path):
    """Run the launcher over two workers with given outcomes; returns the finished process."""
    # a checkout of the launcher alone, as it copies committed files to the workers
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    for name in ("launch/tpu_vm.sh", "launch/install.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    me = ["-c", "user.name=me", "-c", "user.email=me"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    write_script(tmp_path / "bin/gcloud", GCLOUD)

    def run(first, second, *args, **env):
        for number, outcomes in enumerate((first, second)):
            home = tmp_path / f"worker{number}"
            # a Python that finds everything installed, so that installing ends at once
            write_script(home / "jalign/.venv/bin/python", "#!/bin/sh\n")
            write_script(home / "jalign/.venv/bin/jalign", JALIGN)
            (home / "outcomes").write_text("\n".join(outcomes) + "\n")
        place = {"TPU": "t", "TYPE": "v5litepod-16", "ZONE": "z", "POLL": "0.01", "DELETE": "1"}
        env = {"CLOUD": str(tmp_path), "SPOT": "1", "SETUP": "touch mounted"} | place | env
        base = {k: v for k, v in os.environ.items() if not k.startswith("JALIGN_")}
        path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(checkout / "launch/tpu_vm.sh"), *(args or ("pretrain", "--workdir=/a b"))],
            cwd=tmp_path,
            env=base | path | env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def calls(tmp_path, *verbs):
    lines = (tmp_path / "calls").read_text().splitlines()
    return [line for line in lines if line.split()[0] in verbs]


def test_a_preempted_tpu_is_replaced_and_the_run_goes_on(cloud, tmp_path):
    done = cloud(["preempted", "0"], ["143", "0"])
    assert done.returncode == 0, done.stdout + done.stderr
    verbs = [line.split()[0] for line in calls(tmp_path, "create", "delete", "scp", "ssh")]
    once = ["create", "scp", "ssh", "ssh"]  # set up, run
    assert verbs == [*once, "delete", *once, "delete"]
    asked = calls(tmp_path, "create")[0]
    assert "--spot" in asked and "--node-id=t" in asked and "v2-alpha-tpuv5-lite" in asked
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran == 2 * [f"worker{i} pretrain --workdir=/a b --distributed" for i in (0, 1)]
    assert (tmp_path / "worker1/mounted").exists()


def test_a_crash_starts_again_on_the_same_tpu_until_restarts_are_used_up(cloud, tmp_path):
    done = cloud(["1", "143", "1", "0"], ["0", "143", "1", "0"], RESTARTS="1")
    assert done.returncode == 1, done.stderr
    assert "start 1 of at most 1" in done.stderr and "asked to start again" in done.stderr
    assert len(calls(tmp_path, "create")) == 1 and len(calls(tmp_path, "scp")) == 1
    assert len((tmp_path / "ran").read_text().splitlines()) == 6


@pytest.mark.parametrize("code", ["2", "3", "4"])
def test_an_error_of_the_user_ends_it(cloud, tmp_path, code):
    done = cloud([code], ["1"], DELETE="0")
    assert done.returncode == 2 and "would not help" in done.stderr
    assert len((tmp_path / "ran").read_text().splitlines()) == 2
    assert not calls(tmp_path, "delete") and "give it back" in done.stderr


def test_several_slices_are_asked_for_together(cloud, tmp_path):
    assert cloud(["0"], ["0"], SLICES="2", SPOT="").returncode == 0
    asked = calls(tmp_path, "create")[0]
    assert "--node-count=2 --node-prefix=t" in asked and "--spot" not in asked


@pytest.mark.parametrize("missing", ["TPU", "TYPE", "ZONE"])
def test_what_is_missing_is_named(cloud, missing):
    done = cloud([], [], **{missing: ""})
    assert done.returncode == 2 and f"{missing} is missing" in done.stderr
