"""What the evaluations on labelled files share: opening their sets, predicting, writing files.

A set is LANG=PATH, read as the stream of the objective reads its own files: format, labels, options
and lengths. Prediction files lie as XTREME's evaluate.py wants them: FOLDER/TASK/test-LANG.tsv, or
.json for questions.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jalign.data.rows import Layout
from jalign.data.tasks.rows import TaskData, TaskFile, TaskRows, make_task_rows, split_spec
from jalign.errors import AbsentFiles
from jalign.types import Array, Batch, EvalSetting, Objective, Params


@dataclass(frozen=True)
class LabelledConfig:
    """`sets`: LANG=PATH each; those that are absent are said, and left out. `objective`: whose head
    is evaluated. `name`: of the task in results, the objective's unless said. `rows`: of a batch.
    `skip`, `limit`: as in TaskData. `format`: of the files, that of the objective's stream unless
    said. `predictions`: folder for files in XTREME's layout, relative to the workdir; "" for none.
    """

    sets: tuple[str, ...] = ()
    objective: str = ""
    name: str = ""
    rows: int = 16
    skip: int = 0
    limit: int = 0
    format: str = ""
    predictions: str = ""

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        if not self.sets:
            raise ValueError("sets is empty: name files, each as LANG=PATH")
        langs = Counter(split_spec(spec)[0] for spec in self.sets)
        twice = sorted(lang for lang, num in langs.items() if num > 1)
        if "avg" in langs:
            raise ValueError("sets: 'avg' is the name of the mean over languages: take another")
        if twice:
            raise ValueError(
                f"sets: two for {', '.join(twice)}; results go by language: join the files, or "
                f"name them apart, as {twice[0]}-ewt and {twice[0]}-pud"
            )
        if self.rows < 1 or self.skip < 0 or self.limit < 0:
            raise ValueError(
                f"rows={self.rows}, skip={self.skip}, limit={self.limit}: need at least 1, 0, 0"
            )


class LabelledSet(NamedTuple):
    """A test set: its language, its rows, and its records and windows."""

    lang: str
    rows: TaskRows
    file: TaskFile


@dataclass(frozen=True)
class Labelled:
    """The sets of an evaluation, and how to run the model over them."""

    name: str
    stream: str
    task: TaskData
    objective: Objective
    sets: Sequence[LabelledSet]
    batch_rows: int
    folder: Path | None
    setting: EvalSetting

    def compile(self, predict: Callable[[Params, Batch], Array]) -> Callable:
        """Compile a prediction whose result every process gets whole."""
        whole = self.setting.replicated
        return jax.jit(
            lambda params, batch: jax.lax.with_sharding_constraint(predict(params, batch), whole)
        )

    def predict(self, predict: Callable, params: Params, one: LabelledSet) -> list[np.ndarray]:
        """Return by example number what was predicted for the slots of each example."""
        found: dict[int, np.ndarray] = {}
        for first in range(0, one.rows.packed.num_rows, self.batch_rows):
            batch = self.setting.put(one.rows.rows(first, self.batch_rows), self.batch_rows)
            predicted = np.asarray(predict(params, batch))
            for r in range(self.batch_rows):
                for number, begin, end in one.rows.places(first + r):
                    found[number] = predicted[r, begin:end]
        return [found[number] for number in range(one.rows.num_examples)]

    def write(self, lang: str, suffix: str, text: str) -> None:
        """Write a prediction file, where these are wanted."""
        if self.folder is not None and jax.process_index() == 0:
            folder = self.folder / self.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"test-{lang}.{suffix}").write_text(text, encoding="utf-8")


def open_labelled(cfg: LabelledConfig, setting: EvalSetting, kind: str) -> Labelled:
    """Read and tokenise the sets of an evaluation of a kind of task: tag, classify or span.

    What is absent, and what the readers counted, is warned of once.
    Raises: ValueError naming the entry, or where no set is present; BadData for a file.
    """
    wanted = cfg.objective or kind
    name = cfg.name or wanted
    objective = _find_objective(wanted, setting, kind)
    if setting.tokenizer is None:
        raise ValueError(f"{name}: this setting has no tokenizer to read labelled files with")
    if cfg.predictions and setting.workdir is None and not Path(cfg.predictions).is_absolute():
        raise ValueError(f"predictions={cfg.predictions!r}: no workdir here; name a whole path")
    [stream] = objective.streams
    shape = setting.streams[stream]
    task = replace(shape.task, skip=cfg.skip, limit=cfg.limit)
    if cfg.format not in ("", task.format):
        task = replace(task, format=cfg.format, options={})
    if task.kind != kind:
        raise ValueError(f"format={cfg.format!r} is for {task.kind}, and this evaluates {kind}")
    layout = Layout(shape.layout, shape.row_length, shape.max_unit or shape.row_length)
    sets = []
    for spec in _present(cfg.sets, name):
        rows = make_task_rows(
            replace(task, files=(spec,)),
            setting.tokenizer,
            setting.manifest.languages,
            layout,
            setting.specials,
            once=True,
        )
        if rows.counts:
            noted = "; ".join(f"{reason}: {num}" for reason, num in rows.counts.items())
            warnings.warn(f"{name}: {spec}: {noted}", stacklevel=2)
        sets.append(LabelledSet(split_spec(spec)[0], rows, rows.files[0]))
    shards = setting.encoder.num_groups
    folder = Path(setting.workdir or "") / cfg.predictions if cfg.predictions else None
    batch_rows = -(-cfg.rows // shards) * shards
    return Labelled(name, stream, task, objective, sets, batch_rows, folder, setting)


def _find_objective(name: str, setting: EvalSetting, kind: str) -> Objective:
    have = [n for n, o in setting.objectives.items() if kind in o.heads]
    if name not in have:
        known = ", ".join(have) or "none"
        raise ValueError(f"objective={name!r}: the objectives of kind {kind!r} here are: {known}")
    return setting.objectives[name]


def _present(sets: Sequence[str], name: str) -> Iterator[str]:
    absent = [spec for spec in sets if not Path(split_spec(spec)[1]).is_file()]
    if len(absent) == len(sets):
        raise AbsentFiles(f"sets: no such files: {', '.join(absent)}")
    if absent:
        warnings.warn(f"{name}: absent, so not scored: {', '.join(absent)}", stacklevel=3)
    return (spec for spec in sets if spec not in absent)
