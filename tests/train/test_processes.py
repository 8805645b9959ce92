"""A process finds its place in what schedulers set; each environment as its scheduler has it."""

from __future__ import annotations

import os

import pytest

from jalign.errors import ConfigError
from jalign.train.processes import OURS, SCHEDULERS, Place, find_place

SLURM = {  # of task 5 of 8 on 2 nodes
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu-a[01-02]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OURS_SET = dict(zip(OURS, ("node1:1234", "4", "3"), strict=True))


@pytest.fixture
def place_in(monkeypatch):
    """Find the place in an environment that has nothing else of schedulers."""
    starts = ("SLURM_", "OMPI_", "JALIGN_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JAX_")
    for name in [n for n in os.environ if n.startswith(starts)]:
        if name not in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
            monkeypatch.delenv(name)
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def find(environ) -> Place:
        with monkeypatch.context() as inside:
            for name, value in environ.items():
                inside.setenv(name, value)
            return find_place(timeout_s=1)

    return find


def test_our_variables_win_over_a_scheduler(place_in):
    place = place_in(SLURM | OURS_SET)
    assert place == Place("JALIGN_* variables", "node1:1234", 4, 3, None)
    assert place.address == ("node1", 1234)


def test_slurm_is_read_and_one_task_of_several_takes_one_device(place_in):
    place = place_in(SLURM)
    assert place.scheduler == "Slurm" and place.address == ("gpu-a01", 61440 + 1)
    assert (place.num_processes, place.process_id, place.local_device_ids) == (8, 5, (1,))


def test_a_task_that_has_its_node_for_itself_takes_all_devices(place_in):
    alone = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    assert place_in(SLURM | alone | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}).local_device_ids is None
    uneven = place_in(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1"})  # on the second node
    assert uneven.local_device_ids is None
    assert place_in(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1,2"}).local_device_ids == (1,)


def test_a_task_that_sees_one_gpu_takes_that(place_in):
    assert place_in(SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).local_device_ids is None
    assert place_in(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_device_ids == (1,)


def test_the_user_decides_on_devices_before_all(place_in):
    chosen = {"JAX_LOCAL_DEVICE_IDS": "2,3"}
    assert place_in(SLURM | chosen).local_device_ids == (2, 3)
    assert place_in(OURS_SET | chosen).local_device_ids == (2, 3)


def test_ports_are_as_chosen(place_in):
    assert place_in(SLURM | {"JAX_COORDINATOR_PORT": "4000"}).address == ("gpu-a01", 4000)


def test_open_mpi_is_read(place_in):
    place = place_in(OMPI)
    assert (place.scheduler, place.num_processes, place.process_id) == ("Open MPI", 4, 1)
    assert place.address[0] == "10.96.0.1" and place.local_device_ids == (1,)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "no scheduler was found"),
        ({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}, "start with `srun jalign"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "a pod without TPUs"),
        ({OURS[0]: "node1:1"}, "JALIGN_NUM_PROCESSES, JALIGN_PROCESS_ID missing"),
        (OURS_SET | {OURS[1]: "four"}, "JALIGN_NUM_PROCESSES='four' is no number"),
        (OURS_SET | {OURS[2]: "4"}, "process 4 of 4"),
        (OURS_SET | {OURS[0]: "node1"}, "must be HOST:PORT"),
        (OURS_SET | {OURS[0]: "node1:99999"}, "must be HOST:PORT"),
        (SLURM | {"SLURM_JOB_ID": "47.11"}, "the variables of Slurm do not say"),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "all"}, "must be numbers such as"),
    ],
)
@pytest.mark.filterwarnings("ignore:Kubernetes environment")
def test_what_is_missing_or_wrong_is_said(place_in, environ, said):
    with pytest.raises(ConfigError) as error:
        place_in(environ)
    assert said in str(error.value)


def test_every_scheduler_has_a_name():
    assert set(SCHEDULERS.values()) == {"Slurm", "Open MPI", "TPU on GKE", "Kubernetes"}
