"""Train AMBER: MLM, TLM, and two alignment losses, of words (attention) and of sentences.

COMMAND  jalign prepare --tokenizer=MBERT --output=DATA --corpus=...
         jalign pretrain --config=configs/amber.py:stage1 --config.data=DATA --workdir=STAGE1
         jalign pretrain --config=configs/amber.py --config.data=DATA --config.init=STAGE1
           --workdir=DIR
         MBERT is multilingual BERT's tokenizer. Stage 1 is MLM alone; a published mBERT
         (--config.init=models/bert-base-multilingual-cased) can stand for it. Ablations of stage 2:
         `:base` (MLM and TLM), `:wa` (and words), `:sa` (and sentences). The batch of the sentences
         is a choice: --config.streams.separate.rows=R, --config.accumulate=N for memory.
         `:small`, `:small,base`, `:small,wa`, `:small,sa` train from scratch on the quickstart's
         data, on two CPU cores; words and sentences begin to count after 500 of 1,500 steps, so
         that both stages are in one run.
TIME     not run at full size by us. `:small` in launch/contrast_study.sh: 14 minutes, two at a time
         on two CPU cores
RESULT   none claimed at full size; the authors report, averaged over XTREME's POS, PAWS-X, XNLI and
         Tatoeba, 69.3 with MLM, 74.3 with TLM, 75.1 with words, 79.8 with words and sentences.
         `:small`, by launch/contrast_study.sh (commits b74afd7 and 88d36e5, seed 0), held-out
         retrieval of 200, AER, zero-shot POS: MLM + TLM 8.8 %, 64.1, 15.0; and words 7.5, 76.4,
         17.4; and sentences 58.3, 61.8, 21.7; and both 58.4, 61.1, 22.4. The table is in
         benchmarks/results/contrast_study.md
SOURCE   Hu et al. 2021: mBERT's shape and words, 1 M steps of each stage, batch 8,192, lr 1e-4,
         warm-up 10,000, at most 512 pieces, all losses weighted alike. The paper's code is not
         public any more; the results above, the schedule, the batch and raw dot products between
         sentences are recalled from the paper, not checked. Differs: the batch of stage 2 is half
         single texts and half pairs, which are packed, so 512 rows of 512 hold about 4,000 of them.
         `:small` divides the products of sentences by the root of the size (`scaled_dot`).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

LOSSES = {"": ("wa", "sa"), "base": (), "wa": ("wa",), "sa": ("sa",)}
CHOICES = ("", "stage1", *list(LOSSES)[1:], "small", *(f"small,{x}" for x in list(LOSSES)[1:]))


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    if arg not in CHOICES:
        raise ValueError(f"configs/amber.py takes {', '.join(filter(None, CHOICES))}; got {arg!r}")
    if arg == "stage1":
        return _full("amber_stage1", "", recipes.mbert_base(), 8192, {}, dict(mlm=dict(weight=1.0)))
    losses = LOSSES[arg.removeprefix("small").lstrip(",")]
    return _small(losses) if arg.startswith("small") else _stage2(losses)


def _amber(losses: tuple[str, ...], weight: object, **changes) -> dict:
    """Objectives beside MLM and TLM: none, or `amber` with these losses."""
    if not losses:
        return {}
    entries = recipes.sentences(
        tau=1.0, similarity="dot", pool="mean", candidates="union", reduction="sum"
    )
    entries |= dict(
        losses=losses,
        stream="pair",
        sentences="separate",
        include_self=False,
        renormalize=False,
        weight={loss: weight for loss in losses},
    )
    return dict(amber=entries | changes)


def _small(losses: tuple[str, ...]):
    later = dict(values=(0.0, 1.0), boundaries=(500,))
    objectives = _amber(losses, later, similarity="scaled_dot")
    entries = recipes.beside_mlm_and_tlm(**objectives)
    if "sa" not in losses:
        del entries["streams"]["separate"]
    return recipes.run(name="amber", **entries)


def _stage2(losses: tuple[str, ...]):
    streams = dict(pair=recipes.pair(rows=512, row_length=512))
    if "sa" in losses:
        streams["separate"] = recipes.separate(rows=512, row_length=512)
    objectives = dict(mlm=dict(weight=1.0), tlm=dict(weight=1.0))
    objectives |= _amber(losses, 1.0, max_pairs=24)
    encoder = recipes.choices(dropout=0.1, attention_dropout=0.1)
    return _full("amber", "runs/amber_stage1", encoder, 4096, streams, objectives)


def _full(name: str, init: str, encoder: dict, rows: int, streams: dict, objectives: dict):
    return recipes.run(
        name=name,
        data="data/amber",
        init=init,
        steps=1_000_000,
        encoder=encoder,
        streams=dict(mono=recipes.mono(rows=rows, row_length=512, alpha=0.7)) | streams,
        objectives=objectives,
        optimizer=recipes.adamw(lr=1e-4, warmup_steps=10_000),
        log_every=100,
        checkpoint_every=5_000,
        evaluate=recipes.heldout_and_retrieval(every=20_000),
    )
