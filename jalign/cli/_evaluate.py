"""What the tasks of `jalign evaluate` share: flags, checks, and how results are written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_file, is_same
from jalign.cli._scores import Score, gather
from jalign.errors import ConfigError, UserError

ANY_MODEL = "any model: Hugging Face folder, imported model, workdir"


def asked_task(argv: Sequence[str]) -> str:
    """Return the task that the arguments name, "" where they name none."""
    for i, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name in ("--task", "-task"):
            return value if equals else " ".join(argv[i + 1 : i + 2])
    return ""


def define_shared(
    tasks: Sequence[str], *, model: str = ANY_MODEL, newest: str = "", **more: str
) -> flags.FlagValues:
    """Define --task, --model, --step, --output, and `more`, a flag of text each."""
    fv = flags.FlagValues()
    flags.DEFINE_enum("task", tasks[0], tasks, "what to evaluate", flag_values=fv)
    texts = {"model": model, "step": f"checkpoint of a workdir: a step, or best{newest}"}
    for name, said in {**texts, "output": "results.jsonl to write", **more}.items():
        flags.DEFINE_string(name, None, said, flag_values=fv)
    return fv


def parse_checked(
    fv: flags.FlagValues,
    argv: Sequence[str],
    needed: Mapping[str, str],
    written: Iterable[str] = ("output",),
    *,
    about: str = "",
) -> None:
    """Parse the arguments; check that `needed` are there, each with what to type, and that the
    files `written` can be and are not among those read. `about` is what --help says of the task.

    Raises: UserError.
    """
    task = asked_task(argv)
    try:
        parse(fv, "evaluate" + f" --task={task}" * bool(task), argv, about=about)
    except UserError as error:
        if not isinstance(error.__cause__, flags.UnrecognizedFlagError):
            raise
        raise UserError(
            f"{error} Each task has flags of its own: type --task=NAME, such as --task=retrieval."
        ) from error
    for name, example in needed.items():
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type {example}")
    for name in written:
        if fv[name].value:
            output = check_output_file(name, fv[name].value, read_paths(fv), in_place=True)
            if fv.model and is_same(Path(fv.model) / "results.jsonl", output):
                raise ConfigError(
                    f"--{name}={fv[name].value} holds what the run itself measured; type another "
                    "name"
                )


def read_paths(fv: flags.FlagValues) -> list[str]:
    """Return the files that the arguments name: those of sets, and a dictionary."""
    given = {name: fv[name].value for name in ("gold", "files", "dev", "dictionary") if name in fv}
    paths = [given["dictionary"]] if given.get("dictionary") else []
    for spec in given.get("gold", []):
        paths += spec.split(",")[1:]
    for spec in [*given.get("files", []), *given.get("dev", [])]:
        files = spec.partition("=")[2]
        paths += [files] if Path(files).expanduser().is_file() else files.split(",")
    return [path for path in paths if path]


def whole_path(path: str | None) -> str:
    """Return a path that no working folder changes; "" for none."""
    return str(Path(path).expanduser().absolute()) if path else ""


def say(line: str) -> None:
    """Write a line of progress."""
    sys.stderr.write(f"evaluate: {line}\n")
    sys.stderr.flush()


def show(
    fv: flags.FlagValues,
    results: Iterable[Any],
    step: int,
    table: Callable[[Sequence[Score]], str],
    unit: str = "",
) -> int:
    """Write the table and, with --output, the lines of the results; return the exit code."""
    lines = [{**result._asdict(), "step": step} for result in results]
    sys.stdout.write(f"{table(gather({0: lines}))}\n{unit}step {step} of {fv.model}\n")
    write_lines(fv, lines)
    return 0


def write_lines(fv: flags.FlagValues, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON line per score, where --output names a file."""
    if fv.output:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        Path(fv.output).expanduser().write_text(text, encoding="utf-8")
