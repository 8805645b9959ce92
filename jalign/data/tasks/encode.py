"""Turn labelled sentences and pairs into token ids with their labels, and predictions back.

Ids come without special tokens: the layout adds them. A sentence longer than an attention unit is
cut into windows that overlap; every word keeps its place, and has its label on its first piece in
exactly one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from jalign.data.rows import SPECIALS
from jalign.data.tasks import TaggedSentence, TextPair, note
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData, ConfigError

_CHUNK = 512  # sentences tokenised at once


class TagWindow(NamedTuple):
    """Part of a sentence: int32 ids, the word of each piece (counted in the whole sentence), and
    the label where `scored`, at the first piece of each word of which this window has charge;
    elsewhere, and for a tag that is none of the labels, -1.
    """

    sentence: int
    ids: np.ndarray
    word: np.ndarray
    label: np.ndarray
    scored: np.ndarray


class EncodedPair(NamedTuple):
    """Two texts, cut to fit one attention unit, and the label, -1 where the pair has none."""

    first: np.ndarray
    first_word: np.ndarray
    second: np.ndarray
    second_word: np.ndarray
    label: int


def encode_tags(
    tokenizer: Tokenizer,
    sentences: Iterable[TaggedSentence],
    labels: Sequence[str],
    *,
    max_unit: int,
    stride: int | None = None,
    counts: Counter | None = None,
) -> Iterator[TagWindow]:
    """Yield the windows of every sentence, in order.

    `max_unit` counts the special tokens. Windows begin at words, about `stride` pieces apart (half
    a window unless said); a word is scored where it has most context on its poorer side.
    Counted: sentences cut into windows, pieces of words longer than a window that are left out (the
    first ones stay), words of white space alone (unk stands for them), and tags that are no label.
    Raises: ConfigError where max_unit leaves no room, or stride exceeds it.
    """
    counts = Counter() if counts is None else counts
    room = max_unit - SPECIALS["single"]
    stride = (room + 1) // 2 if stride is None else stride
    if not 1 <= stride <= room:
        raise ConfigError(f"max_unit={max_unit}, stride={stride}: need 1 <= stride <= max_unit - 2")
    table = {label: i for i, label in enumerate(labels)}
    for number, (sentence, pieces) in enumerate(_tokenize(tokenizer, sentences, counts)):
        label_W = np.array([table.get(tag, -1) for tag in sentence.tags], np.int32)
        for word in np.flatnonzero(label_W < 0):
            note(counts, f"tag {sentence.tags[word]} that is no label")
        yield from _tag_windows(number, pieces, label_W, room, stride, counts)


def _tokenize(
    tokenizer: Tokenizer, sentences: Iterable[TaggedSentence], counts: Counter
) -> Iterator[tuple[TaggedSentence, tuple[np.ndarray, np.ndarray]]]:
    sentences = iter(sentences)
    while chunk := list(islice(sentences, _CHUNK)):
        words = [sentence.words for sentence in chunk]
        yield from zip(chunk, encode_given_words(tokenizer, words, counts), strict=True)


def encode_given_words(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], counts: Counter | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encode sentences whose words are given: int32 ids, and the word of each piece.

    A word may hold spaces (Vietnamese, numbers). Every word has a piece: unk for one of white space
    alone.
    """
    counts = Counter() if counts is None else counts
    texts = [" ".join(words) for words in sentences]
    for words, (ids, part) in zip(sentences, tokenizer.encode_words(texts), strict=True):
        num_parts = np.array([len(word.split()) for word in words], np.int64)
        if (num_parts == 1).all():
            yield ids, part
            continue
        word = np.repeat(np.arange(len(words), dtype=np.int32), num_parts)[part]
        blank = np.flatnonzero(num_parts == 0)
        note(counts, "word of white space alone, read as unk", blank.size)
        ids = np.concatenate([ids, np.full(blank.size, tokenizer.unk_id, np.int32)])
        word = np.concatenate([word, blank.astype(np.int32)])
        order = np.argsort(word, kind="stable")
        yield ids[order], word[order]


def _tag_windows(
    number: int,
    pieces: tuple[np.ndarray, np.ndarray],
    label_W: np.ndarray,
    room: int,
    stride: int,
    counts: Counter,
) -> Iterator[TagWindow]:
    ids, word = pieces
    first_W = np.flatnonzero(np.diff(word, prepend=-1))
    last_W = np.append(first_W[1:], ids.size)  # past the last piece
    cut_W = np.minimum(last_W, first_W + room)
    note(counts, "pieces of words longer than a window left out", (last_W - cut_W).sum())
    windows = _word_windows(first_W, cut_W, room, stride)
    note(counts, "sentence cut into windows", len(windows) > 1)
    charge_W = _in_charge(windows, first_W, cut_W)
    for index, (begin, end) in enumerate(windows):
        scored = np.zeros(end - begin, bool)
        label = np.full(end - begin, -1, np.int32)
        mine = charge_W == index
        scored[first_W[mine] - begin] = True
        label[first_W[mine] - begin] = label_W[mine]
        yield TagWindow(number, ids[begin:end], word[begin:end], label, scored)


def _word_windows(
    first_W: np.ndarray, cut_W: np.ndarray, room: int, stride: int
) -> list[tuple[int, int]]:
    """Cut pieces into windows of whole words: (begin, end) of each."""
    windows: list[tuple[int, int]] = []
    word = 0
    while word < first_W.size:
        begin = int(first_W[word])
        past = int(np.searchsorted(cut_W, begin + room, "right"))  # words that fit whole
        windows.append((begin, int(cut_W[past - 1])))
        if past == first_W.size:
            break
        next_word = int(np.searchsorted(first_W, begin + stride, "right")) - 1
        word = max(next_word, word + 1)  # never beyond `past`, as stride <= room
    return windows


def _in_charge(
    windows: Sequence[tuple[int, int]], first_W: np.ndarray, cut_W: np.ndarray
) -> np.ndarray:
    """Choose for each word the window that has all of it and most context on its poorer side."""
    best_W, charge_W = np.full(first_W.size, -1, np.int64), np.zeros(first_W.size, np.int64)
    for index, (begin, end) in enumerate(windows):
        context_W = np.minimum(first_W - begin, end - cut_W)
        better = context_W > best_W
        best_W[better], charge_W[better] = context_W[better], index
    return charge_W


def restore_tags(
    windows: Iterable[TagWindow], predicted: Iterable[np.ndarray], num_words: Sequence[int]
) -> list[np.ndarray]:
    """Bring predictions, one number per piece of each window, back to the words of each sentence.

    Raises: ValueError where a word got no prediction: windows are missing.
    """
    tags = [np.full(num, -1, np.int64) for num in num_words]
    for window, numbers in zip(windows, predicted, strict=True):
        tags[window.sentence][window.word[window.scored]] = np.asarray(numbers)[window.scored]
    for sentence, numbers in enumerate(tags):
        if (numbers < 0).any():
            raise ValueError(f"sentence {sentence}: word {numbers.argmin()} has no prediction")
    return tags


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Iterable[TextPair],
    labels: Sequence[str],
    *,
    max_unit: int,
    counts: Counter | None = None,
) -> Iterator[EncodedPair]:
    """Yield pairs that fit one joint attention unit of `max_unit` slots with its special tokens.

    A pair that is too long loses pieces from the end of the longer side, one by one, from the
    second where both are equal (longest_first of transformers); such pairs are counted, and sides
    without any text.
    Raises: BadData for a class that is no label; ConfigError where max_unit leaves no room.
    """
    counts = Counter() if counts is None else counts
    room = max_unit - SPECIALS["joint"]
    if room < 2:
        raise ConfigError(f"max_unit={max_unit}: need room for two texts and three special tokens")
    table = {"": -1, **{label: i for i, label in enumerate(labels)}}
    pairs = iter(pairs)
    number = 0
    while chunk := list(islice(pairs, _CHUNK)):
        encoded = tokenizer.encode_words([text for pair in chunk for text in pair[:2]])
        for pair, first, second in zip(chunk, encoded[::2], encoded[1::2], strict=True):
            if pair.label not in table:
                raise BadData(
                    f"pair {number}: class {pair.label!r}; need one of {', '.join(labels)}"
                )
            size = fit_pair(first[0].size, second[0].size, room)
            note(counts, "pair cut to fit", sum(size) < first[0].size + second[0].size)
            note(counts, "side without text", (not first[0].size) + (not second[0].size))
            kept = [x[:n] for side, n in zip((first, second), size, strict=True) for x in side]
            yield EncodedPair(*kept, table[pair.label])
            number += 1


def fit_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how much of two lengths remains when the longer gives until both fit."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half - 1:  # equal sides: the second has given first
        return room - second, second
    return room - half, half
