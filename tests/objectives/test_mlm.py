"""MLM and TLM: the packed loss is that of each example alone, and of a loop over numpy arrays."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import linen as nn

from jalign import config
from jalign.errors import ConfigError
from jalign.nn.packed import unit_ids
from jalign.objectives import mlm, tlm
from tests.tiny import rows_of

# Selects every token and keeps all of them: no draw matters, so that layouts can be compared.
EVERYTHING = dict(rate=1 - 1e-9, mask=0.0, replace=0.0)
BOTH = [(mlm, "mono", "single"), (tlm, "pair", "joint")]


def loss_of(objective, params, stream, batch, key=None, aux=None):
    return jax.jit(lambda b, a: objective.loss(params, a, {stream: b}, key))(batch, aux or {})


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


@pytest.mark.parametrize("module, stream, layout", BOTH)
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


STAIRS = {"values": (0.5, 0.15, 0.05), "boundaries": (2, 3)}


@pytest.mark.parametrize("module, stream, layout", BOTH)
def test_a_rate_on_a_schedule_decides_how_many_tokens_each_step_masks(
    encoder, params, module, stream, layout
):
    objective = module.make(module.Config(rate=STAIRS), encoder)
    source, aux = rows_of(layout), objective.init_aux(params)
    loss = jax.jit(lambda aux, batch, key: objective.loss(params, aux, {stream: batch}, key))
    rates = []
    for step in range(5):
        batch = source.rows(8 * step, 8)
        out = loss(aux, batch, jax.random.key(step))
        content, rate = (batch["side"] > 0).sum(), float(out.metrics["rate"].total)
        spread = np.sqrt(content * rate * (1 - rate))
        assert abs(out.count - content * rate) < 4 * spread
        assert out.metrics["rate"].count == 1 and out.metrics["over_cap"].total == 0
        rates.append(rate)
        aux = objective.update_aux(aux, params, out.carry)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.15, 0.05, 0.05], rtol=1e-6)


def test_a_number_and_a_schedule_of_one_value_mask_the_same_tokens(encoder, params):
    batch, key = rows_of("single").rows(0, 4), jax.random.key(2)
    plain, scheduled = (
        mlm.make(mlm.Config(rate=rate), encoder)
        for rate in (0.15, {"begin": 0.15, "end": 0.15, "steps": 1})
    )
    assert plain.init_aux(params) == {} == plain.update_aux({}, params, ())
    mine = loss_of(scheduled, params, "mono", batch, key, scheduled.init_aux(params))
    theirs = loss_of(plain, params, "mono", batch, key)
    np.testing.assert_allclose(mine.total, theirs.total, rtol=1e-6)
    assert mine.count == theirs.count > 0
    assert set(mine.metrics) - set(theirs.metrics) == {"rate"}


def test_evaluation_masks_at_the_last_rate_whatever_the_step(encoder, params):
    batch = rows_of("single").rows(0, 4)
    scheduled, plain = (mlm.make(mlm.Config(rate=rate), encoder) for rate in (STAIRS, 0.05))
    early, late = (
        loss_of(scheduled, params, "mono", batch, aux={"step": np.int32(step)}) for step in (0, 9)
    )
    wanted = loss_of(plain, params, "mono", batch)
    assert early.total == late.total and early.count == late.count == wanted.count > 0
    np.testing.assert_allclose(early.total, wanted.total, rtol=1e-6)
    assert "rate" not in early.metrics


@pytest.mark.parametrize(
    "bad, named",
    [
        (dict(rate=0.0), "rate=0.0"),
        (dict(rate=1.0), "rate=1.0"),
        (dict(rate=float("nan")), "rate=nan"),
        (dict(mask=0.9, replace=0.2), "mask=0.9, replace=0.2"),
        (dict(rate={"begin": 0.3, "end": 1.5, "steps": 9}), r"got rate\.end=1\.5$"),
        (dict(rate={"end": 0.3, "steps": 9}), r"rate\.begin=0\.0"),  # lines begin at 0 if not said
        (
            dict(rate={"values": (0.3, 0.0, 2.0), "boundaries": (1, 2)}),
            r"got rate\.values\[1\]=0\.0, rate\.values\[2\]=2\.0",
        ),
    ],
)
def test_impossible_rates_are_refused(bad, named):
    with pytest.raises(ValueError, match=f"masking needs .*{named}"):
        mlm.Config(**bad)


def test_a_schedule_with_a_wrong_entry_is_refused_with_the_name_of_its_objective():
    with pytest.raises(ConfigError, match=r"^config\.objectives\.mlm: rate=.*need a number, or"):
        config.build(mlm.Config, {"rate": {"from": 0.3}}, "config.objectives.mlm")
