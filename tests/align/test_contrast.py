"""Contrast: the worked numbers, torch's cross-entropy, plain loops, masks, margins, blocks, the
queue and the momentum copy.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from torch.nn.functional import cross_entropy

from jalign.align import contrast as c
from jalign.align.word_pairs import WordPairs

ALL3 = jnp.ones(3, bool)


def f32(*rows):
    return jnp.array(rows, jnp.float32)


def pairs_of(num=12, width=6, seed=0, keep=None, text=None):
    rng = np.random.default_rng(seed)
    src, trg = (jnp.array(rng.normal(size=(num, width)), jnp.float32) for _ in range(2))
    return c.Pairs(src, trg, jnp.ones(num, bool) if keep is None else jnp.array(keep), text)


@functools.partial(jax.jit, static_argnames=("rule", "parts"))
def contrast(pairs, rule, tau=1.0, parts=1):
    return c.sentence_contrast(pairs, rule, tau=tau, parts=parts)


words = jax.jit(c.token_contrast, static_argnames="candidates")
info_nce = jax.jit(c.info_nce, static_argnames=("rule", "parts"))


def mean(loss):
    return float(loss.total / loss.count)


# worked numbers: methods.md 10.3, 10.6, 10.7


def test_sentence_alignment_gives_the_worked_numbers():
    pairs = c.Pairs(f32((1, 0), (0, 1), (1, 1)), f32((1, 0.5), (0.2, 1), (1, 0.8)), ALL3)
    forward, backward, both = (
        contrast(pairs, c.Rule("dot", directions=d, reduction="sum"))
        for d in ("forward", "backward", "both")
    )
    assert mean(forward) == pytest.approx(0.8700479, abs=1e-6)
    assert mean(backward) == pytest.approx(0.9199745, abs=1e-6)
    assert mean(both) == pytest.approx(0.8700479 + 0.9199745, abs=1e-6) and both.count == 3
    swapped = contrast(
        c.Pairs(pairs.trg_ND, pairs.src_ND, ALL3), c.Rule("dot", directions="forward")
    )
    assert mean(swapped) == pytest.approx(mean(backward), rel=1e-6)
    for k, expected in enumerate((0.895814, 0.885939, 0.828390)):
        anchors = c.Anchors(pairs.src_ND, pairs.trg_ND, jnp.arange(3) == k, jnp.arange(3))
        keys = c.Keys(pairs.trg_ND, ALL3, jnp.arange(3))
        assert mean(info_nce(anchors, [keys], c.Rule("dot"))) == pytest.approx(expected, abs=1e-6)


def test_sequence_contrast_gives_the_worked_number():
    pairs = c.Pairs(f32((1, 0), (0, 1), (0.6, 0.8)), f32((0.8, 0.6), (0, 1), (1, 0)), ALL3)
    loss = contrast(pairs, c.Rule(), tau=0.1)
    assert mean(loss) == pytest.approx(1.9838475, rel=1e-6) and loss.count == 6
    forward = contrast(pairs, c.Rule(directions="forward"), tau=0.1)
    assert mean(forward) == pytest.approx(np.mean([2.126968, 0.018195, 3.806380]), rel=1e-6)


def test_additive_margin_gives_the_worked_numbers_and_rises_with_the_margin():
    cos = f32((0.9, 0.1, 0.2), (0, 0.8, 0.3), (0.2, 0.4, 0.7))
    candidates = ~jnp.eye(3, dtype=bool)

    def both(margin):
        return [
            float(c.nce(jnp.diag(m), m, candidates, margin=margin).nll_N.mean())
            for m in (cos, cos.T)
        ]

    np.testing.assert_allclose(both(0.3), [0.9150064, 0.9149898], rtol=1e-6)
    np.testing.assert_allclose(both(0.0), [0.7465709, 0.7465354], rtol=1e-6)
    assert sum(both(0.3)) == pytest.approx(1.8299962, rel=1e-6)
    rising = [sum(both(m)) for m in (0.0, 0.1, 0.3, 0.5)]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False))
    wide = [mean(contrast(pairs_of(), c.Rule(margin=m), tau=0.5)) for m in (0, 0.2, 0.4)]
    assert wide == sorted(wide) and wide[0] < wide[2]


def test_contrast_with_a_queue_gives_the_worked_number_and_no_gradient_to_keys():
    queue = c.enqueue(c.empty_queue(3, 2), f32((0, 1), (-1, 0), (0.25, 0)), ALL3)

    def loss(query, key, vectors):
        anchors = c.Anchors(query, jax.lax.stop_gradient(key), jnp.ones(1, bool), jnp.zeros(1, int))
        keys = c.queue_keys(queue._replace(vector_QD=vectors))
        return c.info_nce(anchors, [keys], c.Rule("dot"), tau=0.25).total

    value, grads = jax.value_and_grad(loss, (0, 1, 2))(
        f32((1, 0)), f32((0.5, 0.5)), queue.vector_QD
    )
    assert float(value) == pytest.approx(0.4092536, rel=1e-6)
    assert np.abs(grads[0]).max() > 0.1
    assert not np.any(grads[1]) and not np.any(grads[2])


def word_rows(candidates, **changes):
    vectors = f32((1, 0), (0, 1), (0.8, 0.6), (1, 0), (0, 1))[None]
    example = jnp.ones((1, 5), int)
    side = jnp.array([[1, 1, 2, 2, 2]])
    pairs = WordPairs(jnp.array([[0, 1]]), jnp.array([[2, 4]]), jnp.ones((1, 2), bool))
    args = dict(word_BL=side > 0, example_BL=example, side_BL=side, pairs=pairs) | changes
    return words(vectors, **args, candidates=candidates, tau=0.1)


def test_word_contrast_gives_the_worked_numbers():
    opposite, union = word_rows("opposite"), word_rows("union")
    assert opposite.count == union.count == 2
    assert mean(opposite) == pytest.approx(0.5680340, rel=1e-6)
    assert mean(union) == pytest.approx(0.7458904, rel=1e-6)


@pytest.mark.parametrize("size, begin, num, slots, pointer", [(5, 3, 4, (3, 4, 0, 1), 2)])
def test_the_queue_is_first_in_first_out_with_wrap(size, begin, num, slots, pointer):
    queue = c.empty_queue(size, 1)._replace(pointer=jnp.int32(begin))
    new = jnp.arange(1.0, num + 1)[:, None]
    queue = jax.jit(c.enqueue)(queue, new, jnp.ones(num, bool))
    assert queue.vector_QD.shape == (size, 1) and int(queue.pointer) == pointer
    np.testing.assert_array_equal(queue.vector_QD[jnp.array(slots), 0], new[:, 0])
    assert int(queue.keep_Q.sum()) == num and not queue.keep_Q[2]


def test_the_queue_takes_kept_vectors_only_and_of_too_many_the_last():
    queue = c.empty_queue(4, 1)
    queue = c.enqueue(queue, jnp.arange(6.0)[:, None], jnp.array([0, 1, 0, 1, 1, 0], bool))
    np.testing.assert_array_equal(queue.vector_QD[:, 0], [1, 3, 4, 0])
    np.testing.assert_array_equal(queue.keep_Q, [1, 1, 1, 0])
    queue = c.enqueue(queue, jnp.arange(10.0, 16.0)[:, None], jnp.ones(6, bool))
    assert set(np.asarray(queue.vector_QD[:, 0])) == {12, 13, 14, 15} and int(queue.pointer) == 1
    assert queue.vector_QD[int(queue.pointer), 0] == 12  # the oldest is the next to go


def test_the_momentum_copy_moves_by_its_rule_and_a_momentum_of_one_freezes_it():
    slow, fast = {"w": f32((1.0, 2.0))}, {"w": f32((3.0, -2.0))}
    moved = c.momentum_update(slow, fast, 0.9)
    np.testing.assert_allclose(moved["w"], [[1.2, 1.6]], rtol=1e-6)
    np.testing.assert_array_equal(c.momentum_update(slow, fast, 1.0)["w"], slow["w"])


# against torch and plain loops


def torch_loss(pairs, margin, tau, scale=1.0):
    src, trg = (
        torch.nn.functional.normalize(torch.tensor(np.asarray(x)).double())
        for x in (pairs.src_ND, pairs.trg_ND)
    )
    sim = (src @ trg.T - margin * torch.eye(len(src))) / tau * scale
    at = torch.arange(len(src))
    return cross_entropy(sim, at), cross_entropy(sim.T, at)


@pytest.mark.parametrize("margin, tau", [(0.0, 0.05), (0.3, 1.0), (0.2, 0.1)])
def test_cosine_contrast_equals_the_cross_entropy_of_torch(margin, tau):
    pairs = pairs_of(20, 8, seed=1)
    forward, backward = torch_loss(pairs, margin, tau)
    ours = contrast(pairs, c.Rule(margin=margin), tau=tau)
    assert mean(ours) == pytest.approx(float(forward + backward) / 2, rel=1e-5)
    summed = contrast(pairs, c.Rule(margin=margin, reduction="sum"), tau=tau)
    assert mean(summed) == pytest.approx(float(forward + backward), rel=1e-5)
    one = contrast(pairs, c.Rule(margin=margin, directions="backward"), tau=tau)
    assert mean(one) == pytest.approx(float(backward), rel=1e-5)


def loop(pairs, *, union, text=None):
    """Return loss sums, counts and hits by loops over anchors and candidates (dot product)."""
    src, trg, keep = (np.asarray(x, np.float64) for x in pairs[:3])
    total = hits = 0.0
    for anchors, others in ((src, trg), (trg, src)):
        for i in np.flatnonzero(keep):
            negatives = []
            for j in np.flatnonzero(keep):
                alike = text is not None and bool(set(text[i]) & set(text[j]))
                if j != i and not alike:
                    negatives.append(anchors[i] @ others[j])
                    if union:
                        negatives.append(anchors[i] @ anchors[j])
            positive = anchors[i] @ others[i]
            total += np.log(np.exp([positive, *negatives]).sum()) - positive
            hits += all(positive > x for x in negatives)
    return total, 2 * keep.sum(), hits


@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("parts", [1, 4])
def test_masks_and_candidates_equal_a_plain_loop(union, duplicates, parts):
    rng = np.random.default_rng(2)
    text = rng.integers(0, 14, (12, 2))  # some pairs share a source, a target, or across
    hashed = jnp.stack([jnp.array(text), jnp.array(text) + 7], axis=-1)
    pairs = pairs_of(seed=3, keep=rng.random(12) < 0.8, text=hashed)
    assert len(set(text.ravel())) < text.size
    rule = c.Rule("dot", candidates="union" if union else "opposite", mask_duplicates=duplicates)
    loss = contrast(pairs, rule, parts=parts)
    total, count, hits = loop(pairs, union=union, text=text if duplicates else None)
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    assert loss.count == count and loss.metrics["accuracy"].total == hits


def test_word_contrast_equals_a_plain_loop_over_packed_examples():
    rng = np.random.default_rng(4)
    example = np.repeat([[1, 2], [1, 0]], 10, axis=1)
    side = np.where(example > 0, np.tile(np.repeat([1, 2], 5), 2), 0)
    word = (rng.random((2, 20)) < 0.9) & (example > 0)
    vectors = rng.normal(size=(2, 20, 4))
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    chosen = [[(0, 5), (0, 6), (1, 5), (12, 17)], [(2, 8), (3, 9), (4, 8)]]
    pairs = np.full((2, 4, 2), 0)
    keep = np.zeros((2, 4), bool)
    total = count = 0
    for b, row in enumerate(chosen):
        for k, (i, j) in enumerate(row):
            if not (word[b, i] and word[b, j]):
                continue
            pairs[b, k], keep[b, k] = (i, j), True
    for b in range(2):
        kept = [tuple(p) for p, k in zip(pairs[b], keep[b], strict=True) if k]
        for i, j in kept:
            count += 1
            for a, p in ((i, j), (j, i)):
                synonyms = {y for x, y in kept if x == a} | {x for x, y in kept if y == a}
                rest = [
                    x
                    for x in np.flatnonzero(word[b] & (example[b] == example[b, a]))
                    if x != a and x not in synonyms
                ]
                logit = np.array([unit[b, a] @ unit[b, x] for x in (p, *rest)]) / 0.2
                total += (np.log(np.exp(logit).sum()) - logit[0]) / 2
    found = words(
        jnp.array(vectors, jnp.float32),
        jnp.array(word),
        jnp.array(example),
        jnp.array(side),
        WordPairs(jnp.array(pairs[..., 0]), jnp.array(pairs[..., 1]), jnp.array(keep)),
        tau=0.2,
    )
    assert found.count == count == 4
    assert float(found.total) == pytest.approx(total, rel=1e-5)


def test_a_synonym_beside_the_pairs_is_no_negative():
    # word 3 equals word 0: with it as a negative the loss is high, as a synonym it is left out
    plain = word_rows("opposite")
    synonym = jnp.zeros((1, 5, 5), bool).at[0, 0, 2].set(True).at[0, 1, 4].set(True)
    np.testing.assert_allclose(word_rows("opposite", synonym_BLL=synonym).total, plain.total)
    more = synonym.at[0, 3, 0].set(True)  # given the other way round
    assert word_rows("opposite", synonym_BLL=more).total < plain.total - 0.5


# invariances and edges


def test_order_of_the_batch_padding_and_blocks_change_nothing():
    pairs = pairs_of(seed=5)
    rule = c.Rule(candidates="union", margin=0.1)
    expected = contrast(pairs, rule, tau=0.2)
    order = np.random.default_rng(0).permutation(12)
    shuffled = jax.tree.map(lambda x: x[order], pairs)
    padded = c.Pairs(
        *(jnp.pad(x, ((0, 4), (0, 0)), constant_values=9.0) for x in pairs[:2]),
        jnp.pad(pairs.keep_N, (0, 4)),
    )
    for other, parts in ((shuffled, 1), (padded, 1), (padded, 8), (pairs, 3)):
        loss = contrast(other, rule, tau=0.2, parts=parts)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), loss, expected)
    with pytest.raises(ValueError, match="12 anchors do not divide into parts=5"):
        contrast(pairs, rule, parts=5)


def test_a_pair_alone_has_loss_zero_and_a_finite_gradient():
    pairs = pairs_of(3, keep=[False, True, False])

    def total(src, trg):
        return contrast(pairs._replace(src_ND=src, trg_ND=trg), c.Rule()).total

    value, grads = jax.value_and_grad(total, (0, 1))(pairs.src_ND, pairs.trg_ND)
    assert value == 0 and all(np.array_equal(g, np.zeros_like(g)) for g in grads)
    zero = jax.grad(total)(jnp.zeros_like(pairs.src_ND), pairs.trg_ND)
    assert np.isfinite(zero).all()
    none = contrast(pairs._replace(keep_N=jnp.zeros(3, bool)), c.Rule())
    assert none.total == 0 and none.count == 0


def test_an_endless_temperature_counts_candidates_and_perfect_separation_costs_nothing():
    flat = contrast(pairs_of(), c.Rule(candidates="union"), tau=1e8)
    assert mean(flat) == pytest.approx(np.log(23), rel=1e-5)  # itself is no candidate
    apart = c.Pairs(jnp.eye(12), jnp.eye(12), jnp.ones(12, bool))
    sharp = contrast(apart, c.Rule(), tau=0.01)
    assert mean(sharp) == pytest.approx(0, abs=1e-6)
    assert sharp.metrics["accuracy"].total == 24
    collapsed = contrast(apart._replace(src_ND=jnp.ones((12, 12))), c.Rule())
    assert collapsed.metrics["accuracy"].total == 0  # a tie is no win
    nothing = word_rows(
        "union", pairs=WordPairs(*[jnp.zeros((1, 2), int)] * 2, jnp.zeros((1, 2), bool))
    )
    assert nothing.total == 0 and nothing.count == 0


def test_a_temperature_that_is_learned_gets_its_gradient():
    pairs = pairs_of(seed=6)

    def total(log_scale, parts):
        return contrast(pairs, c.Rule(), tau=jnp.exp(-log_scale), parts=parts).total

    whole, parts = (jax.grad(total)(1.5, n) for n in (1, 4))
    numeric = (total(1.501, 1) - total(1.499, 1)) / 0.002
    assert abs(float(whole)) > 0.1
    np.testing.assert_allclose(whole, numeric, rtol=5e-3)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_over_a_mesh_the_negatives_are_those_of_all_devices():
    pairs = pairs_of(32, 16, seed=7)
    rule = c.Rule(candidates="union", margin=0.1)

    def loss(src, trg):
        return contrast(c.Pairs(src, trg, pairs.keep_N), rule, tau=0.1, parts=2).total

    expected = jax.value_and_grad(loss, (0, 1))(pairs.src_ND, pairs.trg_ND)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    sharded = [jax.device_put(x, rows) for x in pairs[:2]]
    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(*sharded)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected
    )


@pytest.mark.parametrize(
    "entries",
    [dict(similarity="l2"), dict(candidates="all"), dict(directions="x"), dict(reduction="max")],
)
def test_a_wrong_entry_says_what_is_needed(entries):
    with pytest.raises(ValueError, match=f"{next(iter(entries))}=.*need one of"):
        c.Rule(**entries)
