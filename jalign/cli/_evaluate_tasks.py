"""The part of `jalign evaluate` that scores tasks: tagging, classification, qa of a fine-tuned
workdir; retrieval and bucc of any model.

In: `--task`, `--model` and `--files`, once per set. Out: a table on standard output, with
`--output` a JSON line per score, with `--predictions` files in XTREME's submission layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._evaluate import (
    asked_task,
    define_shared,
    parse_checked,
    read_paths,
    say,
    show,
    whole_path,
)
from jalign.cli._output import check_output_folder, is_same
from jalign.cli._scores import table
from jalign.cli.align import read_step
from jalign.errors import ConfigError

# task -> the kind of objective that was trained for it, and what a set of --files is
LABELLED = {"tagging": "tag", "classification": "classify", "qa": "span"}
FILES = dict.fromkeys(LABELLED, "LANG=FILE") | {
    "retrieval": "SRC-TRG=FILE,FILE",
    "bucc": "SRC-TRG=FILE,FILE,GOLD",
}
TASKS = tuple(FILES)
PREDICTED = {"retrieval": "tatoeba", "bucc": "bucc2018"}  # their folders; the others' is --name
_DEFAULT_STEP = {True: " (best where one is kept, else the newest)", False: " (the newest)"}
POOLING = ("mean", "cls", "pooler")


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    task = asked_task(argv)
    fv = define_shared(
        TASKS,
        model="workdir of a run" + " or any model" * (task not in LABELLED),
        newest=_DEFAULT_STEP[task in LABELLED],
        predictions="folder for files in XTREME's submission layout",
    )
    flags.DEFINE_multi_string("files", [], f"a set, {FILES.get(task, '')}", flag_values=fv)
    if task in LABELLED:
        _define_labelled(fv, task)
    else:
        _define_retrieval(fv, task)
    files = f"--files={FILES.get(task, '')}, once per set"
    parse_checked(fv, argv, {"model": "--model=DIR", "files": files}, about=__doc__)
    if fv.predictions:
        folder = check_output_folder("predictions", fv.predictions)
        folder = check_output_folder("predictions", str(folder / (PREDICTED.get(task) or fv.name)))
        for path in map(Path, read_paths(fv)):
            if path.name.startswith("test-") and is_same(path.parent, folder):
                raise ConfigError(
                    f"--predictions={fv.predictions}: predictions are written where {path} lies; "
                    "type another folder"
                )
    return fv


def _define_labelled(fv: flags.FlagValues, task: str) -> None:
    flags.DEFINE_string("name", task, "name of the task in the results", flag_values=fv)
    flags.DEFINE_string(
        "objective", "", "objective whose head is used (the one that fits)", flag_values=fv
    )
    flags.DEFINE_string(
        "format", "", "of the files: conllu, ner, nli, qa (that of the training)", flag_values=fv
    )
    flags.DEFINE_integer("rows", 16, "rows of a batch", 1, flag_values=fv)
    for name, said in (("skip", "leave out the first so many"), ("limit", "keep so many, 0: all")):
        flags.DEFINE_integer(name, 0, f"{said} examples of each file", 0, flag_values=fv)
    if task == "qa":
        rules = ("squad", "mlqa")
        flags.DEFINE_enum(
            "normalize", rules[0], rules, "whose rules compare answers", flag_values=fv
        )


def _define_retrieval(fv: flags.FlagValues, task: str) -> None:
    flags.DEFINE_integer(
        "layer", None, "-1 the last, 0 the embeddings, k after layer k (2/3 of them)", -1,
        flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_enum(
        "pooling", "mean", POOLING, "mean of all tokens, first one's state, BERT's pooler",
        flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "of the compute", flag_values=fv)
    if task == "bucc":
        flags.DEFINE_multi_string(
            "dev", [], "set on which the threshold is chosen, as --files (the same set)",
            flag_values=fv,
        )  # fmt: skip
        margins = ("ratio", "distance", "absolute")
        said = "cosine over, or less, that of the neighbours; or the cosine itself"
        flags.DEFINE_enum("margin", margins[0], margins, said, flag_values=fv)
    else:
        flags.DEFINE_list(
            "scorings", ["cosine", "csls", "ratio"], "some of cosine, csls, ratio, distance",
            flag_values=fv,
        )  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command for one of TASKS; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    results, step = (_labelled if fv.task in LABELLED else _retrieval)(fv, step)
    return show(fv, results, step, table, "per cent, ")


def _labelled(fv: flags.FlagValues, step: int | str | None) -> tuple[list[Any], int]:
    from jalign.cli._runs import set_up_jax
    from jalign.train.tuned import evaluate, open_tuned

    set_up_jax()
    tuned = open_tuned(Path(fv.model).expanduser(), step=step)
    entries: dict[str, Any] = {
        "kind": fv.task,
        "sets": tuple(fv.files),
        "name": fv.name,
        "objective": _objective(fv, tuned.cfg),
        "predictions": whole_path(fv.predictions),
        **{name: fv[name].value for name in ("rows", "skip", "limit", "format")},
    }
    if fv.task == "qa":
        entries["normalize"] = fv.normalize
    return evaluate(tuned, {fv.task: entries}, say), tuned.step


def _objective(fv: flags.FlagValues, cfg: Any) -> str:
    """Return the objective whose head the task needs. Raises: ConfigError."""
    kind = LABELLED[fv.task]
    fit = [name for name, entries in cfg.objectives.items() if entries.get("kind", name) == kind]
    if fv.objective in fit:
        return fv.objective
    if fv.objective or len(fit) != 1:
        have = ", ".join(fit) or "none"
        raise ConfigError(
            f"{fv.model}: its objectives of kind {kind!r}, which --task={fv.task} needs, are: "
            f"{have}. Type --objective with one of them, or name another --model"
        )
    return fit[0]


def _retrieval(fv: flags.FlagValues, step: int | str | None) -> tuple[list[Any], int]:
    from jalign.cli._evaluate_retrieval import check_sets, mine_sets, retrieve_sets
    from jalign.inference.align import default_layer
    from jalign.inference.model import load

    check_sets(fv)
    model = load(fv.model, dtype=fv.dtype, step=step)
    layer = default_layer(model.cfg.layers) if fv.layer is None else fv.layer

    def embed(texts: Sequence[str]):
        return model.embed(texts, pooling=fv.pooling, layer=layer)

    run: Callable = mine_sets if fv.task == "bucc" else retrieve_sets
    return run(fv, embed), model.step
