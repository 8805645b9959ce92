"""Words of packed rows: their places and vectors, and what becomes of links between them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jalign.align import word_pairs as w
from tests.linked import kept_links, linked_rows, pairs_alone, words_of


def pairs_of(links, keep=None):
    links = np.array(links)[None]
    keep = np.ones(links.shape[:2], bool) if keep is None else np.array(keep)[None]
    return w.WordPairs(*(jnp.array(x) for x in (links[..., 0], links[..., 1], keep)))


def kept(pairs):
    src, trg, keep = (np.asarray(x)[0] for x in pairs)
    return [(int(i), int(j)) for i, j in zip(src[keep], trg[keep], strict=True)]


def row(ids, side, word, position, example=None):
    fields = dict(ids=ids, side=side, word=word, position=position)
    fields["example"] = example or [1] * len(ids)
    return {name: jnp.array([values], jnp.int32) for name, values in fields.items()}


def test_one_to_one_keeps_the_worked_links():
    # methods.md 10.5
    links = [(0, 0), (0, 1), (2, 2), (1, 3), (2, 4), (4, 5)]
    assert kept(w.one_to_one(pairs_of(links))) == [(1, 3), (4, 5)]
    turned = [(j, i) for i, j in links]
    assert kept(w.one_to_one(pairs_of(turned))) == [(3, 1), (5, 4)]


def test_links_that_are_not_kept_take_no_word_from_others():
    pairs = pairs_of([(0, 0), (0, 1), (1, 1)], [True, False, True])
    assert kept(w.one_to_one(pairs)) == [(0, 0), (1, 1)]


def test_the_same_pair_twice_is_one_pair():
    assert kept(w.distinct_pairs(pairs_of([(0, 0), (1, 1), (0, 0)]))) == [(0, 0), (1, 1)]
    twice = pairs_of([(0, 0), (0, 0), (1, 1)], [False, True, True])
    assert kept(w.distinct_pairs(twice)) == [(0, 0), (1, 1)]
    assert kept(w.one_to_one(w.distinct_pairs(pairs_of([(0, 0), (0, 0)])))) == [(0, 0)]


@pytest.mark.parametrize(
    "pool, expected", [("mean", (2.0, 2.0)), ("first", (1.0, 1.0)), ("last", (3.0, 3.0))]
)
def test_a_word_of_two_pieces_has_the_worked_vector(pool, expected):
    # methods.md 10.5: pieces (1, 1) and (3, 3), here between special tokens and another word
    batch = row([0, 5, 6, 7, 2], [0, 1, 1, 1, 0], [-1, 0, 0, 1, -1], range(5))
    h = jnp.array([[[9, 9], [1, 1], [3, 3], [7, 7], [8, 8]]], jnp.float32)
    words = w.read_words(batch, pool=pool)
    vector = w.word_vectors(h, words, pool=pool)[0]
    np.testing.assert_allclose(vector[1], expected)
    np.testing.assert_allclose(vector[jnp.array([0, 3, 4])], h[0][jnp.array([0, 3, 4])])
    assert words.is_word_BL[0].tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("swap", [False, True])
def test_words_are_those_of_a_loop_over_pairs(swap):
    alone = pairs_alone(linked_rows(swap=swap).rows(0, 4))
    words = w.read_words(alone)
    for b in range(len(alone["ids"])):
        found = {1: [], 2: []}
        for slot in np.flatnonzero(words.is_word_BL[b]):
            assert words.first_BL[b, slot] == slot
            found[int(words.side_BL[b, slot])].append(
                np.arange(slot, int(words.last_BL[b, slot]) + 1)
            )
        for side in (1, 2):
            for mine, theirs in zip(found[side], words_of(alone, b, side), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_special_tokens_belong_to_the_side_that_they_frame():
    for swap in (False, True):
        batch = linked_rows(swap=swap).rows(0, 4)
        side = np.asarray(w.unit_sides(batch))
        # the loader gives the language to the whole unit: 0 is the source's, 1 the target's
        expected = np.where(batch["example"] > 0, batch["lang"] + 1, 0)
        np.testing.assert_array_equal(side, expected)


def test_frames_pair_the_special_tokens_of_every_example_source_first():
    batch = linked_rows(swap=True).rows(0, 4)
    words = w.read_words(batch)
    pairs = w.frame_pairs(batch, words)
    num = 0
    for b in range(4):
        for number in range(1, batch["example"][b].max() + 1):
            specials = np.flatnonzero((batch["example"][b] == number) & (batch["side"][b] == 0))
            sides = [[s for s in specials if words.side_BL[b, s] == k] for k in (1, 2)]
            for expected in zip(*sides, strict=True):
                assert any(
                    (int(i), int(j)) == expected
                    for i, j, k in zip(*(x[b] for x in pairs), strict=True)
                    if k
                )
                num += 1
    assert num == pairs.keep_BA.sum() > 20


def test_links_of_pieces_come_to_the_first_pieces_of_their_words():
    fields = row([0, 5, 6, 2, 0, 7, 8, 2], [0, 1, 1, 0, 0, 2, 2, 0], [-1, 0, 0, -1, -1, 0, 1, -1],
                 [0, 1, 2, 3, 0, 1, 2, 3])  # fmt: skip
    links = jnp.array([[[2, 5], [1, 5], [1, 6], [-1, -1]]])
    batch = fields | {"links": links, "link_weight": jnp.array([[0.9, 0.4, 0.8, 0.0]])}
    words = w.read_words(batch)
    assert kept(w.linked_words(batch, words)) == [(1, 5), (1, 5), (1, 6)]
    assert kept(w.linked_words(batch, words, min_weight=0.5)) == [(1, 5), (1, 6)]
    pieces = w.read_words(batch, pool="piece")
    assert kept(w.linked_words(batch, pieces)) == [(2, 5), (1, 5), (1, 6)]


def test_words_of_the_same_pieces_are_recognised():
    batch = linked_rows().rows(0, 8)
    alone = pairs_alone(batch)
    words = w.read_words(alone)
    links = w.linked_words(alone, words)
    same = np.asarray(w.same_pieces(alone, words, links))
    seen = 0
    for b in range(len(alone["ids"])):
        starts = [{int(s[0]): s for s in words_of(alone, b, side)} for side in (1, 2)]
        for a in np.flatnonzero(links.keep_BA[b]):
            i, j = starts[0][int(links.src_BA[b, a])], starts[1][int(links.trg_BA[b, a])]
            expected = np.array_equal(alone["ids"][b][i], alone["ids"][b][j])
            assert same[b, a] == expected
            seen += expected
    assert seen > 0, "no name in this text: the test would show nothing"
    assert not same[np.asarray(links.keep_BA)].all()
    removed = sum(num - len(some) for some, num in (kept_links(alone, b) for b in range(len(same))))
    assert removed > seen


def test_another_pool_is_refused():
    with pytest.raises(ValueError, match="pool='max': need one of mean, first, last, piece"):
        w.read_words(linked_rows().rows(0, 1), pool="max")
