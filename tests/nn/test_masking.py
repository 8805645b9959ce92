"""Masking: the statistics of methods.md 10.1, never a special token, and the same masks however the
batch is cut.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jalign.nn.masking import MaskRates, corrupt, select_tokens
from jalign.types import TokenIds
from tests.tiny import VOCAB, rows_of

TOKENS = TokenIds(mask=VOCAB - 1, specials=(0, 1, 2, 3, VOCAB - 1))


@pytest.fixture(scope="module")
def masked():
    batch = rows_of("joint", length=128, num=6000).rows(0, 1200)
    key = jax.random.key(0)
    selected = np.asarray(select_tokens(key, batch, 0.15))
    ids = np.asarray(corrupt(jax.random.key(1), batch, selected, VOCAB, TOKENS, MaskRates()))
    return batch, selected, ids


def test_rates_are_those_of_bert_over_1e5_tokens(masked):
    batch, selected, ids = masked
    content = batch["side"] > 0
    assert content.sum() >= 100_000
    assert abs(selected[content].mean() - 0.15) < 0.004
    new, old = ids[selected], batch["ids"][selected]
    assert abs((new == TOKENS.mask).mean() - 0.8) < 0.01
    kept = (new == old).mean()
    # a random id equals the old one once in 115
    assert abs(kept - (0.1 + 0.1 / 115)) < 0.01
    assert abs(1 - (new == TOKENS.mask).mean() - kept - 0.1) < 0.01


def test_special_tokens_and_padding_are_never_selected_nor_drawn(masked):
    batch, selected, ids = masked
    assert not selected[batch["side"] == 0].any()
    changed = selected & (ids != TOKENS.mask)
    assert not np.isin(ids[changed], TOKENS.specials).any()
    np.testing.assert_array_equal(ids[~selected], batch["ids"][~selected])


def test_random_ids_are_uniform_over_all_words(masked):
    batch, selected, ids = masked
    drawn = ids[selected & (ids != TOKENS.mask) & (ids != batch["ids"])]
    counts = np.bincount(drawn, minlength=VOCAB)[4:-1]
    assert counts.min() > 0 and counts.max() < 3 * counts.mean()


def test_masks_depend_on_the_row_not_on_the_batch(masked):
    batch, selected, ids = masked
    part = {name: values[37:40] for name, values in batch.items()}
    mine = np.asarray(select_tokens(jax.random.key(0), part, 0.15))
    np.testing.assert_array_equal(mine, selected[37:40])
    again = corrupt(jax.random.key(1), part, mine, VOCAB, TOKENS, MaskRates())
    np.testing.assert_array_equal(again, ids[37:40])


def test_random_ids_come_from_the_half_that_was_asked_for():
    half, mask = VOCAB, VOCAB - 1  # 120 ids, each with its own in the second half
    tokens = TokenIds(mask=mask, specials=(0, 1, 2, 3, mask))
    batch = rows_of("joint", length=128, num=3000).rows(0, 300)
    content = batch["side"] > 0
    second = content & (batch["side"] == 2)
    batch["ids"] = np.where(second, batch["ids"] + half, batch["ids"])
    for name, ranges in (("own", ((4, 119), (124, 239))), ("first", ((4, 119), (4, 119)))):
        rates = MaskRates(0.5, 0.0, 1.0, name)
        new = np.asarray(corrupt(jax.random.key(1), batch, content, 2 * half, tokens, rates))
        for mine, (low, high) in zip((content & ~second, second), ranges, strict=True):
            assert new[mine].min() == low and new[mine].max() == high - 1
            counts = np.bincount(new[mine] - low)
            assert counts.min() > 0 and counts.max() < 3 * counts.mean()
