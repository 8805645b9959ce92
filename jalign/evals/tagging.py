"""Evaluate tagged words, parts of speech and named entities: F1 and token accuracy.

Every word of every sentence has a tag: long sentences are read in windows. F1 is over entities
where the labels have B- and I-, else over runs of equal tags, as XTREME scores parts of speech.
Source: Hu et al. 2020; seqeval's definition of an entity (`metrics/span_f1.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jalign.data.tasks.encode import restore_tags
from jalign.evals._averages import average
from jalign.evals._labelled import Labelled, LabelledConfig, LabelledSet, open_labelled
from jalign.metrics.accuracy import token_accuracy
from jalign.metrics.span_f1 import span_scores
from jalign.objectives import tag
from jalign.types import EvalSetting, Params, Result


@dataclass(frozen=True)
class Config(LabelledConfig):
    """The sets and the objective, "tag" unless said."""


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Raises: ValueError naming the entry, BadData for a file.
    """
    opened = open_labelled(cfg, setting, tag.NAME)
    logits = tag.make_predict(tag.Config(stream=opened.stream), setting.encoder)
    predict = opened.compile(lambda params, batch: logits(params, batch).argmax(axis=-1))

    def evaluate(params: Params, aux=None) -> Iterator[Result]:
        del aux
        every = []
        for one in opened.sets:
            found = _tags(opened, one, opened.predict(predict, params, one))
            opened.write(one.lang, "tsv", "".join("\n".join([*tags, "", ""]) for tags in found))
            every += _scores(opened, one, found)
        yield from every
        yield from average(every)

    return evaluate


def _tags(opened: Labelled, one: LabelledSet, predicted: list) -> list[list[str]]:
    """Bring the classes of slots back to the words of the sentences."""
    num_words = [len(sentence.words) for sentence in one.file.records]
    classes = restore_tags(one.file.windows, (p[1:-1] for p in predicted), num_words)
    return [[opened.task.labels[k] for k in numbers] for numbers in classes]


def _scores(opened: Labelled, one: LabelledSet, found: list[list[str]]) -> Iterator[Result]:
    gold = [list(sentence.tags) for sentence in one.file.records]
    has_entities = any(label.startswith(("B-", "I-")) for label in opened.task.labels)
    f1 = span_scores(gold, found, whole_tags=not has_entities).micro.f1
    yield Result(opened.name, one.lang, "f1", f1, len(gold))
    num_words = sum(map(len, gold))
    yield Result(opened.name, one.lang, "accuracy", token_accuracy(gold, found), num_words)
