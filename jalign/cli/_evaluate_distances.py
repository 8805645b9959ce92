"""The part of `jalign evaluate` that measures distances of linked words, with any model.

In: `--model` and gold sets of word links, as for word alignment. Out: a table on standard output,
with `--output` a JSON line per score, with `--histograms` the distances counted into bins.
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

TASK = "distances"


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    flags.DEFINE_enum("task", TASK, (TASK,), "what to evaluate", flag_values=fv)
    for name, said in (
        ("model", "any model: Hugging Face folder, imported model, workdir"),
        ("step", "checkpoint of a workdir: a step, or best"),
        ("output", "results.jsonl to write"),
        ("histograms", "JSON file to write"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    flags.DEFINE_multi_string(
        "gold", [], "a set called SRC-TRG, as for word alignment; once per set", flag_values=fv
    )
    flags.DEFINE_integer("layer", -1, "-1 the last, 0 the embeddings", -1, flag_values=fv)
    flags.DEFINE_enum("pool", "mean", ("mean", "first", "last"), "pieces to words", flag_values=fv)
    flags.DEFINE_string("anchor", "en", "language of the unrelated words", flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of the unrelated words", 0, flag_values=fv)
    flags.DEFINE_bool("skip_long", False, "leave out pairs longer than a row", flag_values=fv)
    parse(fv, "evaluate", [underscored(arg) for arg in argv])
    if not fv.model:
        raise ConfigError("--model is missing: type --model=DIR")
    if not fv.gold:
        raise ConfigError("--gold is missing: type --gold=SRC-TRG,BITEXT,LINKS, once per set")
    for name in ("output", "histograms"):
        path = fv[name].value
        if path and not Path(path).expanduser().parent.is_dir():
            raise ConfigError(f"--{name}={path}: there is no such folder; make it.")
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.cli._scores import gather
    from jalign.train.encoder_only import evaluate_model

    histograms = str(Path(fv.histograms).expanduser().absolute()) if fv.histograms else ""
    entries: dict[str, Any] = {
        "gold": tuple(fv.gold),
        "histograms": histograms,
        **{name: fv[name].value for name in ("layer", "pool", "anchor", "seed", "skip_long")},
    }
    results, step = evaluate_model(Path(fv.model).expanduser(), step, {TASK: entries}, _say)
    lines = [{**result._asdict(), "step": step} for result in results]
    sys.stdout.write(_table(gather({0: lines})) + f"\nstep {step} of {fv.model}\n")
    if fv.output:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        Path(fv.output).expanduser().write_text(text, encoding="utf-8")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"evaluate: {line}\n")
    sys.stderr.flush()


def _table(scores: Sequence[Any]) -> str:
    """Write a line per task and metric, a column per set; distances as they are, not per cent."""
    text = ""
    for task in dict.fromkeys(s.task for s in scores):
        mine = [s for s in scores if s.task == task]
        langs = list(dict.fromkeys(s.lang for s in mine))
        wide = max(10, *(len(lang) + 2 for lang in langs))
        value = {(s.metric, s.lang): f"{s.mean:.4f}" for s in mine}
        text += "\n" + task.ljust(24) + "".join(lang.rjust(wide) for lang in langs) + "\n"
        for metric in dict.fromkeys(s.metric for s in mine):
            cells = (value.get((metric, lang), "").rjust(wide) for lang in langs)
            text += metric.ljust(24) + "".join(cells) + "\n"
    return text
