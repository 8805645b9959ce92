"""Packed attention against numpy, its blocks, its independence of neighbours, the flash kernels."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jalign.nn.attention import choose_attention, packed_attention
from jalign.nn.attention_banded import banded_attention, block_slots
from jalign.nn.attention_flash import splash_attention
from jalign.nn.dropout import keep_factor
from tests.oracles import attention as oracle


def units(lengths, size, ids=None):
    """Return one row of units with these lengths, padded with 0 to `size`."""
    ids = ids or range(1, len(lengths) + 1)
    row = np.concatenate([np.full(n, i) for n, i in zip(lengths, ids, strict=True)])
    return np.pad(row, (0, size - len(row))).astype(np.int32)


def random_units(rows, length, longest, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        lengths = []
        while sum(lengths) < length - 5:
            lengths.append(min(rng.integers(1, longest + 1), length - sum(lengths)))
        made.append(units(lengths, length))
    return np.stack(made)


def problem(unit_BL, heads=2, size=8, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*unit_BL.shape, heads, size)).astype(dtype) for _ in range(4)]


def value_and_gradients(attend, q_BLHK, k_BLHK, v_BLHK, g_BLHK, unit_BL):
    def total(*qkv):
        out_BLHK = attend(*qkv, unit_BL)
        return (out_BLHK * g_BLHK).sum(), out_BLHK

    grads, out_BLHK = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q_BLHK, k_BLHK, v_BLHK)
    return out_BLHK, *grads


def dense(*args, **options):
    return packed_attention(*args, impl="dense", **options)


def close(ours, theirs, rtol=1e-5):
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())


# single slots, units of exactly the longest, ids that are not sorted, a full row, a row of one unit
ROWS = np.stack(
    [
        units([1, 8, 1, 8, 3], 21),
        units([8, 5, 8], 21, ids=[7, 2, 5]),
        units([1] * 21, 21),
        units([8, 8], 21, ids=[3, 1]),
    ]
)


def test_a_worked_number_by_hand():
    q_BLHK = k_BLHK = jnp.array([[0.0, np.log(3.0)], [1.0, 0.0]]).reshape(1, 2, 1, 2) * 2**0.25
    v_BLHK = jnp.array([4.0, 8.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 1, 1, 2))
    q_BLHK = q_BLHK.at[0, 0].set(jnp.array([0.0, 2**0.25]))  # sim of slot 0: (log 3, 0)
    for impl in ("dense", "banded"):
        out_BLHK = packed_attention(q_BLHK, k_BLHK, v_BLHK, jnp.ones((1, 2), int), impl=impl)
        np.testing.assert_allclose(out_BLHK[0, 0, 0], 0.75 * 4.0 + 0.25 * 8.0, rtol=1e-6)


def test_dense_equals_the_oracle():
    args = problem(ROWS)
    theirs = oracle.packed_attention(*args[:3], ROWS, args[3])
    close(value_and_gradients(dense, *args, ROWS), theirs)


@pytest.mark.parametrize("block", [None, 1, 4, 5, 16, 21, 64])
@pytest.mark.parametrize("max_unit", [8, 21, None])
def test_banded_equals_the_oracle_for_any_block(block, max_unit):
    args = problem(ROWS)
    args[3][ROWS == 0] = 0.0  # padding may see a part of the padding only: nobody reads it
    theirs = oracle.packed_attention(*args[:3], ROWS, args[3])

    def banded(*qkvu):
        return banded_attention(*qkvu, max_unit=max_unit, block=block)

    ours = value_and_gradients(banded, *args, ROWS)
    assert all(np.isfinite(x).all() for x in ours)
    mask = (ROWS > 0)[:, :, None, None]
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


@pytest.mark.parametrize("window", [1, 3, 30])  # units have up to 8 slots
@pytest.mark.parametrize(
    "attend",
    [
        partial(packed_attention, impl="dense"),
        partial(packed_attention, impl="banded"),
        partial(packed_attention, impl="banded", max_unit=8),
        partial(banded_attention, block=5),
        partial(banded_attention, block=16, max_unit=8),
    ],
    ids=["dense", "banded", "banded 8", "blocks of 5", "blocks of 16"],
)
def test_a_window_equals_the_oracle(attend, window):
    args = problem(ROWS)
    args[3][ROWS == 0] = 0.0
    theirs = oracle.packed_attention(*args[:3], ROWS, args[3], window)
    mask = (ROWS > 0)[:, :, None, None]
    ours = value_and_gradients(partial(attend, window=window), *args, ROWS)
    assert all(np.isfinite(x).all() for x in ours)
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


@pytest.mark.parametrize("impl", ["dense", "banded"])
def test_a_window_of_nothing_shows_each_slot_itself(impl):
    q_BLHK, k_BLHK, v_BLHK, _ = problem(ROWS)
    out_BLHK = packed_attention(q_BLHK, k_BLHK, v_BLHK, ROWS, impl=impl, window=0)
    np.testing.assert_array_equal(out_BLHK, v_BLHK)


@pytest.mark.parametrize("length, longest, window", [(300, 300, 40), (512, 90, 64)])
def test_a_banded_window_equals_dense_on_long_rows(length, longest, window):
    unit_BL = random_units(2, length, longest)
    args = problem(unit_BL)
    args[3][unit_BL == 0] = 0.0
    options = dict(max_unit=longest, window=window)
    assert block_slots(length, **options) == 128
    ours = value_and_gradients(
        lambda *xs: packed_attention(*xs, impl="banded", **options), *args, unit_BL
    )
    theirs = value_and_gradients(lambda *xs: dense(*xs, window=window), *args, unit_BL)
    mask = (unit_BL > 0)[:, :, None, None]
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


@pytest.mark.parametrize("impl", ["dense", "banded"])
def test_a_window_as_long_as_the_units_changes_no_program(impl):
    def text(**options):
        attend = partial(packed_attention, unit_BL=ROWS, impl=impl, max_unit=8, **options)
        return jax.jit(lambda *qkv: attend(*qkv)).lower(*problem(ROWS)[:3]).as_text()

    assert text(window=7) == text()
    assert text(window=6) != text()


@pytest.mark.parametrize("length", [300, 512])
def test_banded_equals_dense_on_long_rows(length):
    unit_BL = random_units(3, length, 60)
    args = problem(unit_BL)
    args[3][unit_BL == 0] = 0.0
    assert block_slots(length, 60) == 128
    ours = value_and_gradients(
        lambda *xs: packed_attention(*xs, impl="banded", max_unit=60), *args, unit_BL
    )
    theirs = value_and_gradients(dense, *args, unit_BL)
    mask = (unit_BL > 0)[:, :, None, None]
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


def test_blocks_are_one_where_a_band_saves_nothing():
    assert block_slots(256, 128) == 256
    assert block_slots(512, None) == 512
    assert block_slots(512, None, window=400) == 512
    assert block_slots(512, None, window=64) == 128
    assert block_slots(512, 60, window=64) == block_slots(512, 60)
    assert block_slots(4096, 256) == 256  # 16 blocks


@pytest.mark.parametrize("impl", ["dense", "banded"])
def test_a_unit_does_not_see_its_neighbours(impl):
    q_BLHK, k_BLHK, v_BLHK, _ = problem(ROWS)
    out_BLHK = packed_attention(q_BLHK, k_BLHK, v_BLHK, ROWS, impl=impl, max_unit=8)
    mine = slice(9, 18)  # row 0: units 3 and 4
    for x in (q_BLHK, k_BLHK, v_BLHK):
        x[0, :9], x[0, 18:] = 50.0, -50.0
    again_BLHK = packed_attention(q_BLHK, k_BLHK, v_BLHK, ROWS, impl=impl, max_unit=8)
    np.testing.assert_allclose(again_BLHK[0, mine], out_BLHK[0, mine], rtol=1e-6, atol=1e-7)
    alone_BLHK = packed_attention(
        *(x[:1, 10:18] for x in (q_BLHK, k_BLHK, v_BLHK)), ROWS[:1, 10:18], impl=impl
    )
    np.testing.assert_allclose(again_BLHK[0, 10:18], alone_BLHK[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["dense", "banded"])
def test_a_row_of_padding_is_finite(impl):
    unit_BL = np.zeros((2, 300), np.int32)
    args = problem(unit_BL)
    ours = value_and_gradients(
        lambda *xs: packed_attention(*xs, impl=impl, max_unit=20), *args, unit_BL
    )
    assert all(np.isfinite(x).all() for x in ours)


@pytest.mark.parametrize("max_unit, window", [(8, None), (None, None), (8, 2)])
def test_banded_gradients_with_dropout_equal_autodiff(max_unit, window):
    args = problem(ROWS)
    args[3][ROWS == 0] = 0.0
    key, length = jax.random.key(3), ROWS.shape[1]

    def plain(q_BLHK, k_BLHK, v_BLHK, unit_BL):  # one block: its key and shape are known
        sim = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK) * 8**-0.5
        seen = unit_BL[:, None, :, None] == unit_BL[:, None, None, :]
        if window is not None:
            seen &= np.tri(length, k=window, dtype=bool) & np.tri(length, k=window, dtype=bool).T
        prob = jax.nn.softmax(jnp.where(seen, sim, -1e30))
        factor = keep_factor(jax.random.fold_in(key, 0), (4, 2, length, length), 0.25)
        return jnp.einsum("BHLM,BMHK->BLHK", prob * factor, v_BLHK)

    def ours(*xs):
        return banded_attention(
            *xs, max_unit=max_unit, window=window, dropout_rate=0.25, dropout_key=key
        )

    close(value_and_gradients(ours, *args, ROWS), value_and_gradients(plain, *args, ROWS))


def test_dropout_acts_with_a_rate_and_a_key_only():
    for impl in ("dense", "banded"):
        qkv = problem(ROWS)[:3]
        key = jax.random.key(0)
        plain_BLHK = packed_attention(*qkv, ROWS, impl=impl)
        none_BLHK = packed_attention(*qkv, ROWS, impl=impl, dropout_rate=0.0, dropout_key=key)
        some_BLHK = packed_attention(*qkv, ROWS, impl=impl, dropout_rate=0.5, dropout_key=key)
        np.testing.assert_array_equal(none_BLHK, plain_BLHK)
        assert np.abs(some_BLHK - plain_BLHK).max() > 0.1


@pytest.mark.parametrize("impl", ["dense", "banded"])
def test_bfloat16_is_near_float32(impl):
    args = problem(ROWS)
    low = [jnp.bfloat16(x) for x in args[:3]]
    out_BLHK = packed_attention(*low, ROWS, impl=impl, max_unit=8)
    assert out_BLHK.dtype == jnp.bfloat16
    exact_BLHK = dense(*(np.float32(x) for x in low), ROWS)
    np.testing.assert_allclose(np.float32(out_BLHK), exact_BLHK, atol=3e-2)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_sharded_rows_and_heads_give_the_same_numbers(shape):
    unit_BL = random_units(8, 300, 60)
    args = problem(unit_BL)
    args[3][unit_BL == 0] = 0.0
    mesh = jax.make_mesh(shape, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    heads = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def banded(*xs):
        return packed_attention(*xs, impl="banded", max_unit=60)

    theirs = value_and_gradients(banded, *args, unit_BL)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, heads) for x in args] + [jax.device_put(unit_BL, rows)]
        close(value_and_gradients(banded, *placed), theirs)


def test_choice_by_platform_dtype_and_shape():
    assert choose_attention("cpu", jnp.float32, 256, 64, 128) == "banded"
    assert choose_attention("gpu", jnp.bfloat16, 256, 64) == "cudnn"
    assert choose_attention("gpu", jnp.float32, 256, 64) == "banded"
    assert choose_attention("gpu", jnp.bfloat16, 256, 256) == "banded"
    assert choose_attention("gpu", jnp.bfloat16, 256, 64, dropout=True) == "banded"
    assert choose_attention("tpu", jnp.bfloat16, 256, 64) == "splash"
    assert choose_attention("tpu", jnp.bfloat16, 200, 64) == "banded"


def test_what_cannot_serve_says_what_to_type():
    q_BLHK = jnp.zeros((1, 24, 2, 8))
    unit_BL = jnp.ones((1, 24), jnp.int32)
    qkv = (q_BLHK, q_BLHK, q_BLHK, unit_BL)
    with pytest.raises(ValueError, match="use one of auto, dense, banded"):
        packed_attention(*qkv, impl="flash")
    with pytest.raises(ValueError, match="needs bfloat16, got float32; set dtype='bfloat16'"):
        packed_attention(*qkv, impl="cudnn")
    with pytest.raises(ValueError, match="got 24 slots; pack to a multiple of 128"):
        packed_attention(*qkv, impl="splash")
    with pytest.raises(ValueError, match="set attention_dropout=0"):
        packed_attention(*qkv, impl="splash", dropout_rate=0.1, dropout_key=jax.random.key(0))


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("max_unit, window", [(60, None), (None, None), (250, 20)])
def test_splash_in_interpret_mode_equals_dense(size, max_unit, window):
    unit_BL = random_units(1, 256, 60 if window is None else 250)
    args = problem(unit_BL, heads=1, size=size)
    args[3][unit_BL == 0] = 0.0

    def splash(*xs):
        return splash_attention(*xs, max_unit=max_unit, window=window, interpret=True)

    ours = value_and_gradients(splash, *args, unit_BL)
    theirs = value_and_gradients(lambda *xs: dense(*xs, window=window), *args, unit_BL)
    mask = (unit_BL > 0)[:, :, None, None]
    close((ours[0] * mask, *ours[1:]), (theirs[0] * mask, *theirs[1:]))


@pytest.mark.parametrize("impl, platform", [("splash", "tpu"), ("cudnn", "cuda")])
def test_flash_kernels_lower_for_their_platform(impl, platform, monkeypatch):
    if platform == "cuda":
        # asks the driver for cuDNN's version, which only a machine with a GPU has
        monkeypatch.setattr(
            "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000
        )
        monkeypatch.setattr(
            "jax._src.cudnn.fused_attention_stablehlo.check_compute_capability", lambda _: True
        )
    shape = jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)
    unit = jax.ShapeDtypeStruct((2, 256), jnp.int32)

    def text(window):
        def total(*qkvu):
            out_BLHK = packed_attention(*qkvu, impl=impl, max_unit=128, window=window)
            return out_BLHK.astype(jnp.float32).sum()

        step = jax.jit(jax.grad(total, (0, 1, 2)))
        off = [export.DisabledSafetyCheck.custom_call(name) for name in CUDNN_CALLS]
        lower = export.export(step, platforms=[platform], disabled_checks=off)
        return lower(shape, shape, shape, unit).mlir_module()

    # one line calls it: the texts name the line
    plain, windowed, idle = (text(window) for window in (None, 64, 127))
    names = ("tpu_custom_call",) if platform == "tpu" else CUDNN_CALLS
    assert all(name in plain and name in windowed for name in names)
    assert idle == plain != windowed  # 127 hides nothing of units of 128


CUDNN_CALLS = ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward")
