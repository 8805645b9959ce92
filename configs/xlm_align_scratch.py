"""Learn word alignment from random weights with XLM-Align, its cold start warmed by a lexicon.

COMMAND  jalign prepare --output=data/hansards --vocab_size=8000 --heldout=0.005
           --on-error=quarantine --corpus=tsv,en,fr,hansards.en-fr.tsv.gz
         jalign lexicon --data=data/hansards --output=data/hansards/lexicons
         jalign pretrain --config=configs/xlm_align_scratch.py --workdir=runs/xlm_align_scratch
         (`:self`, the paper's self-labels alone; `:lexicon`, with the prior: the default)
TIME     not measured yet
RESULT   none claimed yet
SOURCE   losses, transport and filters: Chi et al. 2021 and their code (methods: E-step on an inner
         layer, Sinkhorn 2, itermax 2, alpha 0.9, pointer with projections). Differs: the authors
         start from XLM-R and report that from scratch the early self-labels are noise. Here a
         fast_align-like lexicon of the same text (`jalign lexicon`) gives the labels at first
         (`given` falls from 1 to 0) and multiplies the transport kernel (`prior` fades likewise).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` is this config, which fits two CPU cores already."""
    if arg not in ("", "small", "lexicon", "self"):
        raise ValueError(
            f"configs/xlm_align_scratch.py takes :lexicon (the default), :self; got {arg!r}"
        )
    steps, warm = 4000, arg != "self"
    labels = dict(
        prior=dict(begin=1.0, end=0.0, steps=steps * 3 // 4) if warm else 0.0,
        given=dict(begin=1.0, end=0.0, steps=steps // 2) if warm else 0.0,
    )
    lexicons = "data/hansards/lexicons" if warm else ""
    return recipes.run(
        name="xlm_align_scratch",
        data="data/hansards",
        steps=steps,
        encoder=recipes.small(hidden=256, layers=4, init_std=0.04),
        streams=dict(
            pair=recipes.pair(rows=16, row_length=256, max_unit=128, lexicons=lexicons),
        ),
        objectives=dict(
            xlm_align=dict(weight=dict(tlm=1.0, pointer=1.0), rate=0.3, layer=3, **labels)
        ),
        optimizer=recipes.adamw(lr=1e-3, warmup_steps=200),
        count_rows=512,
        log_every=50,
        checkpoint_every=500,
        evaluate=dict(every=1000, at_start=False, best="", tasks=dict(heldout=dict())),
    )
