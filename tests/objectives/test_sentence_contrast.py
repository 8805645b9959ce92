"""LaBSE, InfoXLM and DAP on packed pairs: equal to torch or loops over sentences encoded alone;
what the decoder may not see; wrong entries.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from torch.nn.functional import cross_entropy, normalize

from jalign.align.sentences import room, sentence_vectors
from jalign.encoders import bert
from jalign.objectives import dap, infoxlm, labse
from jalign.types import Encoder
from tests.tiny import TOKENS, VOCAB, rows_of

SHAPE = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5)
CFG = bert.Config(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **SHAPE)
KEY = jax.random.key(1)


def layers_of(cut):
    def of(params, num):
        cfg, params = cut(CFG, params, num)
        return bert.make(cfg), params

    return of


@pytest.fixture(scope="module")
def encoder():
    return Encoder(
        bert.make(CFG),
        TOKENS,
        max_unit={"pair": 32},
        first_layers=layers_of(bert.first_layers),
        last_layers=layers_of(bert.last_layers),
        languages=("en", "de"),
    )


@pytest.fixture(scope="module")
def batch():
    return rows_of("separate", seed=4).rows(0, 4)


@pytest.fixture(scope="module")
def alone(encoder, params, batch):
    """Give the states of every layer of each sentence encoded alone: [pairs][side] -> [Y, S, D]."""
    texts = []
    for row in range(len(batch["ids"])):
        for number in range(1, batch["example"][row].max() + 1):
            at = np.flatnonzero(batch["example"][row] == number)
            cut = np.flatnonzero(batch["position"][row][at] == 0)[1]
            texts += [batch["ids"][row][at[:cut]], batch["ids"][row][at[cut:]]]
    ids = np.ones((len(texts), 32), np.int32)
    for k, text in enumerate(texts):
        ids[k, : len(text)] = text
    real = np.arange(32) < np.array([[len(t)] for t in texts])
    place = np.broadcast_to(np.arange(32), ids.shape) * real
    run = jax.jit(lambda p, *x: encoder.module.apply({"params": p["encoder"]}, *x, all_layers=True))
    states = np.asarray(run(params, ids, place, real.astype(np.int32)))
    kept = [states[:, k, : len(t)] for k, t in enumerate(texts)]
    return list(zip(kept[::2], kept[1::2], strict=True))


def losses_of(objective, params, batch, aux=None, key=None):
    run = jax.jit(lambda p, a, b: objective.loss(p, a, {"pair": b}, key))
    return run(params, aux or {}, batch)


def firsts(alone, layer):
    """Return the first states of all sources and of all targets, as torch matrices."""
    return [torch.tensor(np.stack([pair[side][layer, 0] for pair in alone])) for side in (0, 1)]


def test_labse_is_the_cross_entropy_of_torch_over_sentences_encoded_alone(
    encoder, params, batch, alone
):
    objective = labse.make(labse.Config(tau=0.5), encoder)
    loss = losses_of(objective, params, batch)
    src, trg = (normalize(x) for x in firsts(alone, -1))
    sim, at = (src @ trg.T - 0.3 * torch.eye(len(src))) / 0.5, torch.arange(len(src))
    expected = cross_entropy(sim, at, reduction="sum") + cross_entropy(sim.T, at, reduction="sum")
    assert loss.count == len(alone) > 5 and loss.metrics["over"].total == 0
    np.testing.assert_allclose(loss.total, float(expected), rtol=1e-5)


def test_pairs_without_room_are_left_out_and_counted(encoder, params, batch, alone):
    objective = labse.make(labse.Config(max_pairs=1), encoder)
    loss = losses_of(objective, params, batch)
    assert loss.count == 4 and loss.metrics["over"].total == len(alone) - 4
    assert room(64, 0) == 10 and room(64, 3) == 3 and room(64, 99) == 10


def test_mean_vectors_and_texts_are_those_of_the_sentences(encoder, batch, alone):
    # rows again in another order: equal texts have equal numbers, different ones have not
    states = jnp.arange(4 * 64 * 2, dtype=jnp.float32).reshape(4, 64, 2)
    run = jax.jit(lambda h, b: sentence_vectors(h, b, 10, pool="mean"))
    found = run(states, batch)
    keep = np.asarray(found.keep_BE)
    text = np.asarray(found.text_BE2T)[keep].reshape(-1, 2)
    assert keep.sum() == len(alone) and len({tuple(t) for t in text}) == len(text)
    again = run(states, {n: x[::-1] for n, x in batch.items()})
    np.testing.assert_array_equal(np.asarray(again.text_BE2T)[::-1][keep], found.text_BE2T[keep])
    row, first = 1, np.flatnonzero((batch["example"][1] == 1) & (batch["position"][1] == 0))
    end = np.flatnonzero(batch["example"][1] == 1).max() + 1
    expected = states[row, first[1] : end].mean(axis=0)
    np.testing.assert_allclose(found.trg_BED[row, 0], expected, rtol=1e-6)


def info_params(params):
    kernel = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    return params | {infoxlm.HEAD: {"kernel": kernel}}


def test_infoxlm_contrasts_with_the_queue_alone_and_gives_its_keys_to_it(
    encoder, params, batch, alone
):
    cfg = infoxlm.Config(layer=1, queue=16, rate=0.0, mixup=False, momentum=0.75)
    objective, mine = infoxlm.make(cfg, encoder), info_params(params)
    aux = objective.init_aux(mine)
    empty = losses_of(objective, mine, batch, aux)
    assert empty.total == 0 and empty.count == len(alone)
    changed = jax.tree.map(lambda x: x * 1.5, mine)
    aux = jax.jit(objective.update_aux)(aux, changed, empty.carry)
    for name in ("word_embeddings", "embedding_norm"):  # 0.75 x 1 + 0.25 x 1.5 = 1.125
        jax.tree.map(
            lambda s, f: np.testing.assert_allclose(s, 1.125 * f, rtol=1e-6),
            aux["slow"]["encoder"][name],
            mine["encoder"][name],
        )
    assert jax.tree.leaves(aux["slow"]["encoder"]["layers"])[0].shape[0] == 1  # up to the layer
    src, trg = (x @ torch.tensor(mine[infoxlm.HEAD]["kernel"]) for x in firsts(alone, 1))
    keys = np.concatenate([trg, src])  # those of the first batch, by the slow copy as it was
    kept = keys[-16:] if len(keys) > 16 else keys
    held = np.asarray(aux["queue"].vector_QD)[np.asarray(aux["queue"].keep_Q)]
    np.testing.assert_allclose(sorted(held.tolist()), sorted(kept.tolist()), rtol=2e-5, atol=1e-5)
    aux["slow"] = objective.init_aux(mine)["slow"]  # so that keys are of the same model
    for similarity, prepare in (("dot", lambda x: x), ("cosine", torch.nn.functional.normalize)):
        objective = infoxlm.make(replace(cfg, similarity=similarity), encoder)
        loss, total = losses_of(objective, mine, batch, aux), 0.0
        a, b, waiting = prepare(src), prepare(trg), prepare(torch.tensor(kept))
        for query, key in ((a, b), (b, a)):
            logit = torch.cat([(query * key).sum(1, keepdim=True), query @ waiting.T], 1)
            zero = torch.zeros(len(query), dtype=torch.long)
            total += float(cross_entropy(logit / 0.25, zero, reduction="sum")) / 2
        np.testing.assert_allclose(loss.total, total, rtol=1e-4)
    assert loss.metrics["filled"].total == min(len(keys), 16)


def test_infoxlm_with_joined_masked_inputs_sends_gradient_to_queries_only(encoder, params, batch):
    cfg = infoxlm.Config(layer=1, queue=64, directions="flip")
    objective, mine = infoxlm.make(cfg, encoder), info_params(params)
    mine[infoxlm.HEAD]["kernel"] *= 0.1  # else the softmax is saturated
    aux = objective.init_aux(mine)
    aux["queue"] = aux["queue"]._replace(
        vector_QD=jax.random.normal(KEY, (64, 16)), keep_Q=jnp.ones(64, bool)
    )

    def total(params, slow, vectors):
        queue = aux["queue"]._replace(vector_QD=vectors)
        return objective.loss(params, {"slow": slow, "queue": queue}, {"pair": batch}, KEY).total

    grads = jax.jit(jax.grad(total, (0, 1, 2)))(mine, aux["slow"], aux["queue"].vector_QD)
    assert not any(np.any(x) for x in jax.tree.leaves(grads[1:]))
    assert np.abs(grads[0][infoxlm.HEAD]["kernel"]).max() > 0
    layers = grads[0]["encoder"]["layers"]["mlp_in"]["kernel"]
    assert np.abs(layers[0]).max() > 0 and not np.any(layers[1])  # above the layer
    whole = infoxlm.make(replace(cfg, rate=0.5), encoder)
    one, other = (losses_of(whole, mine, batch, aux, jax.random.key(k)) for k in (1, 2))
    assert one.total != other.total and one.count == other.count


def dap_params(objective, encoder, params):
    rng = np.random.default_rng(1)
    dense = {"kernel": rng.normal(size=(16, 16)), "bias": rng.normal(size=16)}
    head = {dap.POOLER: {"dense": jax.tree.map(jnp.float32, dense)}}
    return params | head | objective.init_heads(params)


def test_dap_ranks_through_its_pooler_and_writes_one_side_from_the_other(
    encoder, params, batch, alone
):
    objective = dap.make(dap.Config(into="de", room=1.0, layers=1), encoder)
    mine = dap_params(objective, encoder, params)
    for copy, layers in zip(
        *map(jax.tree.leaves, (mine[dap.DECODER]["layers"], params["encoder"]["layers"])),
        strict=True,
    ):
        np.testing.assert_array_equal(copy[0], layers[1])
    found = losses_of(objective, mine, batch)
    dense = {n: torch.tensor(np.asarray(x)) for n, x in mine[dap.POOLER]["dense"].items()}
    src, trg = (
        normalize(torch.tanh(x @ dense["kernel"] + dense["bias"])) for x in firsts(alone, -1)
    )
    sim, at = src @ trg.T / 0.05, torch.arange(len(src))
    expected = cross_entropy(sim, at, reduction="sum") + cross_entropy(sim.T, at, reduction="sum")
    ranked, written = (found[name] for name in dap.PARTS)
    np.testing.assert_allclose(ranked.total, float(expected), rtol=1e-4)
    assert ranked.count == 2 * len(alone)
    total, count = written_alone(encoder, mine, batch, alone)
    assert written.count == count > 50 and written.metrics["over_cap"].total == 0
    np.testing.assert_allclose(written.total, total, rtol=1e-5)


def written_alone(encoder, params, batch, alone):
    """Write each target with the last layer from `alone`'s source states, one pair at a time."""
    module, last = encoder.last_layers(params["encoder"], 1)
    variables = {"params": last | params[dap.DECODER]}

    @jax.jit
    def decode(states, position, unit):
        def run(module):
            mask = jnp.full(position.shape, TOKENS.mask)
            empty = module.embed(mask, position).reshape(states.shape)
            mixed = jnp.where(jnp.isnan(states), empty, states)
            h = module(mask, position, unit, states_BLD=mixed)[0]
            table, bias = module.output()
            return jax.nn.log_softmax(module.transform(h) @ table.T + bias)

        return nn.apply(run, module)(variables)

    total = count = k = 0
    for row in range(len(batch["ids"])):
        for number in range(1, batch["example"][row].max() + 1):
            at = np.flatnonzero(batch["example"][row] == number)
            size = [len(side[0]) for side in alone[k]]
            states, position, unit = (
                np.zeros((1, 64, 16)),
                np.zeros((1, 64), int),
                np.zeros(64, int),
            )
            states[0, : size[0]] = alone[k][0][-1]
            states[0, size[0] : sum(size)] = np.nan
            position[0, : sum(size)] = batch["position"][row][at]
            unit[: sum(size)] = position[0, : sum(size)] > 0
            log_prob = np.asarray(decode(jnp.float32(states), position, unit[None]))
            for slot in range(size[0] + 1, sum(size)):
                total -= log_prob[slot, batch["ids"][row][at[slot]]]
                count += 1
            k += 1
    return total, count


def test_the_decoder_sees_nothing_of_what_it_writes(encoder, params, batch):
    translate = dap._make_translate(dap.Config(into="de", room=1.0), encoder)
    mine = dap_params(dap.make(dap.Config(into="de"), encoder), encoder, params)
    states = jax.random.normal(KEY, (4, 64, 16))
    run = jax.jit(lambda h: translate(mine, h, batch, None).total)
    hidden = (batch["lang"] == 1) | (batch["position"] == 0)
    other = jnp.where(hidden[..., None], -3.0 * states, states)
    np.testing.assert_array_equal(run(states), run(other))
    assert run(states) != run(1.1 * states)


@pytest.mark.parametrize(
    "module, entries, message",
    [
        (labse, dict(pool="max"), "pool='max': need one of cls, mean"),
        (labse, dict(tau=0.0), "tau=0.0"),
        (labse, dict(candidates="all"), "need one of opposite, union"),
        (infoxlm, dict(layer=3), "layer=3: the encoder has 2 layers"),
        (infoxlm, dict(layer=1, momentum=1.5), "momentum=1.5"),
        (infoxlm, dict(layer=1, directions="forward"), "need one of both, flip"),
        (infoxlm, dict(layer=1, rate=dict(begin=0.1)), "need a number"),
        (dap, dict(into="fr"), "into='fr': need src, trg, or a language of the data"),
        (dap, dict(room=0.0), "room=0.0"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(encoder, module, entries, message):
    with pytest.raises(ValueError, match=message):
        module.make(module.Config(**entries), encoder)


def test_wrong_streams_and_encoders_are_refused(encoder):
    for module in (labse, infoxlm, dap):
        with pytest.raises(ValueError, match="must not see the translation"):
            module.make(module.Config(), encoder._replace(layouts={"pair": "joint"}))
    with pytest.raises(ValueError, match="max_unit=32, or mixup=False"):
        infoxlm.make(infoxlm.Config(layer=1), encoder._replace(max_unit={"pair": 33}))
    with pytest.raises(ValueError, match="family='bert'"):
        dap.make(dap.Config(), encoder._replace(last_layers=None))
