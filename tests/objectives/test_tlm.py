"""TLM's three forms: what sees each other, and which positions there are."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jalign.encoders import bert
from jalign.errors import ConfigError
from jalign.nn.packed import sides_of
from jalign.objectives import mlm, tlm
from jalign.types import Encoder
from tests.objectives.test_mlm import EVERYTHING
from tests.tiny import TOKENS, VOCAB, rows_of


def encoder_of(**changes):
    shape = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5) | changes
    cfg = bert.Config(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **shape)
    return Encoder(bert.make(cfg), TOKENS)


def loss_of(encoder, params, batch, **changes):
    objective = tlm.make(tlm.Config(**EVERYTHING, **changes), encoder)
    return jax.jit(lambda b: objective.loss(params, {}, {"pair": b}, None))(batch)


def changed_at(batch, row, slot, value):
    ids = batch["ids"].copy()
    ids[row, slot] = value
    return batch | {"ids": ids}


def states(encoder, params, batch, form):
    view = {"restart": tlm.pair_view, "halves": tlm.row_view, "joint": mlm.usual_view}[form]
    seen = view(tlm.Config(form=form), encoder, batch)
    run = jax.jit(lambda p, b: encoder.module.apply(p, b["ids"], seen.position_BL, seen.unit_BL))
    return np.asarray(run({"params": params["encoder"]}, batch)), seen


def test_a_halves_row_is_one_unit_whose_sides_count_their_slots_from_0(encoder, params):
    batch = rows_of("separate").rows(0, 2)
    _, seen = states(encoder, params, batch, "halves")
    real = batch["example"] > 0
    np.testing.assert_array_equal(seen.unit_BL, real)
    side = np.asarray(sides_of(batch))
    assert ((side > 0) == real).all() and set(side[real]) == {1, 2}
    for b in range(2):
        for s in (1, 2):
            mine = side[b] == s
            assert np.asarray(seen.position_BL)[b, mine].tolist() == list(range(mine.sum()))
        # each sentence's first and last slots, <s> and </s>, are of its side
        starts = np.flatnonzero(real[b] & (batch["position"][b] == 0))
        assert len(starts) >= 2 and (side[b, starts] == batch["side"][b, starts + 1]).all()


def test_positions_of_the_second_side_restart_where_pairs_are_units(encoder, params):
    batch = rows_of("separate").rows(0, 2)
    _, seen = states(encoder, params, batch, "restart")
    side = np.asarray(sides_of(batch))
    for b in range(2):
        for number in range(1, batch["example"][b].max() + 1):
            for s in (1, 2):
                mine = (batch["example"][b] == number) & (side[b] == s)
                assert np.asarray(seen.position_BL)[b, mine].tolist() == list(range(mine.sum()))


def test_what_sees_each_other_is_what_the_form_says(encoder, params):
    batch = rows_of("separate", length=64, num=900).rows(3, 1)
    assert batch["example"].max() >= 2
    src = np.flatnonzero((batch["example"][0] == 1) & (batch["side"][0] == 1))[0]
    other = changed_at(batch, 0, src, 50 if batch["ids"][0, src] != 50 else 51)
    example, side = batch["example"][0], np.asarray(sides_of(batch))[0]
    for form in ("joint", "restart", "halves"):
        before, _ = states(encoder, params, batch, form)
        after, _ = states(encoder, params, other, form)
        moved = np.abs(before - after)[0].max(axis=1) > 1e-6
        sees = {
            "joint": (example == 1) & (side == 1),  # separate rows: the sides are units
            "restart": example == 1,
            "halves": example > 0,
        }[form]
        np.testing.assert_array_equal(moved & (example > 0), sees)


def test_the_loss_of_halves_is_that_of_xlms_layout_with_the_sides_apart(encoder, params):
    """Put all sources first and all targets behind, as the authors lay them: the same loss."""
    batch = rows_of("separate").rows(0, 2)
    side = np.asarray(sides_of(batch))
    order = np.argsort(np.where(side == 0, 3, side), axis=1, kind="stable")
    laid = {n: np.take_along_axis(v, order, 1) for n, v in batch.items() if v.ndim == 2}
    mine = loss_of(encoder, params, batch, form="halves")
    theirs = loss_of(encoder, params, batch | laid, form="halves")
    assert mine.count == theirs.count > 0
    np.testing.assert_allclose(mine.total, theirs.total, rtol=1e-5)
    restart = loss_of(encoder, params, batch, form="restart")
    assert abs(float(restart.total - mine.total)) > 1e-2


def test_a_row_longer_than_the_positions_and_a_wrong_layout_are_refused(encoder, params):
    with pytest.raises(ConfigError, match="row_length=128 exceeds the 64 positions"):
        loss_of(encoder, params, rows_of("separate", length=128).rows(0, 1), form="halves")
    for form, layout in (("halves", "joint"), ("restart", "joint"), ("joint", "separate")):
        with pytest.raises(ValueError, match=f"form='{form}'.*layout="):
            tlm.make(tlm.Config(form=form), encoder._replace(layouts={"pair": layout}))
    with pytest.raises(ValueError, match="form='thirds'"):
        tlm.Config(form="thirds")


def test_language_embeddings_are_those_of_the_slots_language(params):
    two = encoder_of(type_vocab_size=2)._replace(languages=("en", "xx"))
    encoder = dict(params["encoder"])
    encoder["type_embeddings"] = np.stack([np.zeros(16), np.arange(16) * 0.1]).astype(np.float32)
    batch = rows_of("separate").rows(0, 2)
    plain = loss_of(two, {"encoder": encoder}, batch, form="restart")
    named = loss_of(two, {"encoder": encoder}, batch, form="restart", language_embeddings=True)
    all_first = batch | {"lang": np.zeros_like(batch["lang"])}
    same = loss_of(two, {"encoder": encoder}, all_first, form="restart", language_embeddings=True)
    np.testing.assert_allclose(same.total, plain.total, rtol=1e-6)
    assert abs(float(named.total - plain.total)) > 1e-2
