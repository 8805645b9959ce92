"""Pre-train on two languages with MLM, XLM (MLM + TLM), DICT-MLM or ALIGN-MLM.

COMMAND  jalign synthetic --transformation=trans+inv --output=data/align_mlm/trans+inv
           --vocab_size=40000 --text=wiki=wiki.en.txt
         jalign prepare --output=data/align_mlm/trans+inv/prepared --on-error=quarantine
           --tokenizer=data/align_mlm/trans+inv/tokenizer --corpus=moses,en,en-x-trans-inv,
           data/align_mlm/trans+inv/text/wiki.en.txt,data/align_mlm/trans+inv/text/wiki.en-x-trans-inv.txt
         jalign pretrain --config=configs/align_mlm.py:align_mlm,trans+inv --workdir=runs/align_mlm
         The objective is mlm, xlm, dict_mlm or align_mlm. `,small` is a cell of the study
         (launch/align_mlm_study.sh), for two CPU cores. The second argument names a folder of
         data/align_mlm; it may hold two real languages, with the dictionary.npz of `jalign
         dictionary` (launch/align_mlm_real.sh). `,data=DIR` names another in place of
         data/align_mlm.
TIME     not measured at full size. `,small`: 5.1 M tokens, 11 to 13 minutes, two at a time on two
         CPU cores that other work shared
RESULT   none at full size. `,small`, then fine-tuned on parts of speech by the study: zero-shot F1
         on trans+inv, mean ± standard deviation of seeds 0, 1, 2: MLM 21.0 ± 4.6, XLM 18.8 ± 2.9,
         ALIGN-MLM 55.8 ± 2.6; DICT-MLM 31.9 (seed 0) (commit 0438113; the grid is in
         benchmarks/results/align_mlm_study.md)
SOURCE   Tang et al. 2022 and their code (methods: 8 layers of 512, 128 sequences of 512 a step,
         500,000 steps, Adam, lr 1e-4, warm-up 10,000, w = 10, TLM on a quarter of the pairs,
         language embeddings for XLM and DICT-MLM). Differs: one packer for all four; random ids
         come from the token's own half of the vocabulary (`half`, theirs is "first"). In the
         small cells no objective has language embeddings, which fine-tuning would not know, and
         30 % of the tokens are predicted: the text is read eight times, not for days.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

OBJECTIVES = ("mlm", "xlm", "dict_mlm", "align_mlm")


def get_config(arg: str = "align_mlm,trans+inv"):
    """Return the config of an objective and the language that a folder of `data` holds."""
    objective, *rest = (arg or "align_mlm,trans+inv").split(",")
    if objective == "small":  # as every config has it
        objective, rest = "align_mlm", ["trans+inv", "small"]
    small, root, names = "small" in rest, "data/align_mlm", []
    for part in rest:
        root = part.removeprefix("data=") if part.startswith("data=") else root
        names += [part] if part != "small" and not part.startswith("data=") else []
    if objective not in OBJECTIVES or len(names) > 1:
        raise ValueError(
            "configs/align_mlm.py takes :OBJECTIVE,TRANSFORMATION[,small][,data=DIR], the first "
            f"one of {', '.join(OBJECTIVES)}; got {arg!r}"
        )
    folder = f"{root}/{names[0] if names else 'trans+inv'}"
    dictionary = f"{folder}/dictionary.npz"
    rows, length, steps = (16, 128, 2500) if small else (128, 512, 500_000)
    named = not small and objective in ("xlm", "dict_mlm")
    masking = dict(
        rate=0.3 if small else 0.15,
        half="own" if "trans" in (names or ["trans"])[0] else "all",
        language_embeddings=named,
    )
    pair_rows = {"xlm": rows // 5}.get(objective, 0)  # a quarter of the pairs: a fifth of all rows
    streams = dict(mono=recipes.mono(rows - pair_rows, length, alpha=1.0))
    losses = dict(mlm=dict(weight=1.0, **masking))
    if objective == "xlm":
        streams["pair"] = recipes.separate(pair_rows, length, alpha=1.0)
        losses["tlm"] = dict(weight=1.0, form="halves", **masking)
    elif objective == "dict_mlm":
        losses = dict(dict_mlm=dict(weight=1.0, form="code", change=0.5, **masking))
        losses["dict_mlm"]["dictionary"] = dictionary
    elif objective == "align_mlm":
        losses["align_mlm"] = dict(
            weight=10.0, distance="cosine", subset_per_step=0, dictionary=dictionary
        )
    usual = dict(b1=0.9, b2=0.999, eps=1e-8, decay=((r".*", 0.0),))
    task = dict(dictionary=dictionary, scorings=("cosine", "csls"), languages=())
    task["languages"] = (0, 1) if named else ()
    return recipes.run(
        name=f"{objective} {names[0] if names else 'trans+inv'}",
        data=f"{folder}/prepared",
        steps=steps,
        norm="global_count" if objective == "xlm" else "per_loss_mean",
        encoder=_encoder(small, named),
        streams=streams,
        objectives=losses,
        optimizer=recipes.adamw(
            lr=2e-3 if small else 1e-4, warmup_steps=50 if small else 10_000, **usual
        ),
        count_rows=256 if small else 0,
        log_every=50,
        checkpoint_every=500 if small else 10_000,
        keep=1,
        evaluate=dict(
            every=steps // 4,
            at_start=False,
            best="",
            tasks=dict(heldout=dict(max_batches=16), embedding_alignment=task),
        ),
    )


def _encoder(small: bool, named: bool) -> dict:
    types = dict(type_vocab_size=2 if named else 1)
    if small:
        return recipes.small(hidden=128, layers=2, heads=4, init_std=0.04) | types
    shape = dict(hidden=512, layers=8, heads=8, mlp=2048, max_positions=514)
    return recipes.xlmr_base() | shape | types
