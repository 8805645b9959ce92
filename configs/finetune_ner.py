"""Fine-tune an encoder on English named entities (WikiAnn), and tag other languages zero-shot.

COMMAND  jalign finetune --config=configs/finetune_ner.py --config.init=MODEL --workdir=DIR
           --seeds=0,1,2
         MODEL is a Hugging Face folder, what `jalign import` wrote, or a workdir. The files are
         WikiAnn's of Rahimi et al. (`en:word B-LOC`) or any of two columns; name yours with
           --config.streams.task.task.files="('en=data/wikiann/en/train',)"
           --config.evaluate.tasks.tagging.sets="('en=data/wikiann/en/dev',)"
           --config.test.tagging.sets="('de=data/wikiann/de/test', ...)"
         `:small` starts from the encoder of launch/quickstart.sh, on two CPU cores.
TIME     not run at full size by us. `:small`: 3 epochs of WikiAnn en are 1.7 M tokens, 6 minutes
         on two CPU cores that other work shared
RESULT   not claimed at full size. `:small`, from the encoder of configs/quickstart.py:mlm_tlm, test
         sets of WikiAnn, entity F1 of seed 0: en 54.0, de 28.1, fr 38.0 (commit 8c0abe0)
SOURCE   XTREME (Hu et al. 2020) and its scripts/train_panx.sh: lr 2e-5, 10 epochs, 32 sentences a
         step, at most 128 pieces, Adam (0.9, 0.999), no warm-up, no decay, linear to 0; the model
         of the best development score. F1 is seqeval's, over entities.
         Differs: sentences are packed, so a step's 4 rows of 128 hold about 35; one longer than 128
         pieces is read in windows, in place of being cut.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jalign.data.tasks import LABELS

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

TEST = ("en", "de", "es", "fr", "ru", "zh", "ar", "vi", "sw")


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    dev = recipes.scores("tag", ("en=data/wikiann/en/dev",), "dev")
    test = tuple(f"{lang}=data/wikiann/{lang}/test" for lang in TEST)
    return recipes.finetune(
        small,
        name="finetune_ner",
        epochs=3.0 if small else 10.0,
        streams=dict(
            task=recipes.task(
                "single",
                rows=8 if small else 4,
                row_length=128,
                format="ner",
                files=("en=data/wikiann/en/train",),
                labels=LABELS["panx"],
            )
        ),
        objectives=dict(tag=dict(weight=1.0, dropout=0.1)),
        optimizer=recipes.finetuning_adamw(lr=1e-3 if small else 2e-5),
        evaluate=recipes.best_on_dev("f1", every=300 if small else 1000, tagging=dev),
        test=dict(tagging=recipes.scores("tag", test, "panx", predictions="predictions")),
    )
