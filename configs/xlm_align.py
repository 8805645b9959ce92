"""Continue XLM-R base with XLM-Align: MLM on single texts, TLM and the pointer on pairs.

COMMAND  jalign prepare --tokenizer=MODEL --output=DATA --corpus=...
         jalign pretrain --config=configs/xlm_align.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is XLM-R base: a Hugging Face folder, or what `jalign import` wrote. `:small` needs
         none: a small encoder from random parameters, on two CPU cores (for a cold start that
         works, see xlm_align_scratch.py).
TIME     not run at full size by us
RESULT   none claimed; the authors report AER 17.42 de-en, 6.71 en-fr, 26.50 ro-en (their layer 9)
SOURCE   Chi et al. 2021 and the released command: layer 10 of 12, Sinkhorn 2, itermax 2, alpha 0.9,
         pointer with projections, no dropout; Adam (0.9, 0.98), eps 1e-6, decay 0.01, clip 1.0, lr
         2e-4, linear decay, warm-up 10,000 of 200,000 updates; 2,048 rows of each stream, MLM rows
         of 512. All losses share one count, as in fairseq. Differs: pair rows are packed, so a
         batch holds more pairs than their 2,048.
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
        name="xlm_align",
        data="data/quickstart",
        init="" if small else "models/xlm-roberta-base",
        steps=200 if small else 200_000,
        norm="global_count",
        encoder=recipes.small() if small else recipes.choices(),
        streams=dict(
            mono=recipes.mono(rows=rows, row_length=length, alpha=0.7),
            pair=recipes.pair(rows=rows, row_length=length, alpha=0.7),
        ),
        objectives=dict(
            mlm=dict(weight=1.0),
            xlm_align=dict(weight=dict(tlm=1.0, pointer=1.0), layer=3 if small else 10),
        ),
        optimizer=recipes.adamw(lr=2e-4, warmup_steps=20 if small else 10_000),
        log_every=20 if small else 100,
        checkpoint_every=100 if small else 2_000,
        evaluate=recipes.heldout_and_retrieval(every=100 if small else 10_000),
    )
