"""VECO 2.0: worked numbers of the word contrast through packed rows, its synonyms, both losses
packed and alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jalign.align import word_pairs as w
from jalign.objectives import veco2
from tests.linked import linked_rows, pairs_alone, words_of

SRC, TRG = [(1, 0), (0, 1)], [(0.8, 0.6), (1, 0), (0, 1)]


def pair_row(src_words, trg_words, links, weights=None, length=16):
    """Make a row of one pair in the separate layout; words have so many pieces each."""
    fields = {name: np.zeros(length, np.int32) for name in veco2.READS[:5]}
    fields["word"][:] = -1
    at, first = 0, []
    for side, words in ((1, src_words), (2, trg_words)):
        begin, starts = at, []
        at += 1
        for number, pieces in enumerate(words):
            starts.append(at)
            fields["side"][at : at + pieces], fields["word"][at : at + pieces] = side, number
            at += pieces
        at += 1
        fields["position"][begin:at] = np.arange(at - begin)
        first.append(starts)
    fields["example"][:at] = 1
    pairs = np.full((1, length, 2), -1, np.int32)
    given = np.zeros((1, length), np.float32)
    for k, (i, j) in enumerate(links):
        pairs[0, k] = first[0][i], first[1][j]
        given[0, k] = 1.0 if weights is None else weights[k]
    return {name: x[None] for name, x in fields.items()} | {"links": pairs, "link_weight": given}


def states_of(batch, src, trg, noise=50.0):
    """Put vectors at the words' first pieces, noise at special tokens and padding."""
    h = np.full((1, 16, 2), noise, np.float32)
    for side, vectors in ((1, src), (2, trg)):
        for slots, vector in zip(words_of(batch, 0, side), vectors, strict=True):
            h[0, slots] = vector
    return h


word_loss = jax.jit(veco2.word_loss, static_argnums=0)


def loss_of(batch, src=SRC, trg=TRG, **changes):
    return word_loss(veco2.Config(**changes), states_of(batch, src, trg), batch)


@pytest.mark.parametrize("candidates, expected", [("opposite", 0.5680340), ("union", 0.7458904)])
def test_word_contrast_gives_the_worked_numbers_on_a_row(candidates, expected):
    # methods.md 10.6: pairs (0, 0) and (1, 2), tau 0.1
    batch = pair_row([1, 2], [1, 3, 1], [(0, 0), (1, 2)])
    loss = loss_of(batch, token_candidates=candidates)
    assert loss.count == 2
    np.testing.assert_allclose(loss.total / loss.count, expected, rtol=1e-5)
    linked = loss.metrics["linked"]
    assert (linked.total, linked.count) == (2, 1)


def test_a_second_copy_of_a_positive_is_no_negative():
    links = [(1, 1), (1, 2)]  # target words 1 and 2 are the same one
    trg = [(0.8, 0.6), (0, 1), (0, 1)]
    two = loss_of(pair_row([1, 1], [1, 1, 1], links), trg=trg)
    # what every anchor has left: source 0, at a cosine of 0, and target 0, at 0.6
    expected = np.log(np.exp(10) + np.exp(0) + np.exp(6)) - 10
    assert two.count == 2
    np.testing.assert_allclose(two.total / 2, expected, rtol=1e-4)
    # the links beyond the thesaurus's limit have weight 0: neither positive nor negative
    cut = loss_of(pair_row([1, 1], [1, 1, 1], links, weights=[1.0, 0.0]), trg=trg)
    assert cut.count == 1
    np.testing.assert_allclose(cut.total, two.total / 2, rtol=1e-5)


def test_words_that_share_a_translation_are_synonyms():
    batch = pair_row([1, 1, 1], [1, 1], [(0, 0), (1, 0), (2, 1)])
    found = np.asarray(veco2.synonyms(batch, w.read_words(batch)))[0]
    slots = [int(x[0]) for side in (1, 2) for x in words_of(batch, 0, side)]
    expected = np.eye(5, dtype=bool)
    for group in ((0, 1, 3), (2, 4)):
        for i in group:
            expected[i, list(group)] = True
    np.testing.assert_array_equal(found[np.ix_(slots, slots)], expected)
    assert found.sum() == expected.sum(), "nothing but words"


def test_without_links_nothing_is_counted_and_gradients_are_finite():
    batch = pair_row([1, 2], [1, 3, 1], [])
    loss = loss_of(batch)
    assert loss.total == 0 and loss.count == 0

    def total(h_BLD):
        return veco2.word_loss(veco2.Config(), h_BLD, batch).total

    grad = jax.jit(jax.grad(total))(jnp.zeros((1, 16, 2)))
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_an_endless_temperature_counts_the_candidates():
    batch = pair_row([1, 2], [1, 3, 1], [(0, 0), (1, 2)])
    for candidates, num in (("union", 4), ("opposite", None)):
        loss = loss_of(batch, token_tau=1e9, token_candidates=candidates)
        expected = np.log(num) if num else (np.log(3) + np.log(2)) / 2
        np.testing.assert_allclose(loss.total / loss.count, expected, rtol=1e-5)


def padded(batch, rows=16):
    blank = {"ids": 1, "word": -1, "links": -1}
    lack = rows - len(batch["ids"])
    return {
        name: np.concatenate([x, np.full((lack, *x.shape[1:]), blank.get(name, 0), x.dtype)])
        for name, x in batch.items()
    }


def test_packed_losses_are_those_of_each_pair_alone_in_any_number_of_microbatches(encoder, params):
    packed = linked_rows(pieces=40).rows(0, 2)
    alone = pairs_alone(packed)
    assert 4 < len(alone["ids"]) <= 16
    runs = {}
    for parts in (1, 4):
        made = veco2.make(veco2.Config(), encoder._replace(accumulate=parts))
        runs[parts] = jax.jit(lambda b, o=made: o.loss(params, {}, {"pair": b}, None))
    one, other = runs[1](padded(packed)), runs[1](padded(alone))
    split = runs[4](padded(alone))
    for part in veco2.PARTS:
        assert one[part].count == other[part].count == split[part].count > 4
        np.testing.assert_allclose(other[part].total, one[part].total, rtol=1e-5)
        np.testing.assert_allclose(split[part].total, one[part].total, rtol=1e-5)


def test_each_loss_alone_reads_what_it_needs(encoder):
    for losses, has_links in ((("s2s",), False), (("t2t",), True), (("t2t", "s2s"), True)):
        objective = veco2.make(veco2.Config(losses=losses), encoder)
        assert objective.parts == tuple(sorted(losses))
        assert ("links" in objective.reads) == has_links


@pytest.mark.parametrize(
    "entries, message",
    [
        (dict(losses=("mlm",)), "need some of s2s, t2t"),
        (dict(token_candidates="all"), "need one of opposite, union"),
        (dict(word_pool="max"), "need one of mean, first, last, piece"),
        (dict(token_tau=0.0), "token_tau=0.0: need more than 0"),
        (dict(candidates="all"), "need one of opposite, union"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(entries, message):
    with pytest.raises(ValueError, match=message):
        veco2.Config(**entries)
