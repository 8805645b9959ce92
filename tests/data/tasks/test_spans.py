"""Answers as pieces: characters of every script are found again, in windows and beyond them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.data.tasks import Answer, Question
from jalign.data.tasks.spans import (
    best_answers,
    best_span,
    encode_questions,
    locate,
    span_text,
)
from jalign.errors import ConfigError

LETTERS = (
    "a Z é ñ ß ж Щ 漢 字 か ガ ｶﾞ 한 ا ل ﷺ ש ก ำ न ् ष त ம ் ក ្ ខ 😀 👩 🇩 ﬁ ² Ⅷ ½ ㈱ ( ) , . « » <s>"
).split()
MARKS = list("\u0301\u0323\u200b\u200c\u200d\u200e\ufeff\ufe0f\u00ad \u00a0\u3000\n")
characters = st.sampled_from(LETTERS) | st.sampled_from(MARKS)
texts = st.lists(characters, min_size=1, max_size=40).map("".join)
KIND = pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece", "bytes"])


@KIND
@settings(max_examples=150, deadline=None)
@given(text=texts | st.text(max_size=25))
def test_every_character_but_white_space_has_a_piece(tokenizers, kind, text):
    pieces = locate(tokenizers[kind], text)
    [(ids, word)] = tokenizers[kind].encode_words([text])
    np.testing.assert_array_equal(pieces.ids, ids)
    np.testing.assert_array_equal(pieces.word, word)
    covered = np.zeros(len(text), bool)
    for begin, end in zip(pieces.begin, pieces.end, strict=True):
        assert 0 <= begin < end <= len(text)
        assert not text[begin:end].split() or len(text[begin:end].split()) == 1  # within a word
        covered[begin:end] = True
    assert covered.tolist() == [not c.isspace() for c in text]
    assert (np.diff(pieces.begin) >= 0).all() and (np.diff(pieces.end) >= 0).all()


@KIND
@settings(max_examples=150, deadline=None)
@given(text=texts, data=st.data())
def test_every_answer_survives_tokenising_windows_and_back(tokenizers, kind, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    answer = text[start : data.draw(st.integers(start + 1, len(text)))]
    room, question_size = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5))
    question = Question("q", "fox? " * 3, text, (Answer(start, answer),))
    counts = Counter()
    windows = list(
        encode_questions(
            tokenizers[kind],
            [question],
            max_unit=room + question_size + 3,
            stride=data.draw(st.integers(1, 40)),
            max_question=question_size,
            counts=counts,
        )
    )
    assert sum(int(w.charged.sum()) for w in windows) == locate(tokenizers[kind], text).ids.size
    assert all(w.context.ids.size <= room and w.question_ids.size <= question_size for w in windows)
    found = {span_text(text, w.context, w.start, w.stop) for w in windows if w.start >= 0}
    if not answer.strip():
        assert not found and counts["answer of white space"] == 1
    elif counts["answer in no window"]:
        assert not found
    else:
        [back] = found
        assert answer.strip() in back
        assert (back == answer.strip()) == (not counts["answer that whole pieces widen"])


@KIND
def test_answers_at_the_edges_of_pieces_come_back_exactly(tokenizers, kind):
    context = "Der Fuchs (敏捷的) лиса; الثعلب ﬁn 1998. x\u0323\u0308y लोमड़ी"
    pieces = locate(tokenizers[kind], context)
    for begin in range(pieces.ids.size):
        for end in range(begin, pieces.ids.size):
            text = span_text(context, pieces, begin, end)
            question = Question("q", "?", context, (Answer(int(pieces.begin[begin]), text),))
            counts = Counter()
            [window] = encode_questions(tokenizers[kind], [question], max_unit=512, counts=counts)
            assert span_text(context, window.context, window.start, window.stop) == text
            assert not counts


def test_pieces_know_their_characters_by_hand(tokenizers):
    text = " ﷺ  x\u0323\u0308y \u200b (狗)"
    pieces = locate(tokenizers["sentencepiece"], text)
    spans: dict = {}
    for word, begin, end in zip(pieces.word.tolist(), pieces.begin, pieces.end, strict=True):
        spans.setdefault(word, set()).add(text[begin:end])
    assert spans == {
        0: {"ﷺ"},  # eighteen characters once normalised
        1: {"x", "\u0323\u0308", "y"},  # the second mark has no offset of its own
        2: {"\u200b"},  # no piece of its own: unk stands for it
        3: {"(", "狗", ")"},
    }


def test_windows_by_hand(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    words = tokenizer.encode_words(["fox"])[0][0].size
    context = "fox " * 20
    question = Question("q", "dog?", context, (Answer(4 * 12, "fox"),))
    question_size = tokenizer.encode_words(["dog?"])[0][0].size
    counts = Counter()
    windows = list(
        encode_questions(
            tokenizer,
            [question],
            max_unit=8 * words + question_size + 3,
            stride=6 * words,
            max_question=question_size,
            counts=counts,
        )
    )
    assert [int(w.context.begin[0]) // 4 for w in windows] == [0, 6, 12]
    assert [(w.start, w.stop) for w in windows] == [
        (-1, -1),
        (6 * words, 7 * words - 1),
        (0, words - 1),
    ]
    assert counts == {"context in several windows": 1}


def test_what_does_not_fit_is_counted(tokenizers):
    context = "The quick brown fox jumps over the lazy dog"
    pieces = locate(tokenizers["wordpiece"], context)
    at = int(np.flatnonzero(pieces.end - pieces.begin > 1)[0])
    inside = int(pieces.begin[at]) + 1, context[pieces.begin[at] + 1 : pieces.end[at]]
    questions = [
        Question("long", "fox " * 30, context, (Answer(0, context),)),
        Question("nowhere", "?", context, (Answer(-1, "Katze"),)),
        Question("inside", "?", context, (Answer(*inside),)),
        Question("none", "?", context),
        Question("second", "?", context, (Answer(-1, "Katze"), Answer(4, "quick"))),
        Question("empty", "?", " ", ()),
    ]
    counts = Counter()
    windows = list(
        encode_questions(
            tokenizers["wordpiece"], questions, max_unit=16, max_question=4, counts=counts
        )
    )
    assert counts["question cut"] == 1
    assert counts["answer in no window"] == 1
    assert counts["answer without a place in its context"] == 1
    assert counts["answer that whole pieces widen"] == 1
    assert counts["context in several windows"] == 5
    labelled = {w.question: w for w in windows if w.start >= 0}
    assert sorted(labelled) == [2, 4]
    assert {w.question for w in windows} == set(range(6))  # each has a window, if an empty one
    assert span_text(context, labelled[4].context, labelled[4].start, labelled[4].stop) == "quick"


def test_lengths_without_room_are_refused(tokenizers):
    with pytest.raises(ConfigError, match="max_unit > max_question"):
        list(encode_questions(tokenizers["bytes"], [], max_unit=67, max_question=64))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 14), st.booleans())
def test_the_best_span_is_the_best_of_all(seed, size, max_pieces, with_charge):
    rng = np.random.default_rng(seed)
    start, stop = rng.integers(0, 4, (2, size)).astype(np.float32)  # many ties
    charged = rng.random(size) < 0.6 if with_charge else np.ones(size, bool)
    every = [
        (float(start[i] + stop[j]), i, j)
        for i in np.flatnonzero(charged).tolist()
        for j in range(i, min(i + max_pieces, size))
    ]
    found = best_span(start, stop, max_pieces=max_pieces, charged=charged if with_charge else None)
    if every:
        best = max(score for score, _, _ in every)
        ties = [(j - i, i, j) for score, i, j in every if score == best]
        assert (found.score, found.start, found.stop) == (best, *min(ties)[1:])
    else:
        assert found.score == -np.inf


def test_the_best_window_answers_and_a_question_without_context_gets_nothing(tokenizers):
    context = "The quick brown fox jumps over the lazy dog"
    questions = [Question("a", "?", context, (Answer(16, "fox"),)), Question("b", "?", " ")]
    windows = list(
        encode_questions(tokenizers["wordpiece"], questions, max_unit=20, max_question=2, stride=6)
    )
    scores = []
    for window in windows:
        score = np.zeros((2, window.context.ids.size), np.float32)
        if window.start >= 0:
            score[0, window.start] = score[1, window.stop] = 5
        scores.append(tuple(score))
    assert len(windows) > 3
    assert best_answers(questions, windows, scores) == {"a": "fox", "b": ""}
