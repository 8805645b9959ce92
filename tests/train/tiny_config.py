"""A tiny run for tests that start `jalign pretrain` as its own process."""

from __future__ import annotations

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tiny import run_entries  # noqa: E402


def get_config(data: str):
    """Return the config of a run on the prepared dataset `data`."""
    evaluate = dict(every=0, at_start=False, best="", tasks=dict(heldout=dict(max_batches=1)))
    mesh = dict(data=-1, fsdp=1, tensor=1)
    return ConfigDict(run_entries(Path(data), mesh=mesh, accumulate=1, evaluate=evaluate))
