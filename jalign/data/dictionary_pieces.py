"""Look the entries of a dictionary up in a tokenizer's vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError

_BATCH = 10_000  # entries encoded at a time
_ANCHOR = "a"  # goes before an entry: byte-level pieces of a first word are not those of others


class PieceSequences(NamedTuple):
    """Entries as pieces: ids padded with -1, weights that sum to 1 for each source, and counts.

    `counts["entries"]` is the sum of all its other counts.
    """

    src_NP: np.ndarray
    trg_NP: np.ndarray
    weights_N: np.ndarray
    counts: Mapping[str, int]


class PiecePairs(NamedTuple):
    """Entries of one piece on each side: int32 [N, 2], their weights, and counts."""

    ids_N2: np.ndarray
    weights_N: np.ndarray
    counts: Mapping[str, int]

    def report(self) -> list[str]:
        """Say how many entries the vocabulary can use, and why it cannot use the others."""
        total = self.counts.get("entries", 0)
        lines = [f"{len(self.ids_N2)} of {total} entries are pairs of single pieces"]
        return lines + [
            f"  {num} {reason}" for reason, num in self.counts.items() if reason != "entries"
        ]


def encode_entries(
    pairs: Sequence[tuple[str, str]],
    weights: np.ndarray,
    tokenizer: Tokenizer,
    *,
    max_pieces: int,
    try_title: bool,
) -> PieceSequences:
    """Encode both sides of entries as they stand within a sentence.

    Entries with an unknown piece, with more than `max_pieces` on a side, or with the same pieces on
    both sides are left out; those that equal another in pieces are merged, their weights added.
    Raises: ConfigError if nothing is left.
    """
    known: tuple[dict, dict] = ({}, {})
    for side in (0, 1):
        words = list(dict.fromkeys(pair[side] for pair in pairs))
        for start in range(0, len(words), _BATCH):
            batch = words[start : start + _BATCH]
            for word, ids in zip(batch, _encode(batch, tokenizer, try_title), strict=True):
                known[side][word] = ids
    counts: Counter[str] = Counter(entries=len(pairs))
    merged: dict[tuple, float] = {}
    for (src, trg), weight in zip(pairs, weights.tolist(), strict=True):
        sides = (known[0][src], known[1][trg])
        reason = _fault(sides, tokenizer, max_pieces)
        if reason is None and sides in merged:
            reason = "the same pieces as another entry"
        if reason is None or sides in merged:
            merged[sides] = merged.get(sides, 0.0) + weight
        single = max(map(len, sides)) == 1
        counts[reason or ("single pieces" if single else "several pieces")] += 1
    if not merged:
        raise ConfigError(
            f"none of the {len(pairs)} entries of the dictionary can be used with this tokenizer: "
            f"{_listed(counts)}. Check that both are of the same languages, try another case "
            "(case='lower' or try_title=True) or allow more pieces."
        )
    return _arrays(merged, max_pieces, counts)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{num} {reason}" for reason, num in counts.items() if reason != "entries")


def _fault(sides: tuple[tuple, tuple], tokenizer: Tokenizer, max_pieces: int) -> str | None:
    if any(tokenizer.unk_id in side for side in sides):
        return "with characters the tokenizer does not know"
    if max(map(len, sides)) > max_pieces:
        return f"of more than {max_pieces} piece{'s' if max_pieces > 1 else ''}"
    return "the same pieces on both sides" if sides[0] == sides[1] else None


def _encode(words: list[str], tokenizer: Tokenizer, try_title: bool) -> list[tuple[int, ...]]:
    """Encode words; `try_title` takes "Haus" for "haus" where only that is a single piece."""
    before = Counter(tokenizer.counts)
    found = [_pieces(one) for one in tokenizer.encode_words([f"{_ANCHOR} {w}" for w in words])]
    if try_title:
        titles = [word[:1].upper() + word[1:] for word in words]
        other = tokenizer.encode_words([f"{_ANCHOR} {word}" for word in titles])
        for i, one in enumerate(other):
            pieces = _pieces(one)
            if len(pieces) == 1 and (len(found[i]) > 1 or tokenizer.unk_id in found[i]):
                found[i] = pieces
    tokenizer.counts.clear()  # they are of texts; ours are in the report
    tokenizer.counts.update(before)
    return found


def _pieces(encoded: tuple[np.ndarray, np.ndarray]) -> tuple[int, ...]:
    ids, word = encoded
    return tuple(ids[word > 0].tolist())


def _arrays(merged: dict[tuple, float], max_pieces: int, counts: Counter[str]) -> PieceSequences:
    sides = tuple(np.full((len(merged), max_pieces), -1, np.int32) for _ in range(2))
    total: Counter = Counter()
    for n, (pair, weight) in enumerate(merged.items()):
        total[pair[0]] += weight
        for side, ids in zip(sides, pair, strict=True):
            side[n, : len(ids)] = ids
    weights = np.array([w / total[pair[0]] for pair, w in merged.items()], np.float32)
    return PieceSequences(*sides, weights, dict(counts))
