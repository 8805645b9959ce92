"""Packed pairs of random sentences whose words have one to three pieces, with word links; and plain
loops over such pairs.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from jalign.data.links import file_links
from jalign.data.records import Side
from jalign.data.rows import Layout, Part, RowSource
from tests.tiny import SPECIALS

NUM = 200
LENGTH = 64


def words_side(seed: int, pieces: int, longest: int = 6) -> Side:
    """Make sentences of 1 to `longest` words of 1 to 3 pieces, of so many different ones."""
    rng = np.random.default_rng(seed)
    ids, word, offsets = [], [], [0]
    for _ in range(NUM):
        sizes = rng.integers(1, 4, rng.integers(1, longest + 1))
        word += np.repeat(np.arange(sizes.size), sizes).tolist()
        ids += rng.integers(4, 4 + pieces, sizes.sum()).tolist()
        offsets.append(len(ids))
    return Side(np.array(offsets), np.array(ids, np.uint16), np.array(word, np.uint16))


def link_lines(sides: tuple[Side, Side], seed: int) -> list[str]:
    """Draw a Pharaoh line for each pair: a few random links, sometimes none."""
    rng = np.random.default_rng(seed)
    lines = []
    for k in range(len(sides[0].offsets) - 1):
        sizes = [int(s.word[s.offsets[k + 1] - 1]) + 1 for s in sides]
        num = rng.integers(0, 6)
        drawn = {(rng.integers(sizes[0]), rng.integers(sizes[1])) for _ in range(num)}
        lines.append(" ".join(f"{i}-{j}" for i, j in sorted(drawn)))
    return lines


def linked_rows(layout: str = "separate", seed: int = 0, pieces: int = 2, **changes) -> RowSource:
    """Make a source of packed linked pairs, en-de: languages 0 and 1."""
    sides = (words_side(seed, pieces), words_side(seed + 1, pieces))
    linker = file_links({"en-de": link_lines(sides, seed + 2)})
    shape = Layout(layout, LENGTH, LENGTH, **changes)
    return RowSource([Part("pair/en-de", sides, (0, 1))], shape, SPECIALS, seed=seed, linker=linker)


def pairs_alone(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lay every pair of a packed batch, with its links, alone into a row."""
    blank = {"ids": SPECIALS.pad, "word": -1, "links": -1}
    rows: dict[str, list] = {name: [] for name in packed}
    for b, examples in enumerate(packed["example"]):
        for number in range(1, examples.max() + 1):
            slots = np.flatnonzero(examples == number)
            links = packed["links"][b]
            mine = np.flatnonzero(np.isin(links[:, 0], slots))
            for name, values in packed.items():
                at, begin = (mine, slots[0]) if name.startswith("link") else (slots, 0)
                if name == "row":
                    rows[name].append(len(rows[name]))
                    continue
                row = np.full_like(values[b], blank.get(name, 0))
                row[: at.size] = values[b][at] - (begin if name == "links" else 0)
                rows[name].append(np.minimum(row, 1) if name == "example" else row)
    return {name: np.array(values) for name, values in rows.items()}


def words_of(batch: dict[str, np.ndarray], row: int, side: int) -> list[np.ndarray]:
    """Return the slots of each word of a side, for a row with one pair."""
    at = np.flatnonzero(batch["side"][row] == side)
    word = batch["word"][row][at]
    return [at[word == k] for k in range(word.max() + 1)]


def kept_links(batch: dict[str, np.ndarray], row: int) -> tuple[list, int]:
    """Return the word links that a row with one pair keeps, and how many it had."""
    src, trg = (words_of(batch, row, side) for side in (1, 2))
    first = [{int(slots[0]): k for k, slots in enumerate(side)} for side in (src, trg)]
    links = [(first[0][i], first[1][j]) for i, j in batch["links"][row] if i >= 0]
    kept = []
    uses = [Counter(link[side] for link in links) for side in (0, 1)]
    for i, j in links:
        same = np.array_equal(batch["ids"][row][src[i]], batch["ids"][row][trg[j]])
        if uses[0][i] == uses[1][j] == 1 and not same:
            kept.append((i, j))
    return kept, len(links)
