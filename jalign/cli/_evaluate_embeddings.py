"""The part of `jalign evaluate` that measures the alignment of word embeddings, of any model.

In: `--model` and `--dictionary`, a file of `jalign dictionary` or `jalign synthetic`. Out: a table
on standard output, with `--output` a JSON line per score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._evaluate import define_shared, parse_checked, say, show
from jalign.cli.align import read_step
from jalign.errors import ConfigError

TASK = "embedding_alignment"


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = define_shared((TASK,), dictionary="file of jalign dictionary or jalign synthetic")
    flags.DEFINE_list(
        "scorings", ["cosine"], "some of cosine, csls, ratio, distance", flag_values=fv
    )
    flags.DEFINE_float("share", 1.0, "of the source words, drawn by --seed", 0, 1, flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of the share", 0, flag_values=fv)
    flags.DEFINE_list(
        "languages", [], "numbers of the two language embeddings to add", flag_values=fv
    )
    example = "--model=DIR --dictionary=FILE"
    parse_checked(fv, argv, {"model": example, "dictionary": example}, about=__doc__)
    if not all(number.isdigit() for number in fv.languages):
        raise ConfigError(f"--languages={','.join(fv.languages)}: need two numbers, such as 0,1")
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.cli._scores import table
    from jalign.train.encoder_only import evaluate_model

    entries: dict[str, Any] = {
        "dictionary": fv.dictionary,
        "scorings": tuple(fv.scorings),
        "languages": tuple(map(int, fv.languages)),
        **{name: fv[name].value for name in ("share", "seed")},
    }
    results, step = evaluate_model(Path(fv.model).expanduser(), step, {TASK: entries}, say)
    return show(fv, results, step, table, "per cent, ")
