"""The part of `jalign evaluate` that measures the alignment of word embeddings, of any model.

In: `--model` and `--dictionary`, a file of `jalign dictionary` or `jalign synthetic`. Out: a table
on standard output, with `--output` a JSON line per score.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._pairs import underscored
from jalign.cli.align import read_step
from jalign.errors import ConfigError

TASK = "embedding_alignment"


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    flags.DEFINE_enum("task", TASK, (TASK,), "what to evaluate", flag_values=fv)
    for name, said in (
        ("model", "any model: Hugging Face folder, imported model, workdir"),
        ("step", "checkpoint of a workdir: a step, or best"),
        ("dictionary", "file of jalign dictionary or jalign synthetic"),
        ("output", "results.jsonl to write"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    flags.DEFINE_list(
        "scorings", ["cosine"], "some of cosine, csls, ratio, distance", flag_values=fv
    )
    flags.DEFINE_float("share", 1.0, "of the source words, drawn by --seed", 0, 1, flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of the share", 0, flag_values=fv)
    flags.DEFINE_list(
        "languages", [], "numbers of the two language embeddings to add", flag_values=fv
    )
    parse(fv, "evaluate", [underscored(arg) for arg in argv])
    for name in ("model", "dictionary"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --model=DIR --dictionary=FILE")
    if not all(number.isdigit() for number in fv.languages):
        raise ConfigError(f"--languages={','.join(fv.languages)}: need two numbers, such as 0,1")
    if fv.output and not Path(fv.output).expanduser().parent.is_dir():
        raise ConfigError(f"--output={fv.output}: there is no such folder; make it.")
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.cli._scores import gather, table
    from jalign.train.encoder_only import evaluate_model

    entries: dict[str, Any] = {
        "dictionary": fv.dictionary,
        "scorings": tuple(fv.scorings),
        "languages": tuple(map(int, fv.languages)),
        **{name: fv[name].value for name in ("share", "seed")},
    }
    results, step = evaluate_model(Path(fv.model).expanduser(), step, {TASK: entries}, _say)
    lines = [{**result._asdict(), "step": step} for result in results]
    sys.stdout.write(table(gather({0: lines})) + f"\nper cent, step {step} of {fv.model}\n")
    if fv.output:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        Path(fv.output).expanduser().write_text(text, encoding="utf-8")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"evaluate: {line}\n")
    sys.stderr.flush()
