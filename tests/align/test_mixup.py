"""Mix-up: pairs joined two by two equal a plain loop; orders differ by side and by key."""

from __future__ import annotations

import jax
import numpy as np

from jalign.align.mixup import FIELDS, mix_up
from tests.tiny import SPECIALS, rows_of

mix = jax.jit(mix_up)


def sentences_of(batch, row):
    """Return (source ids, target ids) of each pair of a row, by position, and check positions."""
    found = []
    for number in range(1, batch["example"][row].max() + 1):
        at = np.flatnonzero(batch["example"][row] == number)
        cuts = np.flatnonzero(batch["position"][row][at] == 0)
        assert len(cuts) == 2 and cuts[0] == 0
        sides = {}
        for unit in np.split(at, cuts[1:]):
            np.testing.assert_array_equal(batch["position"][row][unit], np.arange(len(unit)))
            side = set(batch["side"][row][unit]) - {0}
            sides[side.pop()] = tuple(batch["ids"][row][unit].tolist())
            assert not side
        found.append((sides[1], sides[2]))
    return found


def test_neighbours_are_joined_in_orders_of_their_own_for_each_side():
    batch = rows_of("separate").rows(0, 32)
    mixed = jax.tree.map(np.asarray, mix({f: batch[f] for f in FIELDS}, jax.random.key(1)))
    orders, lone = set(), 0
    for row in range(32):
        before, after = sentences_of(batch, row), sentences_of(mixed, row)
        assert len(after) == -(-len(before) // 2)
        for k, joined in enumerate(after):
            pair = before[2 * k : 2 * k + 2]
            if len(pair) == 1:
                assert joined == pair[0]
                lone += 1
                continue
            chosen = []
            for side in (0, 1):
                one, two = pair[0][side], pair[1][side]
                served = (one + two[1:], two + one[1:])  # one <s>, each its </s>
                assert joined[side] in served and one[0] == SPECIALS.bos
                chosen.append(served.index(joined[side]))
            orders.add(tuple(chosen))
    assert lone > 0 and orders == {(0, 0), (0, 1), (1, 0), (1, 1)}
    kept = mixed["example"] > 0
    assert not mixed["position"][~kept].any() and not mixed["side"][~kept].any()


def test_the_orders_of_a_row_depend_on_its_number_and_the_key_alone():
    batch = {f: rows_of("separate").rows(0, 8)[f] for f in FIELDS}
    key = jax.random.key(1)
    whole, other = mix(batch, key), mix(batch, jax.random.key(2))
    half = mix(jax.tree.map(lambda x: np.concatenate([x[4:], x[4:]]), batch), key)
    for name in FIELDS:
        np.testing.assert_array_equal(half[name][:4], whole[name][4:])
    assert not np.array_equal(whole["ids"], other["ids"])
