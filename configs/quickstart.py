"""Pre-train a small multilingual encoder on two CPU cores, in minutes: MLM + TLM on eleven
languages.

COMMAND  bash launch/quickstart.sh
TIME     to be measured
RESULT   to be measured
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` is this config, which fits two CPU cores already."""
    if arg not in ("", "small"):
        raise ValueError(f"configs/quickstart.py takes no argument but :small; got {arg!r}")
    return recipes.run(
        name="quickstart",
        data="data/quickstart",
        steps=600,
        encoder=recipes.small(hidden=256, layers=4),
        streams=dict(
            mono=recipes.mono(rows=8, row_length=256, alpha=0.7),
            pair=recipes.pair(rows=24, row_length=256, alpha=0.7, swap=True),
        ),
        objectives=dict(mlm=dict(weight=1.0), tlm=dict(weight=1.0)),
        optimizer=recipes.adamw(lr=1e-3, warmup_steps=60),
        log_every=20,
        checkpoint_every=200,
        evaluate=dict(
            every=200,
            at_start=True,
            best="retrieval/accuracy/avg",
            tasks=dict(heldout=dict(), retrieval=dict(candidates=200)),
        ),
    )
