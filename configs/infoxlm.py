"""Train InfoXLM: MLM, TLM, and XLCo, the contrast of sentences with a momentum encoder's keys.

COMMAND  jalign pretrain --config=configs/infoxlm.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is XLM-R base (`jalign import`, or a Hugging Face folder), DATA prepared with its
         tokenizer. A batch that does not fit: --config.accumulate=N, which changes no loss.
         `:small` trains the encoder of launch/quickstart.sh from scratch on its data, on two CPU
         cores: --config=configs/infoxlm.py:small
TIME     not run at full size by us. `:small` in launch/contrast_study.sh: 12 minutes, two at a time
         on two CPU cores
RESULT   none claimed at full size. `:small`, by launch/contrast_study.sh (commit 88d36e5, seed 0):
         held-out retrieval 11.0 % of 200, AER 65.0, zero-shot POS 18.1 (MLM + TLM 8.8, 64.1, 15.0).
         The table is in benchmarks/results/contrast_study.md
SOURCE   Chi et al. 2021 and their released code and command: from XLM-R, 150,000 steps of 2,048
         texts, pairs and joined pairs, Adam (0.9, 0.98), eps 1e-6, decay 0.01, lr 2e-4, warm-up
         10,000, no dropout, one normaliser over all losses; XLCo: layer 8, temperature 0.25, queue
         of 131,072, momentum 0.9999. Differs: rows hold many texts, so there are fewer rows than
         2,048; pairs of more than 256 pieces a side are left out (joined ones must fit 512).
         `:small` has the last layer, a queue of 4,096 and a momentum of 0.99, for 1,500 steps of
         about 80 pairs: with 0.9999 the slow copy would hardly move in them. It compares by cosine
         at temperature 0.05: from random weights dot products are won by growing norms.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    xlco = dict(
        weight=1.0,
        stream="separate",
        layer=8,
        similarity="dot",
        tau=0.25,
        queue=131_072,
        momentum=0.9999,
        mixup=True,
        directions="both",
        projection=True,
        rate=0.15,
        max_pairs=0,
    )
    if small:
        xlco |= dict(layer=2, similarity="cosine", tau=0.05, queue=4096, momentum=0.99)
        return recipes.run(name="infoxlm", **recipes.beside_mlm_and_tlm(infoxlm=xlco))
    return recipes.run(
        name="infoxlm",
        data="data/infoxlm",
        init="models/xlm-roberta-base",
        steps=150_000,
        norm="global_count",
        encoder=recipes.choices(),
        streams=dict(
            mono=recipes.mono(rows=1024, row_length=512),
            pair=recipes.pair(rows=512, row_length=512),
            separate=recipes.separate(rows=512, row_length=512, max_unit=256),
        ),
        objectives=dict(mlm=dict(weight=1.0), tlm=dict(weight=1.0), infoxlm=xlco),
        optimizer=recipes.adamw(lr=2e-4, warmup_steps=10_000),
        log_every=100,
        checkpoint_every=2_000,
        evaluate=recipes.heldout_and_retrieval(every=10_000),
    )
