"""Attention in which one side of a unit reads the other: the order, who sees whom, every form."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jalign.nn.attention import attention_probs, choose_attention, packed_attention
from jalign.nn.attention_banded import banded_attention
from jalign.nn.packed import reading_order
from tests.nn.test_attention import ROWS, close, problem, value_and_gradients
from tests.oracles import attention as oracle

# the last slots of every unit of two or more read the ones before
READS = np.stack([(row > 0) & (np.roll(row, 1) == row) for row in ROWS])
READS[:, 0] = False
READS[1, :4] = [True, True, False, False]  # a unit whose first slots read what comes after


def may_see(include_self=False):
    """Say who may see whom, slot by slot."""
    rows, length = ROWS.shape
    may = np.zeros((rows, length, length), bool)
    for b in range(rows):
        for i in range(length):
            for j in range(length):
                earlier = READS[b, i] and j < i
                same = include_self and i == j
                may[b, i, j] = not READS[b, j] or earlier or same
    return may


def order_of(include_self=False):
    order = reading_order(jnp.asarray(READS))
    return order.with_self() if include_self else order


def test_the_order_by_hand():
    # x x y y, where y reads x
    order = reading_order(jnp.array([[False, False, True, True]]))
    strict = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_array_equal(order.seen()[0], np.array(strict, bool))
    own = np.array(strict, bool) | np.eye(4, dtype=bool)
    np.testing.assert_array_equal(order.with_self().seen()[0], own)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize(
    "attend",
    [
        partial(packed_attention, impl="dense"),
        partial(packed_attention, impl="banded", max_unit=8),
        partial(banded_attention, block=5, max_unit=8),
    ],
)
def test_every_form_equals_the_oracle_in_order(attend, include_self):
    args = problem(ROWS)
    args[3][ROWS == 0] = 0.0
    may = may_see(include_self)
    theirs = oracle.packed_attention(*args[:3], ROWS, args[3], may_BLL=may)
    ours = value_and_gradients(partial(attend, order=order_of(include_self)), *args, ROWS)
    mask = (ROWS > 0)[:, :, None, None]
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


def test_a_window_and_an_order_hide_both():
    args = problem(ROWS)
    args[3][ROWS == 0] = 0.0
    theirs = oracle.packed_attention(*args[:3], ROWS, args[3], 3, may_see(True))
    for impl in ("dense", "banded"):
        attend = partial(packed_attention, impl=impl, window=3, max_unit=8, order=order_of(True))
        ours = value_and_gradients(attend, *args, ROWS)
        mask = (ROWS > 0)[:, :, None, None]
        close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


def test_the_probabilities_give_the_output():
    q_BLHK, k_BLHK, v_BLHK, _ = problem(ROWS)
    order = order_of()
    prob_BHLL = attention_probs(q_BLHK, k_BLHK, ROWS, order=order)
    np.testing.assert_allclose(prob_BHLL.sum(-1), 1.0, rtol=1e-6)
    hidden = ~may_see() | (ROWS[:, :, None] != ROWS[:, None, :])
    assert not prob_BHLL[np.broadcast_to(hidden[:, None], prob_BHLL.shape)].any()
    out_BLHK = packed_attention(q_BLHK, k_BLHK, v_BLHK, ROWS, impl="banded", order=order)
    mine = jnp.einsum("BHLM,BMHK->BLHK", prob_BHLL, v_BLHK)
    np.testing.assert_allclose(mine, out_BLHK, rtol=1e-5, atol=1e-6)


def test_splash_says_that_it_knows_no_order():
    x, unit_BL = jnp.zeros((1, 128, 2, 8)), jnp.ones((1, 128), jnp.int32)
    order = reading_order(unit_BL > 1)
    assert choose_attention("tpu", jnp.bfloat16, 256, 64, ordered=True) == "banded"
    assert choose_attention("gpu", jnp.bfloat16, 256, 64, ordered=True) == "cudnn"
    with pytest.raises(ValueError, match="set attention='auto' or 'banded'"):
        packed_attention(x, x, x, unit_BL, impl="splash", order=order)


def test_cudnn_gets_the_order_in_its_mask(monkeypatch):
    # asks the driver for cuDNN's version, which only a machine with a GPU has
    fused = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{fused}.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(f"{fused}.check_compute_capability", lambda _: True)
    shape = jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)
    unit = jax.ShapeDtypeStruct((2, 256), jnp.int32)

    def text(ordered):
        def attend(q, k, v, unit_BL):
            order = reading_order(unit_BL > 1) if ordered else None
            return packed_attention(q, k, v, unit_BL, impl="cudnn", order=order)

        off = [export.DisabledSafetyCheck.custom_call("__cudnn$fmhaScaleBiasSoftmax")]
        lower = export.export(jax.jit(attend), platforms=["cuda"], disabled_checks=off)
        return lower(shape, shape, shape, unit).mlir_module()

    ordered, plain = text(True), text(False)
    assert "__cudnn$fmhaScaleBiasSoftmax" in ordered
    assert ordered.count("stablehlo.compare") == plain.count("stablehlo.compare") + 2
