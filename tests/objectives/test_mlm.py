"""MLM and TLM: the packed loss is that of each example alone, and of a loop over numpy arrays."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import linen as nn

from jalign.encoders import bert
from jalign.nn.packed import unit_ids
from jalign.objectives import mlm, tlm
from jalign.types import Encoder, TokenIds
from tests.tiny import VOCAB, rows_of

TOKENS = TokenIds(mask=VOCAB - 1, specials=(0, 1, 2, 3, VOCAB - 1))
# Selects every token and keeps all of them: no draw matters, so that layouts can be compared.
EVERYTHING = dict(rate=1 - 1e-9, mask=0.0, replace=0.0)


@pytest.fixture(scope="module")
def encoder():
    shape = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5)
    cfg = bert.Config(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **shape)
    return Encoder(bert.make(cfg), TOKENS)


@pytest.fixture(scope="module")
def params(encoder):
    draw = jax.jit(lambda key: nn.unbox(bert.init_params(encoder.module, key)))
    return {"encoder": draw(jax.random.key(0))}


def loss_of(objective, params, stream, batch, key=None):
    return jax.jit(lambda b: objective.loss(params, {}, {stream: b}, key))(batch)


def one_example_per_row(packed):
    """Lay every example of a packed batch alone into a row of 64."""
    alone = {name: [] for name in packed}
    for b, examples in enumerate(packed["example"]):
        for number in range(1, examples.max() + 1):
            at = examples == number
            alone["row"].append(len(alone["row"]))
            for name in set(packed) - {"row"}:
                padded = np.full(64, {"ids": 1, "word": -1}.get(name, 0))
                padded[: at.sum()] = 1 if name == "example" else packed[name][b][at]
                alone[name].append(padded)
    return {name: np.array(values, np.int32) for name, values in alone.items()}


@pytest.mark.parametrize(
    "module, stream, layout", [(mlm, "mono", "single"), (tlm, "pair", "joint")]
)
def test_packed_loss_is_the_sum_over_examples_alone(encoder, params, module, stream, layout):
    objective = module.make(module.Config(**EVERYTHING), encoder)
    packed = rows_of(layout).rows(2, 2)
    alone = one_example_per_row(packed)
    mine, theirs = (loss_of(objective, params, stream, b) for b in (packed, alone))
    assert mine.count == theirs.count == (packed["side"] > 0).sum()
    np.testing.assert_allclose(mine.total, theirs.total, rtol=1e-5)
    np.testing.assert_allclose(mine.metrics["accuracy"].total, theirs.metrics["accuracy"].total)


def test_loss_equals_a_loop_over_all_positions(encoder, params):
    objective = mlm.make(mlm.Config(**EVERYTHING), encoder)
    batch = rows_of("single").rows(0, 2)

    def logits(module, b):
        h_BLD = module(b["ids"], b["position"], unit_ids(b))
        table_VD, bias_V = module.output()
        return module.transform(h_BLD) @ table_VD.T + bias_V

    variables = {"params": params["encoder"]}
    logits_BLV = np.asarray(nn.apply(logits, encoder.module)(variables, batch), np.float64)
    total = right = 0
    for b, slot in zip(*np.nonzero(batch["side"] > 0), strict=True):
        row, target = logits_BLV[b, slot], batch["ids"][b, slot]
        total += np.log(np.exp(row).sum()) - row[target]
        right += row.argmax() == target
    loss = loss_of(objective, params, "mono", batch)
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)
    assert loss.metrics["accuracy"].total == right


def test_groups_of_the_gather_do_not_change_the_loss(encoder, params):
    batch, key = rows_of("single").rows(0, 8), jax.random.key(1)
    one, four = (mlm.make(mlm.Config(), encoder._replace(num_groups=g)) for g in (1, 4))
    mine, theirs = (loss_of(objective, params, "mono", batch, key) for objective in (one, four))
    np.testing.assert_allclose(mine.total, theirs.total, rtol=1e-5)
    assert mine.count == theirs.count > 0 == mine.metrics["over_cap"].total


def test_tokens_past_the_room_of_the_gather_stay_as_they_are():
    kept = mlm._within_cap(np.ones((2, 6), bool), 4, 2)
    assert kept.tolist() == [[True] * 4 + [False] * 2] * 2


def test_the_evaluation_loss_is_the_same_at_every_call(encoder, params):
    objective = mlm.make(mlm.Config(), encoder)
    batch = rows_of("single").rows(0, 4)
    first, again = (loss_of(objective, params, "mono", batch).total for _ in range(2))
    other = loss_of(objective, params, "mono", batch, jax.random.key(5)).total
    assert first == again != other


@pytest.mark.parametrize("bad", [dict(rate=0.0), dict(rate=1.0), dict(mask=0.9, replace=0.2)])
def test_impossible_rates_are_refused(bad):
    with pytest.raises(ValueError, match="masking needs"):
        mlm.Config(**bad)
