"""Adjust multilingual BERT to parallel text: linked words move together, English stays in place.

COMMAND  jalign prepare --tokenizer=MODEL --output=DATA --corpus=tsv,en,es,pairs.en-es.tsv
         jalign lexicon --data=DATA --output=DATA/lexicons
         jalign pretrain --config=configs/adjust.py --config.init=MODEL --config.data=DATA
           --config.streams.pair.lexicons=DATA/lexicons --workdir=DIR
         MODEL is a Hugging Face folder, what `jalign import` wrote, or a workdir. In place of a
         lexicon, links of any aligner: config.streams.pair.links=FOLDER with SOURCE.links, a
         Pharaoh line per pair (and config.streams.pair.lexicons=''), as `jalign links` writes them,
         from a model or from both directions of the lexicons. `:small` adjusts the encoder of
         launch/quickstart.sh to its own pairs, on two CPU cores.
TIME     not run at full size by us. `:small`: 1 epoch is 0.9 M tokens in 462 steps
RESULT   not claimed at full size. `:small`, from the encoder of configs/quickstart.py:mlm_tlm,
         XL-WA en-es, en-ru, en-it, en-bg (dev): distance to the translation 8.78 to 3.51, AUC
         (cosine) 0.678 to 0.779, word retrieval (CSLS) 6.0 % to 8.9 %; after it, half an epoch of
         English POS gives F1 (mean of three seeds) de 40.2, es 55.3, ru 35.3, zh 20.3, without it
         31.2, 36.7, 21.1, 13.0 (commit 820dddd; launch/adjust_study.sh)
SOURCE   Efimov et al. 2022 and their code: 250,000 pairs of one language, 1 epoch, 32 pairs a step,
         Adam (0.9, 0.98), eps 1e-9, warm-up over the first 10 % to 5e-5, then constant; words of
         more than one link, links of equal words, and pairs of more than 64 words left out; means
         of pieces; special tokens paired; drift of the English side, weight 1.
         Differs: pairs are packed, so a step's 8 rows of 256 hold about 34; the links are those
         of `jalign lexicon` with a probability of at least one half in both directions together,
         in place of the intersection of fast_align's two; a step's gradient is the mean, not the
         sum of the means of eight groups, which Adam cannot tell apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    encoder = recipes.choices(head=False, dropout=0.1, attention_dropout=0.1)
    if small:
        encoder |= dict(attention_dropout=0.0, dtype="float32", unroll=0)
    data = "data/quickstart" if small else "data/adjust"
    evaluate = dict(every=0, at_start=False, best="", tasks={})
    if small:
        evaluate = recipes.heldout_and_retrieval(every=200, few=True) | dict(best="")
    return recipes.run(
        name="adjust",
        data=data,
        init="runs/quickstart" if small else "models/bert-base-multilingual-cased",
        epochs=1.0,
        encoder=encoder,
        streams=dict(pair=recipes.separate(8, 256, lexicons=f"{data}/lexicons")),
        objectives=dict(adjust=recipes.adjust(align=1.0, drift=1.0)),
        optimizer=recipes.adamw(
            lr=1e-3 if small else 5e-5,
            warmup_steps=0,
            warmup_share=0.1,
            schedule="constant",
            eps=1e-9,
            decay=((r".*", 0.0),),
        ),
        log_every=50 if small else 100,
        checkpoint_every=500,
        keep=1,
        evaluate=evaluate,
    )
