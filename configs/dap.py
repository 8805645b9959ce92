"""Train with dual alignment (DAP): rank translations, and write English from the states of others.

COMMAND  jalign pretrain --config=configs/dap.py --config.init=MODEL --config.data=DATA
           --workdir=DIR
         MODEL is multilingual BERT with its masked-LM head, DATA pairs of English with others.
         `:small` trains the encoder of launch/quickstart.sh from scratch on its data, beside MLM
         and TLM, on two CPU cores: --config=configs/dap.py:small
TIME     not run at full size by us. `:small` in launch/contrast_study.sh: 20 minutes, two at a time
         on two CPU cores
RESULT   none claimed at full size. `:small`, by launch/contrast_study.sh (commit 88d36e5, seed 0):
         held-out retrieval 40.3 % of 200, AER 60.2, zero-shot POS 22.0 (MLM + TLM 8.8, 64.1, 15.0).
         The table is in benchmarks/results/contrast_study.md
SOURCE   Li et al. 2023 and their released code and command: from multilingual BERT, 100,000 steps
         of 8 x 128 pairs of at most 32 pieces a side, lr 5e-5, linear, no warm-up, no decay,
         dropout 0.1; ranking: first state through a dense layer and tanh, cosine over 0.05, of the
         other language's sentences among the English ones ("backward": prepare English first);
         weight 0.1 for the translation of states by two layers. Differs: as the header of
         jalign/objectives/dap.py says; 256 rows of 256 hold about 1,024 pairs. `:small` ranks in
         both directions.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    dual = recipes.sentences(
        tau=0.05,
        directions="both" if small else "backward",
        weight=dict(ranking=1.0, translation=0.1),
        into="en",
        layers=2,
        room=0.6,
    )
    if small:
        return recipes.run(name="dap", **recipes.beside_mlm_and_tlm(dap=dual))
    return recipes.run(
        name="dap",
        data="data/dap",
        init="models/bert-base-multilingual-cased",
        steps=100_000,
        encoder=recipes.choices(dropout=0.1, attention_dropout=0.1),
        streams=dict(separate=recipes.separate(rows=256, row_length=256, max_unit=34)),
        objectives=dict(dap=dual),
        optimizer=recipes.finetuning_adamw(lr=5e-5),
        log_every=100,
        checkpoint_every=2_000,
        evaluate=recipes.heldout_and_retrieval(every=5_000),
    )
