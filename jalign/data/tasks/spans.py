"""Turn questions about long contexts into windows of token ids, and spans back into text.

Ids come without special tokens; a window is a question and part of its context, for the joint
layout `<s> question </s> context </s>`. Pieces know their characters, in every script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from re import finditer
from typing import NamedTuple

import numpy as np

from jalign.data.rows import SPECIALS
from jalign.data.tasks import Question, note
from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError


class Pieces(NamedTuple):
    """A text as pieces: int32 ids, word, and the characters [begin, end) that each stands for.

    Every character but white space belongs to a piece; some pieces share theirs.
    """

    ids: np.ndarray
    word: np.ndarray
    begin: np.ndarray
    end: np.ndarray


class SpanWindow(NamedTuple):
    """A question, part of its context, and where in that part the first gold answer is.

    `start` and `stop` are the first and last piece of the answer, counted in this window; -1 where
    it is not wholly inside. `charged` marks the pieces for which this window has most context.
    """

    question: int
    question_ids: np.ndarray
    question_word: np.ndarray
    context: Pieces
    start: int
    stop: int
    charged: np.ndarray


def locate(tokenizer: Tokenizer, text: str) -> Pieces:
    """Encode a text with the characters of each piece; ids and words are those of `encode_words`.

    The tokenizer's offsets leave out characters that its normaliser removes or joins to others
    (marks, zero-width spaces): they go to the piece before them.
    """
    [(ids, word)] = tokenizer.encode_words([text])
    begin, end = np.empty(ids.size, np.int64), np.empty(ids.size, np.int64)
    edges = np.searchsorted(word, np.arange(word[-1] + 2)) if ids.size else np.zeros(1, np.int64)
    for index, match in enumerate(finditer(r"\S+", text)):
        at = slice(edges[index], edges[index + 1])
        spans = _offsets(tokenizer, match[0], tokenizer.joiner if index else "")
        if len(spans) != at.stop - at.start:  # unk stands for the whole word
            spans = [(0, len(match[0]))] * (at.stop - at.start)
        begin[at], end[at] = np.array(_without_gaps(spans, len(match[0]))).T + match.start()
    return Pieces(ids, word, begin, end)


def _offsets(tokenizer: Tokenizer, word: str, joiner: str) -> list[tuple[int, int]]:
    encoding = tokenizer.backend.encode(
        [joiner + word], is_pretokenized=True, add_special_tokens=False
    )
    num = len(joiner)
    return [(max(begin - num, 0), max(end - num, 0)) for begin, end in encoding.offsets]


def _without_gaps(spans: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Extend pieces over the characters that none of them has; a piece without any, such as the
    space before a word, shares those of the next one.
    """
    filled: list[tuple[int, int]] = []
    after = next((span for span in reversed(spans) if span[0] < span[1]), (0, size))
    for span in reversed(spans):
        after = span if span[0] < span[1] else after
        filled.append(after)
    filled.reverse()
    begins = [0, *(begin for begin, _ in filled[1:])]
    ends = [max(end, after) for (_, end), after in zip(filled, [*begins[1:], size], strict=True)]
    return list(zip(begins, ends, strict=True))


def encode_questions(
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    *,
    max_unit: int = 384,
    stride: int = 128,
    max_question: int = 64,
    counts: Counter | None = None,
) -> Iterator[SpanWindow]:
    """Yield the windows of every question, in order.

    `max_unit` counts the special tokens; windows begin `stride` pieces apart (less where a long
    question leaves less room than that).
    Counted: questions cut to `max_question` pieces, contexts in several windows, answers that are
    in no window as a whole or have no place (the question then has no label), and answers that
    begin or end inside a piece, so that whole pieces say more than they do.
    Raises: ConfigError where these lengths leave no room for a context.
    """
    counts = Counter() if counts is None else counts
    room = max_unit - SPECIALS["joint"] - max_question
    if room < 1 or stride < 1 or max_question < 1:
        raise ConfigError(
            f"max_unit={max_unit}, max_question={max_question}, stride={stride}: need a stride and "
            f"a question of at least 1 and max_unit > max_question + {SPECIALS['joint']}"
        )
    pieces_of = lru_cache(maxsize=1024)(lambda text: locate(tokenizer, text))
    for number, question in enumerate(questions):
        context = pieces_of(question.context)
        [(ids, word)] = tokenizer.encode_words([question.question])
        note(counts, "question cut", ids.size > max_question)
        ids, word = ids[:max_question], word[:max_question]
        room = max_unit - SPECIALS["joint"] - ids.size
        windows = _windows(context.ids.size, room, min(stride, room))
        note(counts, "context in several windows", len(windows) > 1)
        start, stop = _gold(question, context, counts)
        inside = [(b, e) for b, e in windows if 0 <= start >= b and stop < e]
        note(counts, "answer in no window", start >= 0 and not inside)
        charge_N = _in_charge(windows, context.ids.size)
        for index, (begin, end) in enumerate(windows):
            has = (begin, end) in inside
            yield SpanWindow(
                number,
                ids,
                word,
                Pieces(*(column[begin:end] for column in context)),
                start - begin if has else -1,
                stop - begin if has else -1,
                charge_N[begin:end] == index,
            )


def _windows(size: int, room: int, stride: int) -> list[tuple[int, int]]:
    num = 1 + max(0, -(-(size - room) // stride))
    return [(i * stride, min(i * stride + room, size)) for i in range(num)]


def _in_charge(windows: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """Choose for each piece the window with most context on its poorer side, longer ones first.

    Source: Devlin et al. 2019, run_squad's max context.
    """
    best_N, charge_N = np.full(size, -1.0), np.zeros(size, np.int64)
    for index, (begin, end) in enumerate(windows):
        at = np.arange(begin, end)
        context = np.minimum(at - begin, end - 1 - at) + 0.01 * (end - begin)
        better = context > best_N[begin:end]
        best_N[begin:end][better], charge_N[begin:end][better] = context[better], index
    return charge_N


def _gold(question: Question, context: Pieces, counts: Counter) -> tuple[int, int]:
    """Find the pieces of the first answer that has a place: (first, last), or (-1, -1)."""
    answer = next((answer for answer in question.answers if answer.start >= 0), None)
    if answer is None:
        note(counts, "answer without a place in its context", bool(question.answers))
        return -1, -1
    text = answer.text.strip()
    if not text:
        note(counts, "answer of white space")
        return -1, -1
    start, stop = _cover(context, answer.start + answer.text.index(text), len(text))
    back = span_text(question.context, context, start, stop)
    note(counts, "answer that whole pieces widen", back != text)
    return start, stop


def _cover(pieces: Pieces, begin: int, size: int) -> tuple[int, int]:
    """Find the shortest run of pieces that has the characters [begin, begin + size), all pieces of
    the first and last character included.
    """
    inside = np.flatnonzero((pieces.begin < begin + size) & (pieces.end > begin))
    begins, ends = pieces.begin[inside], pieces.end[inside]
    start = inside[begins == begins[begins <= begin].max()][0]
    stop = inside[ends == ends[ends >= begin + size].min()][-1]
    return int(min(start, stop)), int(max(start, stop))


def span_text(context: str, pieces: Pieces, start: int, stop: int) -> str:
    """Return the characters of the context from one piece to another, both inclusive."""
    return context[pieces.begin[start] : pieces.end[stop]]


class Span(NamedTuple):
    """A span of pieces in a window, both ends inclusive, and its score."""

    score: float
    start: int
    stop: int


def best_span(
    start_N: np.ndarray, stop_N: np.ndarray, *, max_pieces: int = 30, charged: np.ndarray | None
) -> Span:
    """Find the span of at most `max_pieces` pieces with the largest sum of start and stop scores.

    It may begin only where `charged`, unless that is None. Of equal ones the shortest, then the
    first; a window without any place to begin has score -inf.
    """
    start_N = np.asarray(start_N, np.float32)
    if charged is not None:
        start_N = np.where(charged, start_N, -np.inf)
    best = Span(-np.inf, 0, 0)
    for more in range(min(max_pieces, start_N.size)):
        score_N = start_N[: start_N.size - more] + stop_N[more:]
        at = int(score_N.argmax())
        if score_N[at] > best.score:
            best = Span(float(score_N[at]), at, at + more)
    return best


def best_answers(
    questions: Sequence[Question],
    windows: Iterable[SpanWindow],
    scores: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    max_pieces: int = 30,
) -> Mapping[str, str]:
    """Answer each question by its best span over all its windows; "" where it has no context.

    `scores` are (start, stop) for the pieces of the context in each window.
    """
    best: dict[int, tuple[float, str]] = {}
    for window, (start_N, stop_N) in zip(windows, scores, strict=True):
        if window.context.ids.size:
            span = best_span(start_N, stop_N, max_pieces=max_pieces, charged=window.charged)
            if span.score > best.get(window.question, (-np.inf, ""))[0]:
                context = questions[window.question].context
                text = span_text(context, window.context, span.start, span.stop)
                best[window.question] = span.score, text
    return {question.id: best.get(i, (0.0, ""))[1] for i, question in enumerate(questions)}
