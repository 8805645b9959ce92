"""Fine-tune a cell of the ALIGN-MLM study on a tagging task, and score it on both languages.

COMMAND  bash launch/align_mlm_study.sh, which runs, for each cell of the grid and both source
         languages,
         jalign finetune --config=configs/align_mlm_study.py:pos,trans+inv --config.init=CELL
           --workdir=DIR
         The arguments: pos or ner, the transformation, and `derived` to train on the derived
         language (the supervised score); `,data=DIR` as in align_mlm.py.
TIME     3 epochs of EWT about a minute on two CPU cores; the grid of 12 cells 94 minutes, two cells
         at a time beside other work (145 minutes of CPU)
RESULT   benchmarks/results/align_mlm_study.md: rho of alignment and gap -0.62; English F1 78.6 to
         86.1 (seed 0, commit 0438113)
SOURCE   Tang et al. 2022: fine-tune on English, test on the derived language (zero-shot), or on
         both the derived one (supervised); F1 as seqeval has it, over runs of equal tags for POS.
         Differs: a far smaller encoder, so a larger learning rate; word embeddings are kept as they
         are (lr_scale), because only those of the source language would move, away from the others.
         At the authors' 2e-5 they hardly move. Test part, not development part.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jalign.data.tasks import LABELS

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

TASKS = {  # task -> folder of jalign synthetic, ending, format, labels
    "pos": ("conllu", "conllu", "conllu", LABELS["udpos"]),
    "ner": ("ner", "tsv", "ner", LABELS["panx"]),
}


def get_config(arg: str = "pos,trans+inv"):
    """Return the config of a task and a transformation; it is small already."""
    root, names, derived = "data/align_mlm", [], False
    for part in (arg or "pos,trans+inv").split(","):
        if part.startswith("data="):
            root = part.removeprefix("data=")
        elif part == "derived":
            derived = True
        elif part != "small":
            names.append(part)
    task, transformation = (names + ["pos", "trans+inv"][len(names) :])[:2]
    if task not in TASKS or len(names) > 2:
        raise ValueError(
            "configs/align_mlm_study.py takes :TASK,TRANSFORMATION[,derived][,data=DIR], the task "
            f"one of {', '.join(TASKS)}; got {arg!r}"
        )
    folder, ending, format, labels = TASKS[task]
    langs = ("en", "-".join(["en", "x", *transformation.split("+")]))

    def file(part: str, lang: str) -> str:
        return f"{lang}={root}/{transformation}/{folder}/{part}.{lang}.{ending}"

    source = langs[1] if derived else langs[0]
    stream = recipes.task(
        "single", rows=16, row_length=128, format=format, files=(file("train", source),),
        labels=labels,
    )  # fmt: skip
    tests = tuple(file("test", lang) for lang in (langs[1:] if derived else langs))
    encoder = recipes.choices(
        head=False, dropout=0.1, attention_dropout=0.0, dtype="float32", unroll=0
    )
    return recipes.run(
        name=f"{task} {transformation} from {source}",
        epochs=3.0,
        encoder=encoder,
        streams=dict(task=stream),
        objectives=dict(tag=dict(weight=1.0, dropout=0.1)),
        optimizer=recipes.finetuning_adamw(
            lr=1e-3, warmup_steps=20, lr_scale=((r"word_embeddings$", 0.0),)
        ),
        log_every=100,
        checkpoint_every=100_000,
        keep=1,
        test=dict(tagging=recipes.scores("tag", tests, task)),
    )
