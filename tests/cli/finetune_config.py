"""A tiny run for tests that start `jalign finetune`: `:FOLDER` holds its model and files."""

from __future__ import annotations

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tiny_tasks import finetune_entries  # noqa: E402


def get_config(base: str):
    """Return the config of a run on the files of `base`."""
    return ConfigDict(finetune_entries(Path(base), log_every=6, checkpoint_every=6))
