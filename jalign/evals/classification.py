"""Evaluate the classes of pairs of sentences (XNLI, PAWS-X): accuracy.

Pairs without a label are predicted and not scored. Source: Hu et al. 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jalign.evals._averages import average
from jalign.evals._labelled import Labelled, LabelledConfig, LabelledSet, open_labelled
from jalign.metrics.accuracy import accuracy
from jalign.objectives import classify
from jalign.types import EvalSetting, Params, Result


@dataclass(frozen=True)
class Config(LabelledConfig):
    """The sets and the objective, "classify" unless said."""


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Raises: ValueError naming the entry, BadData for a file.
    """
    opened = open_labelled(cfg, setting, classify.NAME)
    head = opened.objective.heads[classify.NAME]
    objective = classify.Config(stream=opened.stream, head=head.kind)
    logits = classify.make_predict(objective, setting.encoder)
    predict = opened.compile(lambda params, batch: logits(params, batch).argmax(axis=-1))
    for one in opened.sets:
        if not _labelled(one):
            warnings.warn(f"{opened.name}: {one.lang} has no labels: not scored", stacklevel=2)

    def evaluate(params: Params, aux=None) -> Iterator[Result]:
        del aux
        every = []
        for one in opened.sets:
            classes = [slots[0] for slots in opened.predict(predict, params, one)]
            found = [opened.task.labels[k] for k in classes]
            opened.write(one.lang, "tsv", "".join(f"{label}\n" for label in found))
            every += _scores(opened, one, found)
        yield from every
        yield from average(every)

    return evaluate


def _labelled(one: LabelledSet) -> list[int]:
    return [i for i, pair in enumerate(one.file.records) if pair.label]


def _scores(opened: Labelled, one: LabelledSet, found: list[str]) -> Iterator[Result]:
    scored = _labelled(one)
    if scored:
        gold = [one.file.records[i].label for i in scored]
        share = accuracy(gold, [found[i] for i in scored])
        yield Result(opened.name, one.lang, "accuracy", share, len(scored))
