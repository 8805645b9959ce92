"""Evaluations during a run: every held-out example once, the same at every call, retrieval on real
states.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jalign.evals import heldout, retrieval


def test_heldout_covers_every_objective_and_is_the_same_every_time(run):
    with jax.set_mesh(run.mesh):
        state = run.init_state()
        evaluate = heldout.make(heldout.Config(), run.setting)
        first, again = (list(evaluate(state.params, state.aux)) for _ in range(2))
    assert first == again
    scores = {(r.task, r.metric): r for r in first}
    assert set(scores) == {
        (f"heldout/{o}", m) for o in ("mlm", "tlm") for m in ("loss", "accuracy")
    }
    assert 4.0 < scores["heldout/tlm", "loss"].value < 5.0  # untrained: near log 76 = 4.3
    assert scores["heldout/tlm", "loss"].n > 50


def test_retrieval_scores_both_directions_and_their_average(run):
    with jax.set_mesh(run.mesh):
        state = run.init_state()
        results = list(
            retrieval.make(retrieval.Config(candidates=30, row_length=64), run.setting)(
                state.params
            )
        )
    scores = {r.lang: r for r in results}
    assert set(scores) == {"en-de", "de-en", "en-ru", "ru-en", "avg"}
    assert scores["en-de"].n == 30
    mean = sum(scores[k].value for k in ("en-de", "de-en", "en-ru", "ru-en")) / 4
    assert scores["avg"].value == pytest.approx(mean)


def test_retrieval_finds_identical_sentences(run):
    """A sentence is its own nearest neighbour: the states of both sides must reach the right
    rows.
    """
    manifest, info = run.manifest, next(s for s in run.manifest.sources if s.name == "en-de")
    source = retrieval._first(manifest, "en-de", retrieval.Config(candidates=30))
    twins = type(source)(source.name, (source.sides[0], source.sides[0]), source.langs)
    original = retrieval._first
    try:
        retrieval._first = lambda *args: twins
        with jax.set_mesh(run.mesh):
            evaluate = retrieval.make(retrieval.Config(candidates=30, row_length=64), run.setting)
            results = list(evaluate(run.init_state().params))
    finally:
        retrieval._first = original
    assert info.langs == ("en", "de") and {r.value for r in results if r.lang == "en-de"} == {1.0}


def test_retrieval_takes_the_first_pairs_that_fit_a_row(run):
    everything = retrieval._first(run.manifest, "en-de", retrieval.Config(candidates=99)).sides
    slots = sum(np.diff(side.offsets) for side in everything) + 4
    room = int(np.median(slots))
    part = retrieval._first(run.manifest, "en-de", retrieval.Config(candidates=5, row_length=room))
    wanted = np.flatnonzero(slots <= room)[:5]
    for side, whole in zip(part.sides, everything, strict=True):
        ids = [whole.ids[whole.offsets[i] : whole.offsets[i + 1]] for i in wanted]
        np.testing.assert_array_equal(side.ids, np.concatenate(ids))
