"""Packed rows: the fields of all three layouts, by hand and by invariants, and the pipeline around
them.
"""

from __future__ import annotations

import numpy as np
import pytest

from jalign.data.pipeline import BatchSource, load_batches, num_units, real_tokens
from jalign.data.records import Side
from jalign.data.rows import Layout, Part, RowSource, Specials

SPECIALS = Specials(bos=0, eos=2, pad=1)


def side(*texts):
    """Make a side from lists of (id, word)."""
    ids = [i for text in texts for i, _ in text]
    word = [w for text in texts for _, w in text]
    return Side(
        np.cumsum([0, *map(len, texts)]), np.array(ids, np.uint16), np.array(word, np.uint16)
    )


def random_side(seed, num=400, longest=60):
    rng = np.random.default_rng(seed)
    return side(
        *[
            [(int(rng.integers(4, 99)), w // 2) for w in range(rng.integers(1, longest))]
            for _ in range(num)
        ]
    )


PAIR = Part("pair/en-de", (side([(10, 0), (11, 0), (12, 1)]), side([(20, 0), (21, 1)])), (3, 5))


def one_row(kind, length, part=PAIR, **changes):
    batch = RowSource([part], Layout(kind, length, length, **changes), SPECIALS, once=True).rows(
        0, 1
    )
    return {name: values[0].tolist() for name, values in batch.items()}


def test_joint_layout_by_hand():
    row = one_row("joint", 10)
    assert row == {
        "ids": [0, 10, 11, 12, 2, 20, 21, 2, 1, 1],
        "example": [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        "side": [0, 1, 1, 1, 0, 2, 2, 0, 0, 0],
        "position": [0, 1, 2, 3, 4, 5, 6, 7, 0, 0],
        "word": [-1, 0, 0, 1, -1, 0, 1, -1, -1, -1],
        "lang": [3, 3, 3, 3, 3, 5, 5, 5, 0, 0],
        "row": 0,
    }


def test_separate_layout_by_hand():
    row = one_row("separate", 10)
    assert row["ids"] == [0, 10, 11, 12, 2, 0, 20, 21, 2, 1]
    assert row["example"] == [1] * 9 + [0]
    assert row["side"] == [0, 1, 1, 1, 0, 0, 2, 2, 0, 0]
    assert row["position"] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]
    assert row["lang"] == [3] * 5 + [5] * 4 + [0]


def test_single_layout_by_hand():
    row = one_row("single", 6, Part("mono/en", PAIR.sides[:1], (3,)))
    assert row["ids"] == [0, 10, 11, 12, 2, 1]
    assert row["side"] == [0, 1, 1, 1, 0, 0]


def test_a_single_text_longer_than_a_unit_is_cut_into_equal_pieces_and_nothing_is_lost():
    long = side([(i, i) for i in range(4, 24)])
    source = RowSource(
        [Part("mono/en", (long,), (0,))], Layout("single", 20, 10), SPECIALS, once=True
    )
    ids = source.rows(0, source.packed.num_rows)["ids"]
    assert sorted(ids[ids > 3].tolist()) == list(range(4, 24))
    assert source.num_cut == {"mono/en": 1} and source.index[0].size == 3


def test_a_pair_longer_than_a_unit_is_left_out_and_counted():
    sides = (side([(10, 0)], [(11, 0)] * 9), side([(20, 0)], [(21, 0)]))
    source = RowSource([Part("pair/x", sides, (0, 1))], Layout("joint", 32, 8), SPECIALS, once=True)
    assert source.num_left_out == {"pair/x": 1}
    assert source.records(0) == [("pair/x", 0)]


def test_nothing_that_fits_is_an_error_that_says_what_to_raise():
    with pytest.raises(ValueError, match="raise max_unit or row_length"):
        RowSource(
            [Part("pair/x", (side([(9, 0)] * 9), side([(9, 0)])), (0, 1))],
            Layout("joint", 8, 8),
            SPECIALS,
        )


def test_swap_puts_the_target_first_in_about_half_and_keeps_side_ids():
    part = Part("pair/x", (side(*[[(10, 0)]] * 400), side(*[[(20, 0)]] * 400)), (0, 1))
    rows = RowSource([part], Layout("joint", 50, 50, swap=True), SPECIALS, seed=1).rows(0, 40)
    first = rows["ids"][rows["position"] == 1]
    first = first[first > 3]
    assert 0.4 < (first == 20).mean() < 0.6
    assert (rows["side"][rows["ids"] == 10] == 1).all() and (
        rows["side"][rows["ids"] == 20] == 2
    ).all()


@pytest.fixture(scope="module")
def sources():
    pair = Part("pair/en-de", (random_side(0), random_side(1)), (0, 1))
    mono = Part("mono/en", (random_side(2),), (0,))
    return {
        "pair": RowSource([pair], Layout("joint", 128, 128), SPECIALS, seed=5),
        "mono": RowSource([mono], Layout("single", 128, 128), SPECIALS, seed=6),
    }


@pytest.mark.parametrize(
    "local",
    [
        [{"pair": [(0, 4)], "mono": [(0, 2)]}, {"pair": [(4, 8)], "mono": [(2, 4)]}],
        [
            {"pair": [(0, 2), (5, 6)], "mono": [(3, 4)]},
            {"pair": [(2, 5), (6, 8)], "mono": [(0, 3)]},
        ],
    ],
)
def test_two_processes_read_together_what_one_reads(sources, local):
    rows = {"pair": 8, "mono": 4}
    whole = BatchSource(sources, rows)
    halves = [BatchSource(sources, rows, mine) for mine in local]
    for step in (0, 17):
        for stream in rows:
            held = [r for mine in local for begin, end in mine[stream] for r in range(begin, end)]
            for name, values in whole[step][stream].items():
                joined = np.concatenate([half[step][stream][name] for half in halves])
                np.testing.assert_array_equal(values[held], joined)


def test_the_loader_starts_at_any_step(sources):
    source = BatchSource(sources, {"pair": 2, "mono": 2})
    loader = load_batches(source, 1_000_000)
    for step in (1_000_000, 1_000_001):
        for stream, batch in next(loader).items():
            for name, values in batch.items():
                np.testing.assert_array_equal(values, source[step][stream][name])


def test_records_name_what_the_rows_hold(sources):
    source = BatchSource(sources, {"pair": 4, "mono": 4})
    records, batch = source.records(7), source[7]
    assert len(records["pair"]) == sum(len(set(r[r > 0])) for r in batch["pair"]["example"])
    name, record = records["pair"][0]
    src = sources["pair"].index[0].part.sides[0]
    at = (batch["pair"]["example"][0] == 1) & (batch["pair"]["side"][0] == 1)
    assert name == "pair/en-de"
    assert (
        batch["pair"]["ids"][0][at].tolist()
        == src.ids[src.offsets[record] : src.offsets[record + 1]].tolist()
    )


def test_tokens_and_units_are_counted_without_padding():
    batch = {"pair": RowSource([PAIR], Layout("separate", 12, 12), SPECIALS, once=True).rows(0, 2)}
    assert real_tokens(batch) == 9 and num_units(batch) == 2
