"""Continue mmBERT (or ModernBERT) on your own text and pairs, MLM + TLM, at a falling masking rate.

COMMAND  jalign prepare --tokenizer=MODEL --output=DATA --corpus=...
         jalign pretrain --config=configs/continue_modernbert.py --config.init=MODEL
           --config.data=DATA --workdir=DIR
         MODEL is a folder of yours: a Hugging Face one of type modernbert, what `jalign import`
         wrote, or a workdir. `:small` needs none: a small encoder of this family, from random
         parameters, on two CPU cores.
         With other --config.steps, move the stairs of both objectives too, for example
         --config.objectives.mlm.rate.boundaries="(740,963)", or the rate never falls.
TIME     not run at full size by us; `:small`: 4:33 on two CPU cores that other jobs shared
RESULT   none claimed
SOURCE   mmBERT (Marone et al. 2025): masking rates 0.30, 0.15, 0.05 (its released configs begin at
         0.25) for 2,000 / 600 / 100 billion tokens, here the same shares of the steps; Adam (0.9,
         0.95), decay 8e-5, rows of 1,024, no dropout.
         Differs: mmBERT trains from scratch, at 4,608 rows a step and lr 8e-4, constant until its
         last phase, with StableAdamW. To continue it: 512 rows, lr 2e-4, linear decay, AdamW
         clipped at 1.0; our choice, not tuned.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores and needs no pretrained model."""
    small = recipes.is_small(arg, __file__)
    steps = 200 if small else 20_000
    rows, length = (8, 128) if small else (512, 1024)
    shape = recipes.small(base=recipes.mmbert_base(), local_attention=32)
    boundaries = (steps * 20 // 27, steps * 26 // 27)
    rate = dict(values=(0.30, 0.15, 0.05), boundaries=boundaries)
    return recipes.run(
        name="continue_modernbert",
        data="data/quickstart",
        init="" if small else "models/mmBERT-base",
        steps=steps,
        encoder=shape if small else recipes.choices(),
        streams=dict(
            mono=recipes.mono(rows=rows, row_length=length, alpha=0.3),
            pair=recipes.pair(rows=rows, row_length=length, alpha=0.7),
        ),
        objectives=dict(mlm=dict(weight=1.0, rate=rate), tlm=dict(weight=1.0, rate=rate)),
        optimizer=recipes.adamw(
            lr=2e-4,
            warmup_steps=20 if small else 1_000,
            b2=0.95,
            decay=((r"bias$|norm/scale$", 0.0), (r".*", 8e-5)),
        ),
        log_every=20 if small else 100,
        checkpoint_every=100 if small else 2_000,
        evaluate=recipes.heldout_and_retrieval(every=100 if small else 5_000),
    )
