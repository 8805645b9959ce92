"""Pre-train XLM-R base with MLM + TLM on your own prepared text.

COMMAND  jalign pretrain --config=configs/xlmr_base.py --config.data=DATA --workdir=DIR
         (`:small`, the same recipe on two CPU cores: --config=configs/xlmr_base.py:small)
TIME     not run at full size by us; its step compiles for 16 v5e chips (tests, marked slow)
RESULT   none claimed; the published XLM-R base is a reference for the recipe, not our number
SOURCE   shape, masking: Conneau et al. 2020 (XLM-R), table 1, section 4; languages with alpha 0.3.
         Optimiser: RoBERTa and XLM-R in fairseq: Adam (0.9, 0.98), eps 1e-6, decay 0.01, clip 1.0,
         linear decay. TLM: InfoXLM's MLM + TLM (lr 2e-4, warm-up 10,000, batches of 2,048 of each):
         here 2,048 rows of 512, and a row holds as many pairs as fit.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    rows, length = (8, 128) if small else (2048, 512)
    return recipes.run(
        name="xlmr_base",
        data="data/quickstart",
        steps=200 if small else 200_000,
        encoder=recipes.small() if small else recipes.xlmr_base(),
        streams=dict(
            mono=recipes.mono(rows=rows, row_length=length, alpha=0.3),
            pair=recipes.pair(rows=rows, row_length=length, alpha=0.7),
        ),
        objectives=dict(mlm=dict(weight=1.0), tlm=dict(weight=1.0)),
        optimizer=recipes.adamw(lr=2e-4, warmup_steps=20 if small else 10_000),
        log_every=20 if small else 100,
        checkpoint_every=100 if small else 2_000,
        evaluate=recipes.heldout_and_retrieval(every=100 if small else 10_000),
    )
