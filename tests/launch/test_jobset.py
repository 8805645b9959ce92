"""launch/gke_jobset.yaml has the fields of a JobSet that restarts, and fails where that is due."""

from __future__ import annotations

import math
import re

import pytest
import yaml

from jalign.cli.main import commands
from jalign.errors import BadData, ConfigError, Diverged
from tests.conftest import ROOT

# The fields that the API server knows at each place; it refuses a JobSet with others.
KNOWN = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"replicatedJobs", "successPolicy", "failurePolicy", "network", "startupPolicy",
             "suspend", "coordinator", "ttlSecondsAfterFinished"},
    "spec.successPolicy": {"operator", "targetReplicatedJobs"},
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {"name", "action", "targetReplicatedJobs", "onJobFailureReasons"},
    "spec.replicatedJobs": {"name", "replicas", "template", "dependsOn"},
    "spec.replicatedJobs.template": {"metadata", "spec"},
    "spec.replicatedJobs.template.spec": {"completionMode", "completions", "parallelism",
                                          "backoffLimit", "podFailurePolicy", "template"},
    "spec.replicatedJobs.template.spec.podFailurePolicy": {"rules"},
    "spec.replicatedJobs.template.spec.podFailurePolicy.rules": {"action", "onExitCodes",
                                                                 "onPodConditions"},
    "spec.replicatedJobs.template.spec.template.spec": {
        "restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers", "volumes",
        "hostNetwork", "dnsPolicy", "tolerations", "serviceAccountName",
    },
    "spec.replicatedJobs.template.spec.template.spec.containers": {
        "name", "image", "workingDir", "command", "args", "env", "ports", "resources",
        "volumeMounts",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text(encoding="utf-8"))


def unknown_fields(node, path="") -> list[str]:
    """List the fields that KNOWN does not have at their place."""
    if isinstance(node, list):
        return [fault for item in node for fault in unknown_fields(item, path)]
    if not isinstance(node, dict):
        return []
    faults = [f"{path}.{k}" for k in node if path in KNOWN and k not in KNOWN[path]]
    for key, value in node.items():
        faults += unknown_fields(value, f"{path}.{key}".strip("."))
    return faults


def job(jobset):
    (one,) = jobset["spec"]["replicatedJobs"]
    return one["template"]["spec"]


def pod(jobset):
    return job(jobset)["template"]["spec"]


def container(jobset):
    (one,) = pod(jobset)["containers"]
    return one


def test_it_is_a_jobset_without_unknown_fields(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", jobset["metadata"]["name"])
    assert unknown_fields(jobset) == []
    assert unknown_fields({"spec": {"restartPolicy": 1}}) == ["spec.restartPolicy"]


def test_policies_speak_of_jobs_that_exist(jobset):
    names = [r["name"] for r in jobset["spec"]["replicatedJobs"]]
    assert jobset["spec"]["successPolicy"]["operator"] == "All"
    assert jobset["spec"]["successPolicy"]["targetReplicatedJobs"] == names


def test_errors_of_the_user_fail_it_and_all_else_restarts_it(jobset):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 10
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    (pods,) = job(jobset)["podFailurePolicy"]["rules"]
    assert pods["action"] == "FailJob"
    codes = pods["onExitCodes"]
    assert codes["operator"] == "In" and codes["containerName"] == container(jobset)["name"]
    assert codes["values"] == [e.exit_code for e in (ConfigError, BadData, Diverged)]


def test_one_failed_pod_restarts_all(jobset):
    assert job(jobset)["backoffLimit"] == 0
    assert pod(jobset)["restartPolicy"] == "Never"  # a podFailurePolicy asks for it


def test_hosts_and_chips_make_up_the_slice(jobset):
    spec = job(jobset)
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    topology = pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container(jobset)["resources"]["limits"]["google.com/tpu"]
    assert spec["completions"] * chips == math.prod(map(int, topology.split("x")))
    annotations = jobset["metadata"]["annotations"]
    assert annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"]


def test_there_is_time_to_save_and_the_signal_arrives(jobset):
    assert pod(jobset)["terminationGracePeriodSeconds"] >= 120
    assert container(jobset)["command"] == ["jalign"]


def test_the_command_is_one_that_the_project_has(jobset):
    command, *args = container(jobset)["args"]
    assert command in commands() and "--distributed" in args
    flags = dict(a.removeprefix("--").split("=", 1) for a in args if "=" in a)
    assert (ROOT / flags["config"]).exists()
    mounts = {m["name"]: m["mountPath"] for m in container(jobset)["volumeMounts"]}
    assert set(mounts) == {v["name"] for v in pod(jobset)["volumes"]}
    assert flags["workdir"].startswith(mounts["runs"]) and flags["config.data"].startswith(
        mounts["data"]
    )


def test_environment_is_text_and_ports_hold_the_coordinator(jobset):
    env = {e["name"]: e["value"] for e in container(jobset)["env"]}
    assert all(isinstance(value, str) for value in env.values())
    assert env["JAX_COMPILATION_CACHE_DIR"].startswith("/runs")
    ports = [p["containerPort"] for p in container(jobset)["ports"]]
    from jax._src.clusters.cloud_tpu_cluster import coordinator_port

    assert int(coordinator_port) in ports
