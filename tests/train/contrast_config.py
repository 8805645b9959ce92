"""A tiny run of every objective that contrasts a whole batch, for tests here and in processes."""

from __future__ import annotations

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tiny import run_entries  # noqa: E402


def entries(data: Path) -> dict:
    """Return the entries of the run's config."""
    streams = dict(
        mono=dict(layout="single", rows=16, row_length=32),
        pair=dict(layout="separate", rows=16, row_length=64, max_unit=32, swap=True),
    )
    objectives = dict(
        mlm=dict(),
        labse=dict(pool="mean", tau=0.1, candidates="union", mask_duplicates=True, learn_tau=True),
        # a flat softmax: where one key takes all, gradients are differences of equal numbers
        infoxlm=dict(layer=1, queue=128, momentum=0.5, tau=4.0),
        dap=dict(weight=dict(ranking=1.0, translation=0.1), room=1.0, layers=1, pool="mean"),
    )
    made = run_entries(
        data,
        streams=streams,
        objectives=objectives,
        log_every=1,
        optimizer=dict(lr=1e-3, warmup_steps=0, schedule="constant", clip_norm=0.0),
    )
    made["encoder"]["init_std"] = 0.5  # else all sentences are alike, and gradients are rounding
    return made


def get_config(data: str):
    """Return the config of a run on the prepared dataset `data`."""
    mesh = dict(data=-1, fsdp=1, tensor=1)
    return ConfigDict(entries(Path(data)) | dict(mesh=mesh, accumulate=2))
