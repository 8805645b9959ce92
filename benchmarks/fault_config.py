"""The run that benchmarks/faults.py disturbs: a tiny encoder, pairs, one objective."""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config(data: str) -> ConfigDict:
    """Return the config of a run on the prepared dataset `data`."""
    return ConfigDict(
        dict(
            name="faults",
            data=data,
            steps=100,
            seed=3,
            log_every=1,
            checkpoint_every=25,
            keep=3,
            encoder=dict(hidden=16, layers=1, heads=2, mlp=32, max_positions=66),
            streams=dict(pair=dict(layout="joint", rows=8, row_length=64)),
            objectives=dict(tlm=dict()),
            optimizer=dict(lr=3e-3, warmup_steps=2, clip_norm=1.0),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            evaluate=dict(every=0, tasks=dict(heldout=dict())),
            divergence=dict(factor=1.5, window=50, rollbacks=0),
            hang_s=600.0,
        ),
        convert_dict=True,
    )
