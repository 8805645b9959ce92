"""Fine-tune on a task and keep adjusting: task + 0.01 alignment + drift, in every step.

COMMAND  jalign finetune --config=configs/finetune_continual.py:TASK --config.init=ADJUSTED
           --config.objectives.adjust.frozen=ORIGINAL --config.data=DATA --workdir=DIR
           --seeds=0,1,2
         TASK is one of pos, ner, xnli (the default), xquad: everything but the adjustment is that
         of configs/finetune_TASK.py, whose flags name the files. ADJUSTED is a workdir of
         configs/adjust.py, ORIGINAL the model that it started from, DATA a prepared dataset of
         pairs with lexicons or links, as for configs/adjust.py. `:TASK,small` fits two CPU cores.
TIME     not run at full size by us
RESULT   not claimed at full size. `:pos,small` from the adjusted encoder of
         configs/quickstart.py:mlm_tlm, half an epoch, mean of three seeds: F1 de 40.5, es 54.0, ru
         35.0, zh 20.1, sw 27.1; word retrieval (CSLS) 5.1 %, without continual adjustment 3.9 %
         (commit 820dddd; launch/adjust_study.sh)
SOURCE   Efimov et al. 2022 and their code: weight 0.01 of the alignment, 1 of the drift, 16 pairs a
         step, the frozen copy is the original model, not the adjusted one; optimiser and schedule
         are the task's (theirs: NLI lr 5e-5, 2 epochs; NER 2e-5, 3; QA 3e-5, 2; batches of 32).
         Differs: pairs are packed, so 4 rows of 256 hold about 17; all pairs of DATA, in place of a
         pool of 30,000 drawn with replacement (prepare that many for the same).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

TASKS = ("xnli", "pos", "ner", "xquad")


def get_config(arg: str = ""):
    """Return the config of a task with the adjustment added; `small` fits two CPU cores."""
    words = [word for word in arg.split(",") if word]
    small, tasks = "small" in words, [word for word in words if word != "small"]
    if len(tasks) > 1 or not set(tasks) <= set(TASKS):
        raise ValueError(
            f"configs/finetune_continual.py takes one of {', '.join(TASKS)}, and small, such as "
            f":pos,small; got {arg!r}"
        )
    task = tasks[0] if tasks else TASKS[0]
    config = importlib.import_module(f"finetune_{task}").get_config("small" if small else "")
    config.name = f"finetune_continual_{task}"
    config.data = "data/quickstart" if small else "data/adjust"
    config.init = "runs/adjusted"
    original = "runs/quickstart" if small else "models/bert-base-multilingual-cased"
    pair = recipes.separate(4, 256, lexicons=f"{config.data}/lexicons")
    config.streams.pair = recipes.section(pair)
    config.objectives.adjust = recipes.section(
        recipes.adjust(align=0.01, drift=1.0, frozen=original)
    )
    return config
