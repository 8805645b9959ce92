"""Evaluate answers to questions about texts (XQuAD, MLQA, TyDiQA-GoldP): F1 and exact match.

A question is answered by its best span over all windows of its context. Source: Rajpurkar et al.
2016 (scores); Devlin et al. 2019 (windows); Lewis et al. 2020 (normalisation per language).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jalign.data.tasks.spans import SpanWindow, best_answers
from jalign.evals._averages import average
from jalign.evals._labelled import Labelled, LabelledConfig, LabelledSet, open_labelled
from jalign.metrics.squad import answer_scores
from jalign.objectives import span
from jalign.types import EvalSetting, Params, Result

NORMALIZE = ("squad", "mlqa")


@dataclass(frozen=True)
class Config(LabelledConfig):
    """`normalize`: answers as SQuAD v1.1 does, by English rules, which XTREME takes for XQuAD and
    TyDiQA too, or "mlqa" by the language of the set. `max_pieces`: of an answer. The objective is
    "span" unless said; `skip` and `limit` count articles.
    """

    normalize: str = "squad"
    max_pieces: int = 30

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        if self.normalize not in NORMALIZE or self.max_pieces < 1:
            raise ValueError(
                f"normalize={self.normalize!r}, max_pieces={self.max_pieces}: need one of "
                f"{', '.join(NORMALIZE)}, and at least 1"
            )


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Raises: ValueError naming the entry, BadData for a file.
    """
    opened = open_labelled(cfg, setting, span.NAME)
    predict = opened.compile(span.make_predict(span.Config(opened.stream), setting.encoder))
    for one in opened.sets:
        if num := count_out_of_reach(one.file.windows, cfg.max_pieces):
            warnings.warn(
                f"{opened.name}: {one.lang}: gold answer longer than {cfg.max_pieces} pieces, or "
                f"cut by the end of the window that has most context for its start, which no model "
                f"can give: {num}",
                stacklevel=2,
            )

    def evaluate(params: Params, aux=None) -> Iterator[Result]:
        del aux
        every = []
        for one in opened.sets:
            logits = opened.predict(predict, params, one)
            found = _answers(one, logits, cfg.max_pieces)
            opened.write(one.lang, "json", json.dumps(found, indent=0) + "\n")
            every += _scores(opened, one, found, cfg.normalize)
        yield from every
        yield from average(every)

    return evaluate


def count_out_of_reach(windows: Sequence[SpanWindow], max_pieces: int) -> int:
    """Count the questions whose first gold answer is in a window, and in none where `best_span` may
    choose it: run_squad's rule that a span begins where its window has most context.
    """
    inside = [w for w in windows if w.start >= 0]
    given = {w.question for w in inside if w.charged[w.start] and w.stop - w.start < max_pieces}
    return len({w.question for w in inside} - given)


def _answers(one: LabelledSet, logits: list[np.ndarray], max_pieces: int) -> Mapping[str, str]:
    """Turn the logits of each window's slots into texts, by question id."""
    scores = []
    for window, slots in zip(one.file.windows, logits, strict=True):
        begin = window.question_ids.size + 2
        start_N, end_N = slots[begin : begin + window.context.ids.size].T
        scores.append((start_N, end_N))
    return best_answers(one.file.records, one.file.windows, scores, max_pieces=max_pieces)


def _scores(
    opened: Labelled, one: LabelledSet, found: Mapping[str, str], normalize: str
) -> Iterator[Result]:
    gold = {question.id: [a.text for a in question.answers] for question in one.file.records}
    lang = one.lang if normalize == "mlqa" else None
    scores = answer_scores(gold, found, lang=lang)
    yield Result(opened.name, one.lang, "f1", scores.f1, scores.num)
    yield Result(opened.name, one.lang, "exact_match", scores.exact, scores.num)
