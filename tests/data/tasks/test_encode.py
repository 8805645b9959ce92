"""Tags and pairs as pieces: no word is lost, whatever its script and however long its sentence."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.data.tasks import TaggedSentence, TextPair
from jalign.data.tasks.encode import (
    encode_given_words,
    encode_pairs,
    encode_tags,
    fit_pair,
    restore_tags,
)
from jalign.errors import BadData, ConfigError

LABELS = ("ADJ", "NOUN", "VERB")
ODD = ["Bùi Văn Luyến", "10\u00a0000", " ", "", "\u3000", "\u200b", "<s>", "ﷺ", "x" * 40, "अ" * 9]
PLAIN = "The brown fox Fuchs лису 敏捷的棕色 الثعلب कूदती है สุนัข con 여우가 , . 1998".split()
words = st.sampled_from(PLAIN + ODD) | st.text(max_size=6)
tagged = st.lists(st.tuples(words, st.sampled_from(LABELS)), min_size=1, max_size=25).map(
    lambda pairs: TaggedSentence(*map(tuple, zip(*pairs, strict=True)))
)


def check_windows(tokenizer, sentences, max_unit, stride, counts):
    windows = list(
        encode_tags(tokenizer, sentences, LABELS, max_unit=max_unit, stride=stride, counts=counts)
    )
    whole = list(encode_given_words(tokenizer, [s.words for s in sentences]))
    seen = [np.zeros(ids.size, bool) for ids, _ in whole]
    for window in windows:
        ids, word = whole[window.sentence]
        assert 1 <= window.ids.size <= max_unit - 2
        begin = np.flatnonzero(word == window.word[0])[0]
        at = slice(begin, begin + window.ids.size)
        np.testing.assert_array_equal(window.ids, ids[at])
        np.testing.assert_array_equal(window.word, word[at])
        first = np.diff(word, prepend=-1)[at] > 0
        assert not (window.scored & ~first).any()
        assert ((window.label >= 0) == window.scored).all()
        seen[window.sentence][at] = True
    lost = sum(int((~s).sum()) for s in seen)
    assert lost == counts["pieces of words longer than a window left out"]
    for (_, word), s in zip(whole, seen, strict=True):
        assert s[np.diff(word, prepend=-1) > 0].all()
    return windows


@settings(max_examples=120, deadline=None)
@given(st.lists(tagged, min_size=1, max_size=3), st.integers(3, 14), st.data())
@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece", "bytes"])
def test_every_tag_survives_tokenising_windows_and_back(
    tokenizers, kind, sentences, max_unit, data
):
    stride = data.draw(st.none() | st.integers(1, max_unit - 2))
    windows = check_windows(tokenizers[kind], sentences, max_unit, stride, Counter())
    predicted = [np.where(w.scored, w.label, 99) for w in windows]
    found = restore_tags(windows, predicted, [len(s.words) for s in sentences])
    assert [tuple(LABELS[i] for i in tags) for tags in found] == [s.tags for s in sentences]


def test_labels_lie_on_first_pieces_by_hand(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    sentence = TaggedSentence(("The", "Bùi Văn", "fox", " "), ("ADJ", "NOUN", "X", "VERB"))
    counts = Counter()
    [window] = encode_tags(tokenizer, [sentence], LABELS, max_unit=64, counts=counts)
    pieces = [tokenizer.encode_words([word])[0][0] for word in ("The", "Bùi Văn", "fox")]
    np.testing.assert_array_equal(window.ids, np.concatenate([*pieces, [tokenizer.unk_id]]))
    sizes = [ids.size for ids in pieces] + [1]
    np.testing.assert_array_equal(window.word, np.repeat([0, 1, 2, 3], sizes))
    first = np.cumsum([0, *sizes[:-1]])
    assert window.label[first].tolist() == [0, 1, -1, 2]
    assert np.flatnonzero(window.scored).tolist() == first.tolist()
    assert counts == {"tag X that is no label": 1, "word of white space alone, read as unk": 1}
    assert window.ids.dtype == window.word.dtype == window.label.dtype == np.int32


def test_a_word_is_scored_where_it_has_most_context(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    [(ids, word)] = encode_given_words(tokenizer, [["fox"] * 10])
    size = ids.size // 10  # pieces of one word
    sentence = TaggedSentence(("fox",) * 10, ("NOUN",) * 10)
    counts = Counter()
    windows = list(
        encode_tags(
            tokenizer, [sentence], LABELS, max_unit=6 * size + 2, stride=2 * size, counts=counts
        )
    )
    assert [w.word[0] for w in windows] == [0, 2, 4]
    # words 0-5, 2-7, 4-9: context on the poorer side of word 4 is 1, 2, 0 words
    scored = [w.word[w.scored].tolist() for w in windows]
    assert scored == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert counts == {"sentence cut into windows": 1}


def test_windows_of_a_test_set_report_what_they_left_out(tokenizers):
    counts = Counter()
    long = TaggedSentence(("x" * 40, "fox"), ("NOUN", "NOUN"))
    check_windows(tokenizers["sentencepiece"], [long], 8, None, counts)
    assert counts["sentence cut into windows"] == 1
    assert counts["pieces of words longer than a window left out"] > 0


def test_restoring_without_all_windows_is_refused(tokenizers):
    sentence = TaggedSentence(tuple(PLAIN), ("NOUN",) * len(PLAIN))
    windows = list(encode_tags(tokenizers["bytes"], [sentence], LABELS, max_unit=9))
    assert len(windows) > 2
    with pytest.raises(ValueError, match="sentence 0: word 0 has no prediction"):
        restore_tags(windows[1:], [w.label for w in windows[1:]], [len(PLAIN)])


@pytest.mark.parametrize(("max_unit", "stride"), [(2, None), (10, 9), (10, 0)])
def test_windows_that_cannot_cover_a_sentence_are_refused(tokenizers, max_unit, stride):
    with pytest.raises(ConfigError, match="need 1 <= stride <= max_unit - 2"):
        list(encode_tags(tokenizers["bytes"], [], LABELS, max_unit=max_unit, stride=stride))


def loop_fit(first, second, room):
    """Take one piece at a time, as transformers' longest_first."""
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_pairs_are_cut_as_one_piece_at_a_time_would():
    for sizes in product(range(12), range(12), range(2, 14)):
        assert fit_pair(*sizes) == loop_fit(*sizes), sizes


def test_pairs_keep_their_words_and_their_label(tokenizer):
    pairs = [
        TextPair("The quick fox", "Der schnelle Fuchs", "VERB"),
        TextPair("x" * 300, "fox " * 100, ""),
        TextPair(" ", "fox", "ADJ"),
    ]
    counts = Counter()
    encoded = list(encode_pairs(tokenizer, pairs, LABELS, max_unit=60, counts=counts))
    assert [pair.label for pair in encoded] == [2, -1, 0]
    for pair, found in zip(pairs, encoded, strict=True):
        for text, ids, word in ((pair.first, *found[:2]), (pair.second, *found[2:4])):
            whole, words = tokenizer.encode_words([text])[0]
            np.testing.assert_array_equal(ids, whole[: ids.size])
            np.testing.assert_array_equal(word, words[: ids.size])
    assert encoded[0].first.size == tokenizer.encode_words([pairs[0].first])[0][0].size
    assert encoded[1].first.size + encoded[1].second.size == 57
    assert counts == {"pair cut to fit": 1, "side without text": 1}


def test_an_unknown_class_is_refused(tokenizers):
    pairs = [TextPair("a", "b", "ADJ"), TextPair("a", "b", "maybe")]
    with pytest.raises(BadData, match="pair 1: class 'maybe'; need one of ADJ, NOUN, VERB"):
        list(encode_pairs(tokenizers["bytes"], pairs, LABELS, max_unit=60))
    with pytest.raises(ConfigError, match="max_unit=4"):
        list(encode_pairs(tokenizers["bytes"], pairs, LABELS, max_unit=4))
