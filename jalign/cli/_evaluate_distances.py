"""The part of `jalign evaluate` that measures distances of linked words, with any model.

In: `--model` and gold sets of word links, as for word alignment. Out: a table on standard output,
with `--output` a JSON line per score, with `--histograms` the distances counted into bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._evaluate import define_shared, parse_checked, say, show, whole_path
from jalign.cli._scores import Score, table
from jalign.cli.align import read_step

TASK = "distances"


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = define_shared((TASK,), histograms="JSON file to write")
    flags.DEFINE_multi_string(
        "gold", [], "a set called SRC-TRG, as for word alignment; once per set", flag_values=fv
    )
    flags.DEFINE_integer("layer", -1, "-1 the last, 0 the embeddings", -1, flag_values=fv)
    flags.DEFINE_enum("pool", "mean", ("mean", "first", "last"), "pieces to words", flag_values=fv)
    flags.DEFINE_string("anchor", "en", "language of the unrelated words", flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of the unrelated words", 0, flag_values=fv)
    flags.DEFINE_bool("skip_long", False, "leave out pairs longer than a row", flag_values=fv)
    needed = {"model": "--model=DIR", "gold": "--gold=SRC-TRG,BITEXT,LINKS, once per set"}
    parse_checked(fv, argv, needed, ("output", "histograms"), about=__doc__)
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.train.encoder_only import evaluate_model

    entries: dict[str, Any] = {
        "gold": tuple(fv.gold),
        "histograms": whole_path(fv.histograms),
        **{name: fv[name].value for name in ("layer", "pool", "anchor", "seed", "skip_long")},
    }
    results, step = evaluate_model(Path(fv.model).expanduser(), step, {TASK: entries}, say)
    return show(fv, results, step, _table)


def _table(scores: Sequence[Score]) -> str:
    """Write distances as they are, not per cent."""
    return table(scores, lambda score: f"{score.mean:.4f}")
