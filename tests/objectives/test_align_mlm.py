"""ALIGN-MLM's loss: the worked example of methods.md 10.2, its invariants, real dictionaries, and
the whole objective in a run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jalign import config
from jalign.data.id_pairs import IdPairs, single_pairs, write_id_pairs
from jalign.data.tokenizer import load_tokenizer
from jalign.encoders import bert, modernbert
from jalign.errors import ConfigError
from jalign.objectives import align_mlm
from jalign.train.run import RunConfig, make_run
from jalign.types import Encoder, TokenIds
from tests.tiny import run_entries, write_tiny_dataset

W, V = 10.0, 5
ROWS = {3: (1, 0), 4: (1, 2), 8: (1, 1), 9: (0, 1)}
PAIRS = np.array([(3, 8), (4, 9)])
VOCAB_2V = 40


def table_of(rows=ROWS):
    table = np.zeros((2 * V, 2), np.float32)
    for at, row in rows.items():
        table[at] = row
    return jnp.array(table)


def loss_of(table_VD, pairs_N2=PAIRS, weight_N=None, distance="cosine"):
    weight_N = jnp.ones(len(pairs_N2)) if weight_N is None else jnp.array(weight_N)
    sides = jnp.array(pairs_N2[:, :1]), jnp.array(pairs_N2[:, 1:])
    loss = align_mlm.alignment_loss(table_VD, *sides, weight_N, distance=distance)
    return W * loss.total / loss.count


def random_table(seed=0, size=(20, 6)):
    return jnp.array(np.random.default_rng(seed).normal(size=size), jnp.float32)


RANDOM_PAIRS = np.array([(1, 11), (2, 12), (5, 15)])


def test_the_loss_and_its_gradient_are_the_worked_example():
    loss, grad = jax.value_and_grad(loss_of)(table_of())
    assert loss == pytest.approx(-8.0076699, rel=1e-6)
    expected = np.zeros((2 * V, 2))
    expected[3], expected[4] = (0, -3.535534), (0.894427, -0.447214)
    expected[8], expected[9] = (-1.767767, 1.767767), (-2.236068, 0)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


def test_the_two_cosines_are_the_worked_example():
    table_VD = table_of()
    found = align_mlm.cosine(table_VD[PAIRS[:, 0]], table_VD[PAIRS[:, 1]])
    np.testing.assert_allclose(found, [0.7071068, 0.8944272], rtol=1e-6)


def test_the_loss_is_bounded_and_reaches_its_bounds():
    assert abs(loss_of(random_table(), RANDOM_PAIRS)) < W
    assert loss_of(table_of({3: (1, 1), 8: (2, 2), 4: (0, 3), 9: (0, 1)})) == pytest.approx(-W)
    assert loss_of(table_of({3: (1, 1), 8: (-2, -2), 4: (0, 3), 9: (0, -1)})) == pytest.approx(W)


def test_rescaling_a_row_changes_nothing():
    table_VD = random_table()
    scaled = table_VD.at[2].multiply(7.0).at[15].multiply(0.1)
    np.testing.assert_allclose(
        loss_of(table_VD, RANDOM_PAIRS), loss_of(scaled, RANDOM_PAIRS), rtol=1e-5
    )


def test_a_common_orthogonal_map_changes_nothing():
    table_VD = random_table()
    q_DD, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    moved = loss_of(table_VD @ jnp.array(q_DD, jnp.float32), RANDOM_PAIRS)
    np.testing.assert_allclose(loss_of(table_VD, RANDOM_PAIRS), moved, rtol=1e-5)


def test_each_gradient_row_is_orthogonal_to_its_own_embedding():
    table_VD = random_table()
    grad = jax.grad(loss_of)(table_VD, RANDOM_PAIRS)
    np.testing.assert_allclose(jnp.sum(grad * table_VD, axis=1), 0, atol=1e-5)


def test_only_rows_of_the_dictionary_get_gradient():
    grad = np.asarray(jax.grad(loss_of)(random_table(), RANDOM_PAIRS))
    assert set(np.flatnonzero(np.abs(grad).sum(1) > 0)) == set(RANDOM_PAIRS.ravel())


def test_aligned_rows_and_rows_of_zeros_get_no_gradient_and_no_nan():
    aligned = table_of({3: (1, 2), 8: (2, 4), 4: (3, 1), 9: (6, 2)})
    np.testing.assert_allclose(jax.grad(loss_of)(aligned), 0, atol=1e-5)
    for distance in align_mlm.DISTANCES:
        loss, grad = jax.value_and_grad(loss_of)(table_of({}), distance=distance)
        assert np.isfinite(loss) and np.isfinite(grad).all()


def test_the_l2_form_is_the_mean_length_of_the_differences():
    table_VD = random_table()
    gap = table_VD[RANDOM_PAIRS[:, 0]] - table_VD[RANDOM_PAIRS[:, 1]]
    expected = W * np.linalg.norm(gap, axis=1).mean()
    np.testing.assert_allclose(loss_of(table_VD, RANDOM_PAIRS, distance="l2"), expected, rtol=1e-6)


def test_weights_share_a_source_word_among_its_translations():
    table_VD = random_table()
    pairs = np.array([(1, 11), (1, 12), (2, 13)])
    cos = np.asarray(align_mlm.cosine(table_VD[pairs[:, 0]], table_VD[pairs[:, 1]]))
    expected = -W * (0.5 * (cos[0] + cos[1]) + cos[2]) / 2
    np.testing.assert_allclose(loss_of(table_VD, pairs, [0.5, 0.5, 1.0]), expected, rtol=1e-6)


def test_a_word_of_several_pieces_is_the_mean_of_their_embeddings():
    table_VD = random_table()
    found = align_mlm.word_vectors(table_VD, jnp.array([[1, 4, -1], [2, -1, -1]]))
    np.testing.assert_allclose(found[0], (table_VD[1] + table_VD[4]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[1], table_VD[2], rtol=1e-6)


def encoder_of(family=bert, **changes):
    usual = dict(vocab_size=VOCAB_2V, hidden=8, layers=1, heads=2, mlp=16)
    shape = usual | dict(max_positions=66) if family is bert else usual | dict(max_positions=64)
    return Encoder(
        family.make(family.Config(**shape, **changes)),
        TokenIds(mask=19, specials=(0, 1, 2, 3, 19)),
        languages=("en", "xx"),
        tokenizer_sha256="abc",
    )


def params_of(family, encoder):
    draw = jax.jit(lambda key: nn.unbox(family.init_params(encoder.module, key)))
    return {"encoder": draw(jax.random.key(0))}


@pytest.fixture
def file(tmp_path):
    ids = np.arange(4, 19)
    pairs = np.stack([ids, ids + 20], axis=1)
    train = ids % 2 == 0
    written = single_pairs(pairs, train, langs=("en", "xx"), tokenizer_sha256="abc")
    write_id_pairs(tmp_path / "d.npz", written)
    return str(tmp_path / "d.npz")


@pytest.mark.parametrize("family", [bert, modernbert])
def test_held_out_pairs_get_no_gradient_and_the_table_is_the_encoders(file, family):
    encoder = encoder_of(family)
    objective = align_mlm.make(align_mlm.Config(file), encoder)
    params = params_of(family, encoder)
    aux = objective.init_aux(params)
    grad = jax.jit(jax.grad(lambda p: objective.loss(p, aux, {}, None).total))(params)["encoder"]
    rows = np.flatnonzero(np.abs(np.asarray(grad["word_embeddings"])).sum(1) > 0)
    assert rows.tolist() == [*range(4, 19, 2), *range(24, 39, 2)]
    others = [np.abs(x).max() for name, x in grad.items() if name != "word_embeddings"
              for x in jax.tree.leaves(x)]  # fmt: skip
    assert max(others) == 0


def test_a_subset_is_drawn_anew_each_step_and_evaluation_takes_all(file):
    encoder = encoder_of()
    whole = align_mlm.make(align_mlm.Config(file), encoder)
    part = align_mlm.make(align_mlm.Config(file, subset_per_step=3), encoder)
    params = params_of(bert, encoder)
    aux = part.init_aux(params)
    run = jax.jit(lambda key: part.loss(params, aux, {}, key))
    losses = jax.vmap(run)(jax.random.split(jax.random.key(0), 400))
    assert set(np.asarray(losses.count)) == {3.0}
    everything = whole.loss(params, aux, {}, None)
    assert part.loss(params, aux, {}, None).total == pytest.approx(float(everything.total))
    mean_N = np.asarray(losses.total) / 3
    assert abs(mean_N.mean() - float(everything.total / everything.count)) < mean_N.std() / 5


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (dict(dictionary=""), "dictionary is empty"),
        (dict(dictionary="none.npz"), "does not exist.*jalign dictionary"),
        (dict(subset_per_step=99), "has 8 pairs"),
        (dict(subset_per_step=-1), "subset_per_step=-1"),
        (dict(distance="dot"), "distance='dot'"),
    ],
)
def test_bad_entries_are_refused(file, entries, said):
    with pytest.raises(ValueError, match=said):
        align_mlm.make(align_mlm.Config(**{"dictionary": file} | entries), encoder_of())


def test_a_dictionary_of_another_tokenizer_is_refused(file):
    with pytest.raises(ConfigError, match="ids of tokenizer abc"):
        align_mlm.make(align_mlm.Config(file), encoder_of()._replace(tokenizer_sha256="other"))


def test_a_dictionary_whose_pairs_are_all_held_out_is_refused(file, tmp_path):
    ids = np.array([[4, 24]])
    pairs = single_pairs(ids, [False], langs=("en", "xx"), tokenizer_sha256="abc")
    write_id_pairs(tmp_path / "held.npz", pairs)
    with pytest.raises(ConfigError, match="held out"):
        align_mlm.make(align_mlm.Config(str(tmp_path / "held.npz")), encoder_of())


def test_dictionaries_of_several_lengths_are_joined(tmp_path):
    short = single_pairs([[4, 24]], [True], langs=("en", "xx"), tokenizer_sha256="abc")
    long = IdPairs(
        np.array([[5, 6]], np.int32), np.array([[25, 26, 27]], np.int32),
        np.ones(1, np.float32), np.ones(1, bool), ("en", "xx"), "abc",
    )  # fmt: skip
    entries = align_mlm.train_entries([short, long])
    assert entries["src"].tolist() == [[4, -1], [5, 6]]
    assert entries["trg"].tolist() == [[24, -1, -1], [25, 26, 27]]


def test_beside_mlm_in_a_run_the_loss_falls_and_the_table_gets_both_gradients(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    tokenizer = load_tokenizer(data / "tokenizer")
    pairs = np.array([(10, 40), (12, 42), (14, 44)])
    written = single_pairs(pairs, [True] * 3, langs=("en", "de"), tokenizer_sha256=tokenizer.sha256)
    write_id_pairs(tmp_path / "d.npz", written)
    entries = run_entries(
        data,
        streams=dict(mono=dict(layout="single", rows=8, row_length=64)),
        objectives=dict(mlm=dict(), align_mlm=dict(weight=W, dictionary=str(tmp_path / "d.npz"))),
    )
    run = make_run(config.build(RunConfig, entries))
    state, losses = run.init_state(), []
    before = np.asarray(state.params["encoder"]["word_embeddings"])
    np.testing.assert_array_equal(state.aux["align_mlm"]["src"][:, 0], pairs[:, 0])
    with jax.set_mesh(run.mesh):
        for step in range(6):
            state, out = run.step(state, run.put(run.source[step]), jax.random.key(3))
            losses.append(float(out.losses["align_mlm"].total / out.losses["align_mlm"].count))
    assert losses[-1] < losses[0] and out.losses["align_mlm"].count == 3
    assert out.metrics["align_mlm/cosine"].total / 3 == pytest.approx(-losses[-1], rel=1e-5)
    moved = np.abs(np.asarray(state.params["encoder"]["word_embeddings"]) - before).sum(1)
    assert (moved[pairs.ravel()] > 0).all() and (moved > 0).sum() > 6  # MLM moves others, too
