"""Compile the real XLM-R base step for TPUs that are not here; slow, needs `pip install libtpu`."""

from __future__ import annotations

import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jalign import config
from jalign.train import mesh as mesh_lib
from jalign.train.run import RunConfig, make_run
from tests.tiny import write_tiny_dataset

V5E_GIB = 16


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_the_xlmr_base_step_fits_sixteen_v5e_chips(tmp_path, monkeypatch, remat, capsys):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu: pip install libtpu")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "configs")
    sys.modules.pop("xlmr_base", None)
    import xlmr_base

    entries = xlmr_base.get_config().to_dict()
    entries["data"] = str(write_tiny_dataset(tmp_path / "data"))
    shape = dict(vocab_size=250_002, attention="splash", attention_dropout=0.0, remat=remat)
    entries["encoder"].update(shape)
    entries["mesh"] = dict(data=4, fsdp=4, tensor=1)
    for stream in entries["streams"].values():
        stream["rows"] = 256
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    run = make_run(config.build(RunConfig, entries), topology.devices)
    sharding = mesh_lib.batch_sharding(run.mesh)

    def field(name):
        size = (256,) if name == "row" else (256, 512)
        return jax.ShapeDtypeStruct(size, np.int32, sharding=sharding)

    batches = {n: {f: field(f) for f in s.fields} for n, s in run.source.streams.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mesh_lib.replicated(run.mesh))
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(mesh_lib.RULES):
        memory = run.step.lower(run.abstract, batches, key).compile().memory_analysis()
    needed = {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    with capsys.disabled():
        gib = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in needed.items())
        sys.stdout.write(f"\nXLM-R base on v5e:4x4, 2 x 256 rows of 512, remat={remat}: {gib}\n")
    assert sum(needed.values()) < V5E_GIB * 2**30
