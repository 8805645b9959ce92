"""Train a sentence encoder by ranking translations with an additive margin: LaBSE's dual encoder.

COMMAND  jalign pretrain --config=configs/labse.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is an encoder trained with MLM and TLM, DATA prepared with its tokenizer. The batch
         is a choice: --config.streams.separate.rows=R, and --config.accumulate=N for as many
         microbatches as memory asks for, which changes no loss.
         `:small` trains the encoder of launch/quickstart.sh from scratch on its data, beside MLM
         and TLM, on two CPU cores: --config=configs/labse.py:small
TIME     not run at full size by us. `:small` in launch/contrast_study.sh: 12 minutes, two at a time
         on two CPU cores
RESULT   none claimed at full size. `:small`, by launch/contrast_study.sh (commit 88d36e5, seed 0):
         held-out retrieval 37.9 % of 200, AER 65.7, zero-shot POS 22.7 (MLM + TLM 8.8, 64.1, 15.0).
         The table is in benchmarks/results/contrast_study.md
SOURCE   Feng et al. 2022: first state of the last layer, cosine, margin 0.3, both directions, texts
         of at most 64 pieces, 50,000 steps, AdamW, lr 1e-5. Their batch is 2,048 or 4,096 pairs by
         what one reads; 512 rows of 256 hold about 2,000 to 4,000. Differs: cosines are multiplied
         by 20 (tau 0.05), which the paper's equation does not say and implementations are said to
         do; warm-up is ours; their own first stage (500,000 words, MLM and TLM in 109 languages,
         progressive stacking) is the model that is given here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    ranking = recipes.sentences(tau=0.05, margin=0.3, reduction="sum", weight=1.0)
    if small:
        return recipes.run(name="labse", **recipes.beside_mlm_and_tlm(labse=ranking))
    return recipes.run(
        name="labse",
        data="data/labse",
        init="models/xlm-roberta-base",
        steps=50_000,
        encoder=recipes.choices(head=False, dropout=0.1),
        streams=dict(separate=recipes.separate(rows=512, row_length=256, max_unit=64)),
        objectives=dict(labse=ranking),
        optimizer=recipes.adamw(lr=1e-5, warmup_steps=1_000),
        log_every=100,
        checkpoint_every=2_000,
        evaluate=recipes.heldout_and_retrieval(every=5_000),
    )
