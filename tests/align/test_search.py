"""Blockwise search: equal to a full sort, ties too; on many devices; resumed; in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest

from jalign.align.search import Blocks, Search, nearest_both
from jalign.metrics import retrieval
from tests.oracles import mining

SMALL = Blocks(32, 64, 64)


def whole_numbers(seed, num, dim=3):
    """Make vectors with exact products, many of them equal."""
    return np.random.default_rng(seed).integers(-3, 4, (num, dim)).astype(np.float32)


def assert_sorted_like(sim_NM, found, num):
    """Compare with a stable full sort, equal similarities too."""
    for side_NM, (sim, index) in zip((sim_NM, sim_NM.T), found, strict=True):
        wanted = mining.sorted_rows(side_NM, num)
        np.testing.assert_array_equal(index, wanted)
        np.testing.assert_array_equal(sim, np.take_along_axis(side_NM, wanted, 1))


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize(("shape", "num"), [((300, 217), 4), ((131, 64), 1), ((5, 3), 4)])
def test_neighbours_are_those_of_a_full_sort_and_of_equal_ones_the_first(num_devices, shape, num):
    src, trg = whole_numbers(0, shape[0]), whole_numbers(1, shape[1])
    devices = jax.devices()[:num_devices]
    found = nearest_both(src, trg, num, cosine=False, blocks=SMALL, devices=devices)
    assert_sorted_like(src @ trg.T, found, num)


def test_offsets_of_both_sides_are_added():
    src, trg = whole_numbers(2, 90), whole_numbers(3, 150)
    offsets = whole_numbers(4, 90)[:, 0], whole_numbers(5, 150)[:, 0]
    found = nearest_both(src, trg, 3, cosine=False, blocks=SMALL, offsets=offsets)
    assert_sorted_like(src @ trg.T + offsets[0][:, None] + offsets[1], found, 3)


def test_a_long_row_is_as_near_as_a_short_one_and_zeros_are_far():
    src = np.array([[1.0, 0.0], [0.0, 0.0]])
    trg = np.array([[5.0, 5.0], [9.0, 1.0], [0.1, 0.0]])
    to_trg, to_src = nearest_both(src, trg, 2)
    assert to_trg.index[0].tolist() == [2, 1] and to_src.index[:, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(to_trg.sim[0], [1.0, 9 / np.sqrt(82)], rtol=1e-6)
    np.testing.assert_array_equal(to_trg.sim[1], [0.0, 0.0])


def test_a_search_goes_on_from_its_state_only_where_it_fits():
    src, trg = whole_numbers(6, 200), whole_numbers(7, 90)
    options = dict(cosine=False, blocks=SMALL, devices=jax.devices()[:2])
    first = Search(src, trg, 4, **options)
    first.advance()
    state = first.state()
    assert not first.done and first.num_done == 128
    heard = []
    second = Search(src, trg, 4, on_block=heard.append, **options)
    assert second.restore(state)
    while not second.done:
        second.advance()
    assert heard[0] > 0.6 and heard[-1] == 1.0
    assert_sorted_like(src @ trg.T, second.result(), 4)
    for other in (Search(src, trg, 3, **options), Search(src[1:], trg, 4, **options)):
        assert not other.restore(state) and other.num_done == 0


def test_a_mesh_set_by_others_does_not_disturb():
    src, trg = whole_numbers(8, 40), whole_numbers(9, 50)
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "fsdp"))):
        found = nearest_both(src, trg, 2, cosine=False)
    assert_sorted_like(src @ trg.T, found, 2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"need \[N, D\] and \[M, D\]"):
        nearest_both(np.ones((2, 3)), np.ones((2, 4)), 1)
    for src, num in ((np.ones((2, 3)), 0), (np.ones((0, 3)), 1)):
        with pytest.raises(ValueError, match="at least one neighbour and one row"):
            nearest_both(src, np.ones((2, 3)), num)


MEASURED = """
import json, resource, sys
import numpy as np
from jalign.align.search import nearest_both

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

x = np.random.default_rng(0).normal(size=(2, 14_000, 8)).astype(np.float32)
nearest_both(x[0, :5000], x[1, :5000], 4)
before = peak()
nearest_both(*x, 4)
print(json.dumps([before, peak()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in KiB is Linux's")
def test_memory_does_not_grow_with_the_product_of_the_sides():
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], env=env, capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout.splitlines()[-1])
    # all similarities: 784 MB, eight times those of the first search
    assert after - before < 60e6


def trigram_vectors(texts, dim=512):
    """Make vectors of real texts without a model: signed hashed character trigrams."""
    out = np.zeros((len(texts), dim), np.float32)
    for i, text in enumerate(texts):
        for j in range(len(text) + 1):
            key = zlib.crc32(f"^{text}$".lower()[j : j + 3].encode())
            out[i, key % dim] += 1 - (key >> 16) % 2 * 0.9
    return np.log1p(out)


@pytest.fixture(scope="module")
def tatoeba(shared_data):
    """Real sentences: 600 German ones, and 900 English ones with some of their translations."""
    folder = shared_data / "retrieval"
    names = ("deu-eng.deu", "deu-eng.eng", "nld-eng.eng")
    lines = [(folder / f"tatoeba.{n}").read_text(encoding="utf-8").split("\n") for n in names]
    src, trg = lines[0][:600], lines[1][200:700] + lines[2][:400]
    return tuple(trigram_vectors(list(dict.fromkeys(side))) for side in (src, trg))


def blockwise(src, trg, num, offsets=None):
    return nearest_both(src, trg, num, offsets=offsets, blocks=Blocks(64, 128, 128))


def test_neighbours_of_real_sentences_are_those_of_numpy(tatoeba):
    sim_NM = mining.cosines(*tatoeba)
    for side_NM, found in zip((sim_NM, sim_NM.T), blockwise(*tatoeba, 4), strict=True):
        wanted = mining.sorted_rows(side_NM, 4)
        np.testing.assert_allclose(found.sim, np.take_along_axis(side_NM, wanted, 1), atol=1e-6)
        at_rank = np.take_along_axis(side_NM, found.index, 1)
        np.testing.assert_allclose(found.sim, at_rank, atol=1e-6)
        assert (found.index == wanted).mean() > 0.99  # the rest: cosines equal to 1e-6


@pytest.mark.parametrize("scoring", retrieval.SCORINGS)
def test_retrieval_of_real_sentences_is_that_of_numpy(tatoeba, scoring):
    wanted = retrieval.retrieve_both(*(x.astype(np.float64) for x in tatoeba), scoring=scoring)
    found = retrieval.retrieve_both(*tatoeba, scoring=scoring, search=blockwise)
    for one, other in zip(found, wanted, strict=True):
        assert (one == other).mean() > 0.995


@pytest.mark.parametrize("margin", retrieval.MARGINS)
@pytest.mark.parametrize("way", retrieval.RETRIEVALS)
def test_mined_real_sentences_and_their_scores_are_those_of_laser(tatoeba, margin, way):
    threshold = {"ratio": 1.1, "distance": 0.05, "absolute": 0.3}[margin]
    wanted = mining.mine(mining.cosines(*tatoeba), 4, margin, way, threshold)
    options = dict(margin=margin, retrieval=way, threshold=threshold)
    found = retrieval.mine(*tatoeba, search=blockwise, **options)
    assert 20 < len(wanted) < 900
    np.testing.assert_allclose(found.score, [score for score, _, _ in wanted], rtol=2e-6)
    pairs = list(zip(found.src.tolist(), found.trg.tolist(), strict=True))
    assert len(set(pairs) ^ {item[1:] for item in wanted}) == 0
