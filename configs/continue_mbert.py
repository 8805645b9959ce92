"""Continue multilingual BERT on your own text and pairs, MLM + TLM, from its published weights.

COMMAND  jalign prepare --tokenizer=MODEL --output=DATA --corpus=...
         jalign pretrain --config=configs/continue_mbert.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is a folder of yours: a Hugging Face one of type bert (mBERT, LaBSE), what
         `jalign import` wrote, or a workdir. `:small` needs none: a small encoder of this family,
         from random parameters, on two CPU cores.
TIME     not run at full size by us; `:small`: 10:02 on two CPU cores that other jobs shared
RESULT   none claimed
SOURCE   BERT (Devlin et al. 2019, appendix A.2): Adam (0.9, 0.999), decay 0.01, lr 1e-4, warm-up
         10,000, linear decay, dropout 0.1, 256 rows of 512; its released multilingual model
         sampled languages with alpha 0.7. TLM on pairs [CLS] src [SEP] trg [SEP]: Conneau & Lample
         2019. The number of steps is our choice; none of this is tuned by us.
         Differs: no next-sentence prediction; every token has type 0, the second side too.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores and needs no pretrained model."""
    small = recipes.is_small(arg, __file__)
    rows, length = (8, 128) if small else (256, 512)
    shape = recipes.small(base=recipes.mbert_base())
    return recipes.run(
        name="continue_mbert",
        data="data/quickstart",
        init="" if small else "models/bert-base-multilingual-cased",
        steps=200 if small else 100_000,
        encoder=shape if small else recipes.choices(dropout=0.1, attention_dropout=0.1),
        streams=dict(
            mono=recipes.mono(rows=rows, row_length=length, alpha=0.7),
            pair=recipes.pair(rows=rows, row_length=length, alpha=0.7),
        ),
        objectives=dict(mlm=dict(weight=1.0, rate=0.15), tlm=dict(weight=1.0, rate=0.15)),
        optimizer=recipes.adamw(lr=1e-4, warmup_steps=20 if small else 10_000, b2=0.999),
        log_every=20 if small else 100,
        checkpoint_every=100 if small else 2_000,
        evaluate=recipes.heldout_and_retrieval(every=100 if small else 10_000),
    )
