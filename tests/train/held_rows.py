"""One of two processes that read a batch by the rows they hold: `held_rows PORT PROCESS`.

Says for each order of the devices: tokens and rows counted, rows read.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import Mesh

from jalign.data.pipeline import BatchSource, real_tokens
from jalign.data.rows import Layout, Part, RowSource, Specials
from jalign.train.mesh import AXES, counted_rows, local_rows, put_batch
from tests.data.test_rows import random_side

ROWS, STEP = 8, 3
# name: devices of process 0 are 0 to 3; shape of the mesh
ORDERS = {
    "in order": ([0, 1, 2, 3, 4, 5, 6, 7], (1, 8, 1, 1)),
    "interleaved": ([0, 1, 4, 5, 2, 6, 7, 3], (1, 8, 1, 1)),
    "tensor across": ([0, 4, 1, 5, 6, 2, 7, 3], (1, 2, 2, 2)),
}


def streams():
    """Return one stream."""
    pair = Part("pair/en-de", (random_side(0), random_side(1)), (0, 1))
    layout, specials = Layout("joint", 128, 128), Specials(1, 2, 0)
    return {"pair": RowSource([pair], layout, specials, seed=5)}


def whole():
    """Return a step's batch as one process reads it."""
    return BatchSource(streams(), {"pair": ROWS})[STEP]


def tokens():
    """Count the tokens of that batch."""
    return real_tokens(whole())


def main(port, process):
    """Read, place and count one step on each mesh; what this process holds is checked here."""
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    by_id = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    for order, shape in ORDERS.values():
        mesh = Mesh(np.array([by_id[i] for i in order]).reshape(shape), AXES)
        local = local_rows(mesh, ROWS)
        batch = BatchSource(streams(), {"pair": ROWS}, {"pair": local})[STEP]["pair"]
        for name, field in put_batch(batch, mesh, ROWS, local).items():
            for shard in field.addressable_shards:
                np.testing.assert_array_equal(shard.data, whole()["pair"][name][shard.index])
        at = counted_rows(mesh, ROWS)
        mine = {"pair": {name: values[at] for name, values in batch.items()}}
        print(real_tokens(mine), at.sum(), batch["ids"].shape[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
