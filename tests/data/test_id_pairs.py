"""Dictionaries as ids: files come back whole, damage is told, the split is by word."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.data.id_pairs import IdPairs, read_all, read_id_pairs, single_pairs, write_id_pairs
from jalign.errors import BadData, ConfigError


def some_pairs(num=40):
    ids = np.arange(num)
    pairs = np.stack([ids // 2, ids + 100], axis=1)  # two translations each
    return single_pairs(pairs, [True] * num, langs=("en", "de"), tokenizer_sha256="abc")


def test_a_file_comes_back_as_it_was(tmp_path):
    pairs = some_pairs().split(0.5, seed=3)
    write_id_pairs(tmp_path / "d.npz", pairs)
    again = read_id_pairs(tmp_path / "d.npz", "abc")
    for name in ("src_NP", "trg_NP", "weight_N", "train_N"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    assert again.langs == ("en", "de") and len(again) == 40
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"]


def test_a_split_keeps_all_translations_of_a_word_together():
    pairs = some_pairs().split(0.25, seed=1)
    assert pairs.train_N.sum() == 10
    assert (pairs.train_N[::2] == pairs.train_N[1::2]).all()
    same, other = some_pairs().split(0.25, seed=1), some_pairs().split(0.25, seed=2)
    assert (same.train_N == pairs.train_N).all() and (other.train_N != pairs.train_N).any()


@pytest.mark.parametrize("rate", [0.0, 1.1, 0.001])
def test_a_rate_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ConfigError, match="rate="):
        some_pairs().split(rate)


def test_single_pieces_are_told_from_words_of_several():
    pairs = IdPairs(
        np.array([(1, -1), (2, 3)], np.int32), np.array([(4,), (5,)], np.int32),
        np.ones(2, np.float32), np.ones(2, bool), ("en", "de"), "abc",
    )  # fmt: skip
    assert pairs.is_single_N.tolist() == [True, False]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    write_id_pairs(tmp_path / "d.npz", some_pairs())
    whole = (tmp_path / "d.npz").read_bytes()
    for broken in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "d.npz").write_bytes(broken)
        with pytest.raises(BadData, match="jalign dictionary"):
            read_id_pairs(tmp_path / "d.npz", "abc")
    (tmp_path / "d.npz").write_bytes(whole)
    with pytest.raises(ConfigError, match="ids of tokenizer abc"):
        read_id_pairs(tmp_path / "d.npz", "other")
    with pytest.raises(ConfigError, match="does not exist"):
        read_all([str(tmp_path / "none.npz")], "abc")
    with pytest.raises(ConfigError, match="dictionary is empty"):
        read_all((), "abc")
