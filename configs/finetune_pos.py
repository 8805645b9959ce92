"""Fine-tune an encoder on English parts of speech (UD EWT), and tag other languages zero-shot.

COMMAND  jalign finetune --config=configs/finetune_pos.py --config.init=MODEL --workdir=DIR
           --seeds=0,1,2
         MODEL is a Hugging Face folder, what `jalign import` wrote, or a workdir. The files are
         treebanks of Universal Dependencies; name yours (CoNLL-U, also .gz) with
           --config.streams.task.task.files="('en=data/ud/en_ewt-ud-train.conllu',)"
           --config.evaluate.tasks.tagging.sets="('en=data/ud/en_ewt-ud-dev.conllu',)"
           --config.test.tagging.sets="('de=data/ud/de_pud-ud-test.conllu', ...)"
           --config.test.columns.sets="('sw=data/masakhane_pos/sw/test.txt', ...)"  (word and tag)
         What is absent of the test files is said and left out.
         `:small` starts from the encoder of launch/quickstart.sh, on two CPU cores.
TIME     not run at full size by us. `:small`: 3 epochs are 1.8 M tokens a seed, 4 to 7 minutes on
         two CPU cores that other work shared
RESULT   not claimed at full size. `:small`, from the encoder of configs/quickstart.py:mlm_tlm, test
         of EWT, PUD, VTB and Masakhane POS (dev), F1 as XTREME computes it, mean ± standard
         deviation of seeds 0, 1, 2: en 87.4 ± 0.1, de 29.4 ± 0.5, es 32.5 ± 1.4, fr 32.6 ± 2.4, ru
         22.5 ± 2.9, zh 13.4 ± 0.6, ar 16.8 ± 2.7, vi 26.9 ± 0.6, sw 26.0 ± 1.7; accuracy of tokens:
         en 89.4 ± 0.1, de 31.6 ± 0.7, es 38.4 ± 1.4, fr 38.6 ± 2.1, ru 29.7 ± 5.7, zh 16.2 ± 1.4,
         ar 17.7 ± 5.3, vi 33.5 ± 0.5, sw 36.6 ± 2.4 (commit 8c0abe0)
SOURCE   XTREME (Hu et al. 2020) and its scripts/train_udpos.sh: lr 2e-5, 10 epochs, 32 sentences a
         step, at most 128 pieces, Adam (0.9, 0.999), no warm-up, no decay, linear to 0; the model
         of the best development score. F1 is over runs of equal tags, as XTREME computes it.
         Differs: sentences are packed, so a step's 8 rows of 128 hold about 40; one longer than 128
         pieces is read in windows, in place of being cut.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jalign.data.tasks import LABELS

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

TEST = ("en_ewt", "de_pud", "es_pud", "fr_pud", "ru_pud", "zh_pud", "ar_pud", "vi_vtb")


def get_config(arg: str = ""):
    """Return the config; `:small` fits two CPU cores."""
    small = recipes.is_small(arg, __file__)
    trees = tuple(f"{name[:2]}=data/ud/{name}-ud-test.conllu" for name in TEST)
    columns = ("sw=data/masakhane_pos/sw/test.txt",)
    dev = recipes.scores("tag", ("en=data/ud/en_ewt-ud-dev.conllu",), "dev")
    return recipes.finetune(
        small,
        name="finetune_pos",
        epochs=3.0 if small else 10.0,
        streams=dict(
            task=recipes.task(
                "single",
                rows=8,
                row_length=128,
                format="conllu",
                files=("en=data/ud/en_ewt-ud-train.conllu",),
                labels=LABELS["udpos"],
            )
        ),
        objectives=dict(tag=dict(weight=1.0, dropout=0.1)),
        optimizer=recipes.finetuning_adamw(lr=1e-3 if small else 2e-5),
        evaluate=recipes.best_on_dev("f1", every=300 if small else 500, tagging=dev),
        test=dict(
            tagging=recipes.scores("tag", trees, "udpos", predictions="predictions"),
            columns=recipes.scores("tag", columns, "columns", kind="tagging", format="ner"),
        ),
    )
