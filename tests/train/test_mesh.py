"""Which rows of a batch a process reads and counts, where neighbours are not neighbours."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from jalign.train.mesh import (
    MeshConfig,
    counted_rows,
    local_rows,
    make_mesh,
    num_batch_shards,
    put_batch,
)
from tests.train import held_rows

V5E, V5P, GPU = "TPU v5 lite", "TPU v5p", "NVIDIA H100"


@dataclass(frozen=True)
class Chip:
    """What JAX's arrangement of a mesh asks of a device."""

    id: int
    coords: tuple[int, ...]
    process_index: int
    device_kind: str
    platform: str
    core_on_chip: int = 0
    slice_index: int = 0


def chips(kind, *shape):
    """Lay out chips as TPU pods have them, 2 x 2 to a host; one GPU to a process."""
    hosts, found = {}, []
    for z, y, x in itertools.product(*map(range, reversed(shape))):
        at = (x, y, z) if kind == GPU else (x // 2, y // 2, z)
        host = hosts.setdefault(at, len(hosts))
        platform = "gpu" if kind == GPU else "tpu"
        found.append(Chip(len(found), (x, y, z), host, kind, platform))
    return found


# The shards of process 0 on the TPUs are those of the real pods' arrangement.
@pytest.mark.parametrize(
    "kind, shape, axes, shards",
    [
        (V5E, (16, 16, 1), {}, [0, 1, 16, 17]),
        (V5E, (4, 4, 1), {}, [0, 1, 6, 15]),
        (V5E, (4, 4, 1), {"fsdp": 4, "tensor": 4}, [0, 1]),
        (V5P, (4, 4, 4), {}, [0, 4, 16, 20]),
        (GPU, (8, 1, 1), {"tensor": 2}, [0]),
        (GPU, (8, 1, 1), {"tensor": 8}, [0]),
        (V5E, (2, 2, 1), {"tensor": 2}, [0, 1]),
    ],
)
def test_a_process_reads_the_rows_it_holds_and_all_together_count_each_once(
    kind, shape, axes, shards
):
    devices = chips(kind, *shape)
    mesh = make_mesh(MeshConfig(**axes), devices)
    num, size = num_batch_shards(mesh), 3
    holders = mesh.devices.reshape(num, -1)
    count = np.zeros(num * size, int)
    for process in {d.process_index for d in devices}:
        here = [d for d in devices if d.process_index == process]
        held = [n for n in range(num) if any(d in here for d in holders[n])]
        assert process or held == shards
        ranges = local_rows(mesh, num * size, here)
        read = [row for begin, end in ranges for row in range(begin, end)]
        assert read == [n * size + r for n in held for r in range(size)]
        assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(ranges))
        count[read] += counted_rows(mesh, num * size, here)
    assert (count == 1).all()


def test_one_process_reads_one_range():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert local_rows(mesh, 8) == ((0, 8),) and counted_rows(mesh, 8).all()
    batch = {"ids": np.arange(8 * 3).reshape(8, 3)}
    np.testing.assert_array_equal(put_batch(batch, mesh, 8)["ids"], batch["ids"])


def test_two_processes_put_and_count_the_batch_of_one():
    """Each process checks the shards that it holds; here their counts are added up."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.held_rows", port, str(i)],
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    total = np.zeros((len(held_rows.ORDERS), 3), int)
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-3000:]
        total += np.array([[int(n) for n in line.split()] for line in out.splitlines()])
    assert total[:, 0].tolist() == [held_rows.tokens()] * len(held_rows.ORDERS)
    assert total[:, 1].tolist() == [held_rows.ROWS] * len(held_rows.ORDERS)
    assert total[:, 2].tolist() == [8, 8, 16]  # read: twice only where both hold them


def test_every_row_is_counted_by_the_first_of_its_copies():
    """As JAX numbers copies, so that a reader of shards finds the same."""
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    field = put_batch({"x": np.arange(8)}, mesh, 8)["x"]
    for shard in field.addressable_shards:
        counted = counted_rows(mesh, 8, [shard.device])
        assert (counted == (shard.replica_id == 0)).all() and counted.size == shard.data.size
    assert len(jax.devices()) == 8
