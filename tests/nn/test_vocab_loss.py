"""The vocabulary loss against numpy, autodiff and its memory budget; the gather of masked slots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jalign.nn.vocab_loss import gather_cap, gather_masked, gather_slots, vocab_cross_entropy
from tests.oracles import vocab_loss as oracle


def problem(num=24, size=16, vocab=1003, seed=0):
    rng = np.random.default_rng(seed)
    h_ND = rng.normal(size=(num, size)).astype(np.float32)
    table_VD = (rng.normal(size=(vocab, size)) * 0.3).astype(np.float32)
    bias_V = rng.normal(size=vocab).astype(np.float32)
    target_N = rng.integers(0, vocab, num).astype(np.int32)
    weight_N = rng.normal(size=num).astype(np.float32)  # any cotangent, also negative ones
    weight_N[::5] = 0.0
    return h_ND, table_VD, bias_V, target_N, weight_N


def loss_and_gradients(h_ND, table_VD, bias_V, target_N, weight_N, **options):
    def total(h_ND, table_VD, bias_V):
        nll_N, correct_N = vocab_cross_entropy(h_ND, table_VD, bias_V, target_N, **options)
        return (nll_N * weight_N).sum(), (nll_N, correct_N)

    grads, (nll_N, correct_N) = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(
        h_ND, table_VD, bias_V
    )
    return nll_N, correct_N, *grads


def close(ours, theirs, rtol=1e-5):
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())


def test_a_worked_number_by_hand():
    # logits (0, log 3): p = (1/4, 3/4)
    h_ND, table_VD, bias_V = jnp.ones((2, 1)), jnp.zeros((2, 1)), jnp.log(jnp.array([1.0, 3.0]))
    for method in ("dense", "chunked"):
        nll_N, correct_N = vocab_cross_entropy(
            h_ND, table_VD, bias_V, jnp.array([0, 1]), method=method
        )
        np.testing.assert_allclose(nll_N, np.log([4.0, 4.0 / 3.0]), rtol=1e-6)
        assert correct_N.tolist() == [False, True]


@pytest.mark.parametrize("method", ["dense", "chunked"])
def test_equals_the_oracle(method):
    args = problem()
    args[3][:6] = np.argmax(args[0][:6] @ args[1].T + args[2], axis=1)  # some are right
    ours, theirs = (
        loss_and_gradients(*args, method=method, chunk=100),
        oracle.vocab_cross_entropy(*args),
    )
    close(ours, theirs)
    assert theirs[1].sum() >= 6


@pytest.mark.parametrize("vocab", [1003, 1002, 1024, 7])
@pytest.mark.parametrize("chunk", [1, 100, 8192])
@pytest.mark.parametrize("keep_bytes", [0, 30_000, 2**30])
def test_chunked_equals_dense_for_any_cut(vocab, chunk, keep_bytes):
    if chunk == 1 and vocab > 100:
        chunk = 64  # as many pieces of one word as runs
    args = problem(vocab=vocab)
    ours = loss_and_gradients(*args, method="chunked", chunk=chunk, keep_bytes=keep_bytes)
    close(ours, loss_and_gradients(*args, method="dense"))


def test_rows_of_weight_zero_get_no_gradient():
    args = problem()
    dh_ND = loss_and_gradients(*args, method="chunked", chunk=64)[2]
    assert not np.asarray(dh_ND[args[4] == 0.0]).any()
    assert np.asarray(dh_ND[args[4] != 0.0]).any(axis=1).all()


def test_large_logits_stay_finite():
    h_ND, table_VD, bias_V, target_N, weight_N = problem()
    args = (h_ND * 1e3, table_VD * 10, bias_V, target_N, weight_N)
    ours = loss_and_gradients(*args, method="chunked", chunk=128)
    assert all(np.isfinite(x).all() for x in ours)
    close(ours, loss_and_gradients(*args, method="dense"))


def test_bfloat16_inputs_give_a_float32_softmax():
    h_ND, table_VD, bias_V, target_N, weight_N = problem()
    low = (jnp.bfloat16(h_ND), jnp.bfloat16(table_VD))
    exact = (np.float32(low[0]), np.float32(low[1]))
    ours = loss_and_gradients(*low, bias_V, target_N, weight_N, method="chunked", chunk=128)
    theirs = loss_and_gradients(*exact, bias_V, target_N, weight_N, method="dense")
    assert ours[0].dtype == jnp.float32 and ours[3].dtype == jnp.bfloat16
    close(ours[:1], theirs[:1])  # the loss is exact, the gradients are rounded to bfloat16
    close(ours[2:], theirs[2:], rtol=2e-2)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_sharded_vocabulary_gives_the_same_numbers_and_gathers_no_table(shape):
    args = problem(num=32, vocab=1024)
    mesh = jax.make_mesh(shape, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    specs = [PartitionSpec(name) for name in ("data", "tensor", "tensor", "data", "data")]
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(args, specs, strict=True)
        ]
        ours = loss_and_gradients(*placed, method="chunked", chunk=256, keep_bytes=40_000)
        text = (
            jax.jit(
                lambda *xs: loss_and_gradients(*xs, method="chunked", chunk=256, keep_bytes=40_000)
            )
            .lower(*placed)
            .compile()
            .as_text()
        )
    close(ours, loss_and_gradients(*args, method="dense"))
    assert "all-gather" not in text
    if shape[1] > 1:
        assert ours[3].sharding.spec[0] == "tensor"


def peak(num, vocab, size, **options):
    """Return the extra bytes of loss and gradients, as the compiler plans them."""
    shapes = [((num, size), "float32"), ((vocab, size), "float32"), ((vocab,), "float32")]
    shapes += [((num,), "int32"), ((num,), "float32")]
    args = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    step = jax.jit(lambda *xs: loss_and_gradients(*xs, **options))
    return step.lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_extra_memory_is_under_5_percent_of_the_dense_loss_on_all_positions():
    cap = gather_cap(4096, 0.15)
    assert cap > 0.15 * 4096
    dense = peak(4096, 250_002, 384, method="dense")
    assert dense >= 4096 * 250_002 * 4
    assert peak(cap, 250_002, 384) < 0.05 * dense
    assert peak(cap, 250_002, 384, keep_bytes=0) < 0.015 * dense


def test_errors_say_what_to_type():
    args = problem()[:4]
    with pytest.raises(ValueError, match="use one of auto, dense, chunked"):
        vocab_cross_entropy(*args, method="chunky")
    with pytest.raises(ValueError, match="chunk=0"):
        vocab_cross_entropy(*args, chunk=0)


def test_gather_cap_is_mean_plus_deviations_rounded_up():
    assert gather_cap(4096, 0.15, 0.0) == 616  # 614.4
    assert gather_cap(4096, 0.15, 4.0) == 712  # 614.4 + 4 * 22.85 = 705.8
    assert gather_cap(16, 0.9) == 16
    with pytest.raises(ValueError, match="rate=1.5"):
        gather_cap(16, 1.5)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("cap", [8, 24, 128])
def test_gather_masked_takes_the_first_selected_slots_of_each_group(num_groups, cap):
    rng = np.random.default_rng(0)
    selected_BL = rng.random((4, 32)) < 0.3
    selected_BL[0] = False
    x_BLD = rng.normal(size=(4, 32, 3)).astype(np.float32)
    index_GP, keep_GP = jax.jit(gather_masked, static_argnums=(1, 2))(selected_BL, cap, num_groups)
    assert index_GP.shape == keep_GP.shape == (num_groups, cap) and index_GP.dtype == jnp.int32
    got_GPD, got_GP = gather_slots(x_BLD, index_GP), gather_slots(x_BLD[:, :, 0], index_GP)
    for g in range(num_groups):
        want = np.flatnonzero(selected_BL.reshape(num_groups, -1)[g])[:cap]
        assert np.asarray(index_GP[g])[np.asarray(keep_GP[g])].tolist() == want.tolist()
        assert not np.asarray(index_GP[g])[~np.asarray(keep_GP[g])].any()
        flat = x_BLD.reshape(num_groups, -1, 3)[g][np.asarray(index_GP[g])]
        np.testing.assert_array_equal(got_GPD[g], flat)
        np.testing.assert_array_equal(got_GP[g], flat[:, 0])


def test_groups_must_divide_the_rows():
    with pytest.raises(ValueError, match="4 rows do not divide into 3"):
        gather_masked(jnp.zeros((4, 8), bool), 8, 3)


def test_gather_in_as_many_groups_as_shards_needs_no_communication():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    selected_BL = jax.device_put(np.random.default_rng(0).random((16, 32)) < 0.15, rows)
    x_BLD = jax.device_put(np.ones((16, 32, 4), np.float32), rows)

    def gather(selected_BL, x_BLD):
        index_GP, keep_GP = gather_masked(selected_BL, 24, 8)
        return index_GP, keep_GP, gather_slots(x_BLD, index_GP)

    with jax.set_mesh(mesh):
        text = jax.jit(gather).lower(selected_BL, x_BLD).compile().as_text()
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in text
