"""Learn word alignment from random weights with XLM-Align, its cold start warmed by a lexicon.

COMMAND  jalign prepare --output=data/hansards --vocab_size=16000 --heldout=0.005
           --on-error=quarantine --corpus=tsv,en,fr,hansards.en-fr.tsv.gz
         jalign lexicon --data=data/hansards --output=data/hansards/lexicons
         jalign pretrain --config=configs/xlm_align_scratch.py --workdir=runs/xlm_align_scratch
         `:self` has the paper's self-labels alone; `:links` the links of another aligner instead
         of the lexicon's, a Pharaoh line per pair in data/hansards/links/en-fr.links. Where
         data/hansards/gold holds dev.tsv and test.tsv (source, target, links), AER is logged.
TIME     `:links` 1:17:22 by the clock on two cores of an AMD EPYC, about 20 minutes of which the
         process was stopped by other measurements; at its median of 7,700 tokens/s 53 minutes
RESULT   AER on 347 of the 447 Hansards sentences: `:links` (eflomal's) 8.89 after 3,000 steps, 7.89
         after 12,000 (layer 4, argmax; eflomal itself 6.57). The default with
         --config.steps=3000 --config.objectives.xlm_align.given.steps=1000: 13.92; its lexicon
         alone 11.80. `:self` goes from 75 (untrained) to 79 in 1,000 steps of a schedule of 1,500:
         the cold start. Curves and the comparison: benchmarks/README.md.
SOURCE   losses, transport and filters: Chi et al. 2021 and their code (methods: Sinkhorn 2, itermax
         2, alpha 0.9). Differs: the authors start from XLM-R and report that from scratch the early
         self-labels are noise. Here a fast_align-like lexicon of the same text (`jalign lexicon`)
         gives the labels at first (`given` falls from 1 to 0) and multiplies the transport kernel
         (`prior`); every labelled piece points, not only the masked ones, and it is the
         last layer's own states that point (no projections), of which the E-step makes the labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import recipes  # noqa: E402

DATA, STEPS = "data/hansards", 12000

LABELS = {  # where the pointer's labels come from, and the stream's entry that brings them
    "lexicon": (
        dict(given=dict(begin=1.0, end=0.0, steps=STEPS // 3), prior=1.0),
        dict(lexicons=f"{DATA}/lexicons"),
    ),
    "links": (dict(given=1.0, prior=0.0), dict(links=f"{DATA}/links")),
    "self": (dict(given=0.0, prior=0.0), {}),
}


def get_config(arg: str = ""):
    """Return the config; `:small` is this config, which fits two CPU cores already."""
    if arg not in ("", "small", "lexicon", "self", "links"):
        raise ValueError(
            f"configs/xlm_align_scratch.py takes :lexicon (the default), :self, :links; got {arg!r}"
        )
    labels, source = LABELS.get(arg, LABELS["lexicon"])
    tasks = dict(heldout=dict())
    gold = Path(DATA) / "gold"
    if gold.is_dir():
        tasks["word_alignment"] = dict(
            gold=tuple(f"{name},{gold}/{name}.tsv" for name in ("dev", "test")),
            methods=("argmax", "softmax", "ot"),
            layers=(3, 4),
            layout="joint",
        )
    return recipes.run(
        name="xlm_align_scratch",
        data=DATA,
        steps=STEPS,
        encoder=recipes.small(hidden=128, layers=4, init_std=0.04),
        streams=dict(
            pair=recipes.pair(
                rows=8,
                row_length=256,
                max_unit=128,
                **source,
            ),
        ),
        objectives=dict(
            xlm_align=dict(
                weight=dict(tlm=0.5, pointer=1.0),
                rate=0.15,
                layer=4,
                projection=False,
                points="all",
                **labels,
            )
        ),
        optimizer=recipes.adamw(lr=2e-3, warmup_steps=200),
        count_rows=512,
        log_every=50,
        checkpoint_every=1000,
        evaluate=dict(every=1000, at_start=True, best="", tasks=tasks),
    )
