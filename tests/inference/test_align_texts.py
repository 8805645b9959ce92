"""Pairs become items: framed as the layout says; long ones in windows, every cell in one."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.errors import ConfigError
from jalign.inference.align_links import Cells, _own
from jalign.inference.align_texts import (
    PairTooLong,
    Side,
    characters,
    cut_pairs,
    looks_unspaced,
    pair_windows,
)

FRAME = (0, 2)


def sides(*sizes, words=1):
    """Make pairs of so many pieces; `words` pieces make a word; ids tell side and piece."""
    out = []
    for s in (0, 1):
        counts = [pair[s] for pair in sizes]
        ids = [np.arange(n) + 100 * (s + 1) for n in counts]
        word = [np.arange(n) // words for n in counts]
        flat = [np.concatenate(x).astype(np.int32) for x in (ids, word)]
        out.append(Side(np.cumsum([0, *counts]), *flat))
    return tuple(out)


def test_separate_sentences_are_framed_by_themselves():
    cut = cut_pairs(sides((2, 3)), FRAME, positions=16, words=True)
    items = cut.items
    assert items.ids.tolist() == [0, 100, 101, 2, 0, 200, 201, 202, 2]
    assert items.position.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert items.unit.tolist() == [1] * 4 + [2] * 5
    assert items.pool.tolist() == [0, 1, 1, 0, 0, 2, 2, 2, 0]
    assert cut.word.tolist() == [-1, 0, 1, -1, -1, 0, 1, 2, -1]
    assert items.more["word"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 0]


def test_joint_sentences_share_one_frame_and_one_unit():
    cut = cut_pairs(sides((2, 3), (1, 1)), FRAME, positions=16, layout="joint")
    items = cut.items
    assert items.ids.tolist() == [0, 100, 101, 2, 200, 201, 202, 2, 0, 100, 2, 200, 2]
    assert items.position.tolist() == [*range(8), *range(5)]
    assert items.unit.tolist() == [1] * 13 and items.first.tolist() == [0, 8, 13]
    assert items.pool.tolist() == [0, 1, 1, 0, 2, 2, 2, 0, 0, 1, 0, 2, 0]
    assert "word" not in items.more


def test_a_pair_with_an_empty_side_has_no_item_and_is_named():
    cut = cut_pairs(sides((0, 3), (1, 1), (2, 0), (0, 0)), FRAME, positions=16)
    assert cut.pair.tolist() == [1] and cut.empty.tolist() == [0, 2, 3] and cut.num_pairs == 4
    nothing = cut_pairs(sides((0, 0)), FRAME, positions=16)
    assert nothing.items.ids.size == 0 and nothing.items.lengths.size == 0


def all_cells(cut):
    """Return every cell that compares a source with a target piece, in every window."""
    src, trg = [], []
    for a, b in zip(cut.items.first[:-1], cut.items.first[1:], strict=True):
        slots = np.arange(a, b)
        pool = cut.items.pool[a:b]
        i, j = np.meshgrid(slots[pool == 1], slots[pool == 2], indexing="ij")
        src.append(i.ravel())
        trg.append(j.ravel())
    return Cells(np.concatenate(src), np.concatenate(trg), None)


@pytest.mark.parametrize("layout", ["separate", "joint"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_fit_cover_the_diagonal_and_own_each_cell_once(layout, seed):
    rng = np.random.default_rng(seed)
    positions = int(rng.integers(20, 60))
    sizes = [tuple(map(int, rng.integers(1, rng.choice([10, 60, 400]), 2))) for _ in range(12)]
    cut = cut_pairs(sides(*sizes), FRAME, positions=positions, layout=layout)
    size_I2 = cut.end - cut.start
    units = size_I2.max(1) + 2 if layout == "separate" else size_I2.sum(1) + 3
    assert units.max() <= positions and size_I2.min() >= 1
    cells = all_cells(cut)
    item = np.searchsorted(cut.items.first, cells.src, side="right") - 1
    key = [cut.pair[item], cut.piece[cells.src], cut.piece[cells.trg]]
    own = _own(cells, cut)
    item = np.searchsorted(cut.items.first, own.src, side="right") - 1
    owned = list(zip(cut.pair[item].tolist(), cut.piece[own.src].tolist(),
                     cut.piece[own.trg].tolist(), strict=True))  # fmt: skip
    assert len(owned) == len(set(owned)), "no cell twice"
    assert set(owned) == set(zip(*(x.tolist() for x in key), strict=True)), "no cell lost"
    over = [
        max(s) > positions - 2 if layout == "separate" else sum(s) > positions - 3 for s in sizes
    ]
    assert cut.long.tolist() == np.flatnonzero(over).tolist()
    for number, (m, n) in enumerate(sizes):
        mine = {(i, j) for pair, i, j in owned if pair == number}
        assert {i for i, _ in mine} == set(range(m)) and {j for _, j in mine} == set(range(n))
        diagonal = {(i, i * (n - 1) // max(m - 1, 1)) for i in range(m)}
        if min(m, n) > 40 and max(m, n) < 2 * min(m, n):
            assert len(diagonal - mine) == 0
        if not over[number]:
            assert len(mine) == m * n


def test_a_cell_belongs_to_the_window_in_which_it_is_most_central():
    cut = cut_pairs(sides((20, 20)), FRAME, positions=14)  # 12 pieces a side: 0-12, 8-20
    assert cut.start.tolist() == [[0, 0], [8, 8]]
    own = _own(all_cells(cut), cut)
    item = np.searchsorted(cut.items.first, own.src, side="right") - 1
    owner = {(int(cut.piece[a]), int(cut.piece[b])): int(k)
             for k, a, b in zip(item, own.src, own.trg, strict=True)}  # fmt: skip
    # pieces 8 to 11 are in both; a text's own ends are no edges
    assert [owner[i, i] for i in range(20)] == [0] * 10 + [1] * 10
    assert owner[8, 11] == 0 and owner[9, 11] == 1  # depths 0 and 0: the first; 0 and 1
    assert owner[0, 11] == 0 and owner[19, 8] == 1


def test_overflow_error_names_the_pair_and_skip_leaves_it_out():
    pairs = sides((3, 3), (40, 3), (3, 3))
    with pytest.raises(PairTooLong, match="pair 12 has 40 and 3 pieces, .* takes 14 on each side"):
        cut_pairs(pairs, FRAME, positions=16, on_overflow="error", before=10)
    with pytest.raises(PairTooLong, match="takes 13 on both together; .*--on-overflow=window"):
        cut_pairs(pairs, FRAME, positions=16, layout="joint", on_overflow="error")
    assert str(PairTooLong(1, (2, 3), "4").at("f:7")).startswith("f:7 has 2 and 3 pieces")
    cut = cut_pairs(pairs, FRAME, positions=16, on_overflow="skip")
    assert cut.pair.tolist() == [0, 2] and cut.long.tolist() == [1] and not cut.empty.size


def test_an_encoder_of_no_room_is_refused():
    with pytest.raises(ConfigError, match="takes 5 tokens"):
        cut_pairs(sides((1, 1)), FRAME, positions=5)


def test_long_positions_do_not_make_endless_windows():
    cut = cut_pairs(sides((5000, 5000)), FRAME, positions=8192)
    assert (cut.end - cut.start).max() == 2046


def test_windows_of_pairs_close_by_number_and_by_characters():
    pairs = [("a", "b")] * 5 + [("x" * 50, "y")] * 2
    got = [(len(w.pairs), w.before) for w in pair_windows(pairs, 3, 60)]
    assert got == [(3, 0), (3, 3), (1, 6)]
    with pytest.raises(TypeError, match="pair 2 is"):
        list(pair_windows([("a", "b"), ("a", "b", "c")], 3, 60))
    with pytest.raises(TypeError, match="pair 1 is"):
        list(pair_windows(["ab"[:1] + "c" * 2], 3, 60))


def test_characters_of_scripts_without_spaces_become_words():
    assert characters("我喜欢 iPhone手机").split() == ["我", "喜", "欢", "iPhone", "手", "机"]
    assert characters("ที่นี่").split() == ["ที่", "นี่"], "marks stay with their letter"
    assert characters("カタカナ").split() == ["カ", "タ", "カ", "ナ"]
    assert characters("が").split() == ["が"], "voicing mark"
    assert characters("the house, дом, घर, 집").split() == ["the", "house,", "дом,", "घर,", "집"]


def test_unsegmented_text_is_noticed_and_segmented_text_is_not():
    assert looks_unspaced("科学家一直猜想土卫六上存在着由液态甲烷")
    assert not looks_unspaced("科学家 一直 猜想 土卫六 上 存在 着 由 液态 甲烷 构成 的 海洋 。")
    assert not looks_unspaced("Donaudampfschifffahrtsgesellschaft")
