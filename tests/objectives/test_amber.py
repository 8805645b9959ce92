"""AMBER: nothing leaks in the two passes of word alignment; packed equals unpacked; both losses
equal plain loops over pairs.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import linen as nn

from jalign.encoders import bert, modernbert
from jalign.nn.packed import unit_ids
from jalign.objectives import amber
from jalign.types import Encoder
from tests.objectives.test_mlm import one_example_per_row
from tests.tiny import TOKENS, VOCAB, rows_of

ROWS = 8
FAMILIES = {
    "bert": (bert, dict(layers=2, max_positions=66, init_std=0.5)),
    # a local layer whose window is shorter than the pairs, between two global ones
    "modernbert": (modernbert, dict(layers=3, global_every=2, local_attention=6, init_std=0.5)),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def both(request):
    """Return an encoder and its parameters."""
    family, shape = FAMILIES[request.param]
    shape = shape | dict(hidden=16, heads=2, mlp=32, dropout=0.0, attention_dropout=0.0)
    cfg = family.Config(vocab_size=VOCAB, **shape)

    def first_layers(params, num):
        cut, params = family.first_layers(cfg, params, num)
        return family.make(cut), params

    def top_queries(params, h_BLD, position_BL):
        return family.top_queries(cfg, params, h_BLD, position_BL)

    module = family.make(cfg)
    draw = jax.jit(lambda key: nn.unbox(family.init_params(module, key)))
    encoder = Encoder(module, TOKENS, first_layers=first_layers, top_queries=top_queries)
    return encoder, {"encoder": draw(jax.random.key(0))}


@pytest.fixture(scope="module")
def passes(both):
    """Return the pass of each reader: batch -> (states below the last layer, its attention)."""
    encoder, params = both
    attention = amber.make_attention(amber.Config(), encoder)
    below = encoder.module.cfg.layers - 1

    def run(batch, reader):
        order = amber.side_order(batch, reader)
        module, first = encoder.first_layers(params["encoder"], below)
        fields = (batch["ids"], batch["position"], unit_ids(batch))
        h_BLD = module.apply({"params": first}, *fields, order=order)
        return h_BLD, attention(params, batch, order, None)

    compiled = jax.jit(run, static_argnums=1)
    return lambda batch, reader: jax.tree.map(np.asarray, compiled(batch, reader))


def padded(batch):
    """Add empty rows up to ROWS, so that one compiled program serves every layout of the pairs."""
    blank = {"ids": 1, "word": -1}
    lack = ROWS - len(batch["ids"])
    return {
        name: np.concatenate([x, np.full((lack, *x.shape[1:]), blank.get(name, 0), x.dtype)])
        for name, x in batch.items()
    }


def changed(batch, row, slots, to):
    ids = batch["ids"].copy()
    ids[row, slots] = to
    return batch | {"ids": ids}


def pair_of(batch, row, number=1):
    """Return the slots of the two sides of a pair, each with the special tokens it is read with."""
    at = np.flatnonzero(batch["example"][row] == number)
    first = np.flatnonzero(batch["side"][row][at] == 2)[0]
    return at[:first], at[first:]


@pytest.mark.parametrize("reader", [1, 2])
def test_no_information_leaks_into_the_side_that_is_read(passes, reader):
    batch = padded(rows_of("joint").rows(2, 2))
    sides = pair_of(batch, 0)
    reads, other = sides[reader - 1], sides[2 - reader]
    before = passes(batch, reader)
    content = [s for s in reads if batch["side"][0, s] > 0]
    after = passes(changed(batch, 0, content, 7), reader)
    np.testing.assert_array_equal(after[0][0, other], before[0][0, other])
    np.testing.assert_array_equal(after[1][0, :, other], before[1][0, :, other])
    assert not np.allclose(after[0][0, reads], before[0][0, reads])
    # the other way it must flow
    content = [s for s in other if batch["side"][0, s] > 0]
    after = passes(changed(batch, 0, content, 7), reader)
    assert (np.abs(after[1][0][:, reads] - before[1][0][:, reads]).max(axis=(0, 2)) > 0).all()


@pytest.mark.parametrize("reader", [1, 2])
def test_a_slot_that_reads_does_not_see_what_comes_after_it(passes, reader):
    batch = padded(rows_of("joint").rows(2, 2))
    reads = pair_of(batch, 0)[reader - 1]
    before = passes(batch, reader)
    content = [s for s in reads if batch["side"][0, s] > 0]
    assert len(content) > 3
    for slot in content[:: max(len(content) // 3, 1)]:
        after = passes(changed(batch, 0, slot, 7), reader)
        earlier, later = reads[reads < slot], reads[reads > slot]
        for old, new in zip(before, after, strict=True):
            axis = 0 if old.ndim == 3 else 1
            old, new = (np.moveaxis(x[0], axis, 0) for x in (old, new))
            np.testing.assert_array_equal(new[earlier], old[earlier])
            if later.size:
                assert not np.array_equal(new[later], old[later])
        assert not before[1][0, :, slot, reads[reads >= slot]].any()


def test_a_side_that_is_read_has_the_states_of_its_sentence_alone(passes):
    batch = padded(rows_of("joint").rows(2, 2))
    src, _ = pair_of(batch, 0)
    alone = {name: np.zeros_like(x) for name, x in batch.items()}
    for name in set(batch) - {"row"}:
        alone[name][0, : src.size] = batch[name][0, src]
    together, single = passes(batch, 2)[0], passes(alone, 2)[0]
    np.testing.assert_allclose(together[0, src], single[0, : src.size], rtol=1e-5, atol=1e-5)


def test_what_others_read_in_a_row_does_not_matter(passes):
    batch = padded(rows_of("joint").rows(2, 2))
    assert batch["example"][0].max() > 1
    second = np.concatenate(pair_of(batch, 0, 2))
    before, after = passes(batch, 2), passes(changed(batch, 0, second, 7), 2)
    first = np.concatenate(pair_of(batch, 0, 1))
    for old, new in zip(before, after, strict=True):
        old, new = (np.moveaxis(x[0], 0 if x.ndim == 3 else 1, 0) for x in (old, new))
        np.testing.assert_array_equal(new[first], old[first])


@pytest.fixture(scope="module")
def losses(both):
    encoder, params = both
    objective = amber.make(amber.Config(), encoder)
    return jax.jit(lambda batches: objective.loss(params, {}, batches, None))


@pytest.fixture(scope="module")
def batches():
    return {"pair": rows_of("joint").rows(2, 2), "separate": rows_of("separate").rows(0, 2)}


def test_packed_losses_are_those_of_each_pair_alone(losses, batches):
    packed = {name: padded(batch) for name, batch in batches.items()}
    alone = {name: padded(one_example_per_row(batch)) for name, batch in batches.items()}
    mine, theirs = losses(packed), losses(alone)
    for part in amber.LOSSES:
        assert mine[part].count == theirs[part].count >= 4
        np.testing.assert_allclose(mine[part].total, theirs[part].total, rtol=1e-5)


def test_losses_equal_plain_loops_over_pairs(both, losses, passes, batches):
    encoder, params = both
    found = losses({name: padded(batch) for name, batch in batches.items()})
    alone = padded(one_example_per_row(batches["pair"]))
    looks = [passes(alone, reader)[1] for reader in (1, 2)]
    total = 0.0
    for b in range(int(found["wa"].count)):
        src, trg = (np.flatnonzero(alone["side"][b] == side) for side in (1, 2))
        to_trg = looks[0][b][:, src[:, None], trg].astype(np.float64)
        to_src = looks[1][b][:, trg[:, None], src].astype(np.float64)
        agreed = [np.trace(x @ y) for x, y in zip(to_trg, to_src, strict=True)]
        total += 1 - np.mean(agreed) / min(src.size, trg.size)
    np.testing.assert_allclose(found["wa"].total, total, rtol=1e-5)

    alone = padded(one_example_per_row(batches["separate"]))
    fields = (alone["ids"], alone["position"], unit_ids(alone))
    states = jax.jit(encoder.module.apply)({"params": params["encoder"]}, *fields)
    states, unit = np.asarray(states, np.float64), np.asarray(fields[2])
    num = int(found["sa"].count)
    mean = [[states[b][unit[b] == side].mean(axis=0) for b in range(num)] for side in (1, 2)]
    total = 0.0
    for side in (0, 1):
        for i in range(num):
            others = [mean[s][j] for s in (0, 1) for j in range(num) if (s, j) != (side, i)]
            logits = np.array(others) @ mean[side][i]
            own = mean[1 - side][i] @ mean[side][i]
            total += np.log(np.exp(logits - own).sum())
    np.testing.assert_allclose(found["sa"].total, total, rtol=1e-4)


@pytest.mark.parametrize(
    "entries, layouts, message",
    [
        (dict(losses=("wa", "tlm")), {}, "need some of wa, sa"),
        (dict(losses=()), {}, "need some of wa, sa"),
        (dict(similarity="euclid"), {}, "similarity='euclid'"),
        ({}, dict(pair="separate"), "set config.streams.pair.layout='joint'"),
        ({}, dict(separate="joint"), "set config.streams.separate.layout='separate'"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(entries, layouts, message):
    module = bert.make(bert.Config(vocab_size=VOCAB))
    with pytest.raises(ValueError, match=message):
        amber.make(amber.Config(**entries), Encoder(module, TOKENS, layouts=layouts))


def test_each_loss_alone_reads_its_own_stream():
    encoder = Encoder(bert.make(bert.Config(vocab_size=VOCAB)), TOKENS)
    for losses, streams in ((("wa",), ("pair",)), (("sa",), ("separate",))):
        objective = amber.make(amber.Config(losses=losses), encoder)
        assert (objective.streams, objective.parts) == (streams, losses)
