"""Continue XLM-R on your own text and pairs, MLM + TLM, from its published weights.

COMMAND  jalign prepare --tokenizer=MODEL --output=DATA --corpus=...
         jalign pretrain --config=configs/continue_xlmr.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is a folder of yours: a Hugging Face one (xlm-roberta or roberta, any size), what
         `jalign import` wrote, or a workdir. `:small` needs none: a small encoder of this family,
         from random parameters, on two CPU cores.
TIME     not run at full size by us; `:small`: 5:51 on two CPU cores that other jobs shared
RESULT   none claimed
SOURCE   InfoXLM and XLM-Align (Chi et al. 2021), which continue XLM-R base: Adam (0.9, 0.98), eps
         1e-6, decay 0.01, clip 1.0, lr 2e-4, warm-up 10,000, linear decay, 150,000 steps, no
         dropout, 2,048 rows of 512 of each stream (a row of ours holds as many pairs as fit).
         Large models: lr 1e-4. Less data: fewer steps; none of this is tuned by us.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores and needs no pretrained model."""
    small = recipes.is_small(arg, __file__)
    rows, length = (8, 128) if small else (2048, 512)
    return recipes.run(
        name="continue_xlmr",
        data="data/quickstart",
        init="" if small else "models/xlm-roberta-base",
        steps=200 if small else 150_000,
        encoder=recipes.small() if small else recipes.choices(),
        streams=dict(
            mono=recipes.mono(rows=rows, row_length=length, alpha=0.3),
            pair=recipes.pair(rows=rows, row_length=length, alpha=0.7),
        ),
        objectives=dict(mlm=dict(weight=1.0, rate=0.15), tlm=dict(weight=1.0, rate=0.15)),
        optimizer=recipes.adamw(lr=2e-4, warmup_steps=20 if small else 10_000),
        log_every=20 if small else 100,
        checkpoint_every=100 if small else 2_000,
        evaluate=recipes.heldout_and_retrieval(every=100 if small else 10_000),
    )
