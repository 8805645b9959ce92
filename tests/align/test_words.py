"""From pieces to words: vectors, numbering of packed rows, word links."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

from jalign.align.words import number_words, row_word_links, word_links, word_vectors
from tests.align.cases import packed, padded, random_pairs
from tests.oracles import align as oracle
from tests.tiny import rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from simalign import SentenceAligner


def test_word_vectors_by_hand():
    h = np.array([[[9.0, 9], [1, 1], [3, 3], [5, 0], [9, 9]]], np.float32)
    word = np.array([[-1, 0, 0, 1, -1]])
    want = {"mean": [[2, 2], [5, 0]], "first": [[1, 1], [5, 0]], "last": [[3, 3], [5, 0]]}
    for pool, vectors in want.items():
        got = word_vectors(h, word, 3, pool=pool)
        assert got[0].tolist() == [*vectors, [0, 0]]


def test_means_equal_simaligns():
    rng = np.random.default_rng(0)
    sizes = [1, 3, 2, 1, 4]
    h = rng.normal(size=(2, 11, 8)).astype(np.float32)
    tokens = [[["x"] * n for n in sizes]] * 2
    want = SentenceAligner.average_embeds_over_words(list(h), tokens)
    word = np.tile(np.repeat(np.arange(5), sizes), (2, 1))
    np.testing.assert_allclose(word_vectors(h, word, 5), want, rtol=1e-6)


def test_an_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="mean, first, last"):
        word_vectors(np.ones((1, 2, 2), np.float32), np.zeros((1, 2), np.int32), 1, pool="max")


def test_words_of_packed_rows_by_hand():
    batch = {
        "example": np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]]),
        "side": np.array([[0, 1, 1, 1, 0, 2, 0, 0, 1, 0, 2, 0, 0]]),
        "word": np.array([[0, 0, 0, 1, -1, 0, -1, -1, 0, -1, 0, -1, 0]]),  # side 0 has no word
    }
    words = number_words(batch, 6)
    assert words.slot_BL.tolist() == [[-1, 0, 0, 1, -1, 2, -1, -1, 3, -1, 4, -1, -1]]
    assert words.example_BW.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert words.side_BW.tolist() == [[1, 1, 2, 1, 2, 0]]
    assert words.word_BW.tolist() == [[0, 1, 0, 0, 0, -1]]
    # a row full to its last slot, whose first word equals its last one in all fields
    ones = np.ones((1, 3), int)
    full = {"example": ones, "side": ones, "word": np.array([[0, 1, 0]])}
    assert number_words(full, 3).slot_BL.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("layout", ["joint", "separate"])
def test_words_of_real_packed_rows_equal_a_loop(layout):
    batch = rows_of(layout).rows(0, 4)
    words = jax.jit(number_words, static_argnums=1)(
        {name: batch[name] for name in ("example", "side", "word")}, 64
    )
    for b in range(4):
        seen = []
        for slot in range(64):
            key = tuple(int(batch[name][b, slot]) for name in ("example", "side", "word"))
            if key[0] == 0 or key[1] == 0:
                assert words.slot_BL[b, slot] == -1
                continue
            if key not in seen:
                seen.append(key)
            assert words.slot_BL[b, slot] == seen.index(key)
        found = np.stack([words.example_BW[b], words.side_BW[b], words.word_BW[b]], axis=1)
        assert found.tolist() == [list(key) for key in seen] + [[0, 0, -1]] * (64 - len(seen))


def test_two_words_align_where_any_pieces_do():
    links = np.zeros((1, 3, 4), bool)
    links[0, 0, 1] = links[0, 1, 0] = links[0, 2, 3] = True
    score = np.arange(12.0).reshape(1, 3, 4)
    (found,) = word_links(links, np.array([[0, 0, 1]]), np.array([[0, 0, 1, 2]]), score)
    assert found.pairs_A2.tolist() == [[0, 0], [1, 2]]
    assert found.score_A.tolist() == [4.0, 11.0]
    assert word_links(links, np.array([[0, 0, 1]]), np.array([[0, 0, 1, 2]]))[0].score_A is None


def random_words(rng, size):
    return np.sort(rng.integers(0, max(1, size // 2) + 1, size))


@pytest.mark.parametrize("seed", range(5))
def test_word_links_equal_the_loop_in_both_layouts(seed):
    rng = np.random.default_rng(seed)
    mats = random_pairs(seed, num=8)
    pieces = [tuple(random_words(rng, size) for size in mat.shape) for mat in mats]
    want = [
        oracle.word_links(mat > 0.7, src, trg, mat)
        for mat, (src, trg) in zip(mats, pieces, strict=True)
    ]
    laid = padded(mats, seed, junk=0.0)
    src_word, trg_word = np.full((8, 9), -1), np.full((8, 11), -1)
    for (b, rows, cols), (src, trg) in zip(laid.place, pieces, strict=True):
        src_word[b, rows], trg_word[b, cols] = src, trg
    found = word_links(laid.score > 0.7, src_word, trg_word, laid.score)

    row = packed(mats, seed, junk=0.0)
    word = np.full(row.side.shape, -1)
    for (b, rows, cols), (src, trg) in zip(row.place, pieces, strict=True):
        word[b, rows], word[b, cols] = src, trg
    per_row = row_word_links(row.score > 0.7, row.example, word, row.score)
    assert [len(examples) for examples in per_row] == row.example.max(1).tolist()
    for got in (found, [links for examples in per_row for links in examples]):
        assert len(got) == 8
        for links, dictionary in zip(got, want, strict=True):
            assert [tuple(pair) for pair in links.pairs_A2.tolist()] == sorted(dictionary)
            np.testing.assert_array_equal(
                links.score_A, [dictionary[k] for k in sorted(dictionary)]
            )


def test_pairs_without_links_are_listed_too():
    none = np.zeros((3, 2, 2), bool)
    word = np.zeros((3, 2), int)
    assert [links.pairs_A2.shape for links in word_links(none, word, word)] == [(0, 2)] * 3
    one = none.copy()
    one[1, 0, 1] = True
    score = np.ones(none.shape, np.float32)
    found = word_links(one, word, word, score)
    assert [links.pairs_A2.tolist() for links in found] == [[], [[0, 0]], []]
    assert [links.score_A.tolist() for links in found] == [[], [1.0], []]
    assert word_links(none, word, word, score)[0].score_A.shape == (0,)
    assert row_word_links(np.zeros((1, 2, 2), bool), np.zeros((1, 2), int), word[:1]) == [[]]
