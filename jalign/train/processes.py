"""Find this process's place among those of a job, and start JAX's multi-controller runtime there.

The place comes from JALIGN_COORDINATOR, JALIGN_NUM_PROCESSES and JALIGN_PROCESS_ID, or from what
JAX itself reads of the scheduler: Slurm, Open MPI, TPU VMs, TPUs on GKE, Kubernetes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping

import jax

from jalign.errors import ConfigError

OURS = ("JALIGN_COORDINATOR", "JALIGN_NUM_PROCESSES", "JALIGN_PROCESS_ID")
SCHEDULERS = {  # a variable that gives it away -> its name
    "SLURM_JOB_ID": "Slurm",
    "OMPI_COMM_WORLD_RANK": "Open MPI",
    "TPU_WORKER_HOSTNAMES": "TPU on GKE",
    "TPU_PROCESS_ADDRESSES": "TPU on GKE",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
}
BY_HAND = (
    "set JALIGN_COORDINATOR=HOST:PORT (of process 0), JALIGN_NUM_PROCESSES=N and "
    "JALIGN_PROCESS_ID=0..N-1"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands: `coordinator` is HOST:PORT of process 0; `local_device_ids` are the
    devices of this machine that it takes, None for all.
    """

    scheduler: str
    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return the coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find_place(timeout_s: int = 300) -> Place:
    """Read the place from the environment; `timeout_s` bounds the wait for the coordinator's name.

    Raises: ConfigError where variables are missing or contradict each other.
    """
    if any(os.environ.get(name) for name in OURS):
        place = _from_ours(os.environ)
    else:
        place = _from_scheduler(os.environ, timeout_s)
    if not 0 <= place.process_id < place.num_processes:
        raise ConfigError(
            f"process {place.process_id} of {place.num_processes} ({place.scheduler}): processes "
            f"are numbered 0 to {place.num_processes - 1}"
        )
    host, port = place.coordinator.rpartition(":")[::2]
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"the coordinator is {place.coordinator!r} ({place.scheduler}), and must be HOST:PORT "
            "such as node1:1234"
        )
    return place


def start(place: Place, timeout_s: int = 300) -> None:
    """Start JAX's runtime of several processes; returns when all are there."""
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.local_device_ids,
            # the place is complete: JAX would only narrow the devices again
            cluster_detection_method="deactivate",
            initialization_timeout=timeout_s,
        )
    except RuntimeError as error:
        error.add_note(
            "start the same processes as `jalign doctor --distributed`: it names the one that is "
            "missing"
        )
        raise


def _from_ours(environ: Mapping[str, str]) -> Place:
    missing = [name for name in OURS if not environ.get(name)]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing beside the others: {BY_HAND}")
    coordinator, num_processes, process_id = (environ[name] for name in OURS)
    for name, value in zip(OURS[1:], (num_processes, process_id), strict=True):
        if not re.fullmatch(r"\d+", value):
            raise ConfigError(f"{name}={value!r} is no number: {BY_HAND}")
    return Place(
        "JALIGN_* variables",
        coordinator,
        int(num_processes),
        int(process_id),
        _chosen_devices(environ),
    )


def _from_scheduler(environ: Mapping[str, str], timeout_s: int) -> Place:
    """Ask JAX, whose own start would do the same but tell nobody."""
    # Private, as there is no public way to learn the place before the runtime starts, and doctor
    # must know it when the runtime does not start. tests/train/test_processes.py would notice.
    from jax._src.clusters import ClusterEnv

    scheduler = next((name for key, name in SCHEDULERS.items() if key in environ), "TPU VM")
    try:
        coordinator, num_processes, process_id, devices = (
            ClusterEnv.auto_detect_unset_distributed_params(
                environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, timeout_s
            )
        )
    except Exception as error:  # whatever a scheduler's files and servers may answer
        raise ConfigError(
            f"the variables of {scheduler} do not say who this process is "
            f"({type(error).__name__}: {error}); {BY_HAND}"
        ) from error
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "--distributed, and no scheduler was found that JAX knows (Slurm, Open MPI, TPU VM, "
            f"TPU on GKE){_hint(environ)}; leave --distributed out for one process, or {BY_HAND}"
        )
    return Place(scheduler, coordinator, num_processes, process_id, _devices(environ, devices))


def _hint(environ: Mapping[str, str]) -> str:
    """Say why a scheduler that is there was not recognised."""
    if "SLURM_JOB_ID" in environ:
        return ": this is a Slurm job, but no step of it: start with `srun jalign ...`"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return ": this is a pod without TPUs: launch/README.md shows the variables of a JobSet"
    return ""


def _devices(environ: Mapping[str, str], detected: object) -> tuple[int, ...] | None:
    """Correct JAX's rule for Slurm and Open MPI, one device per process by its number on the node.

    It hides all but the first device of a process that has its node for itself, and looks for
    devices that a process cannot see where the scheduler gave it one alone.
    """
    chosen = _chosen_devices(environ)
    if chosen or detected is None or _tasks_here(environ) == 1:
        return chosen
    visible = environ.get("CUDA_VISIBLE_DEVICES") or environ.get("ROCR_VISIBLE_DEVICES") or ""
    if visible and "," not in visible:
        return None
    return tuple(detected)


def _chosen_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    value = environ.get("JAX_LOCAL_DEVICE_IDS", "")
    if not value:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", value):
        raise ConfigError(f"JAX_LOCAL_DEVICE_IDS={value!r} must be numbers such as 0,1,2,3")
    return tuple(int(x) for x in value.split(","))


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Return how many processes of the job run on this node; None where nobody says."""
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "").isdigit():
        return int(environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
    counts = []  # "2(x3),1" is three nodes with two and one with one
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(found[1])] * int(found[2] or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else None
