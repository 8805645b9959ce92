"""A lexicon of two languages as a word aligner: posteriors, soft links and hard links of pairs.

jalign.data.lexicon_em trains one; letters as in jalign.data.lexicon_cells, with K entries, V ids
and A links.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jalign.data.lexicon_cells import Cells, Pairs, Posterior, cell_keys, make_cells, posterior
from jalign.errors import BadData, ConfigError

FORMAT_VERSION = 1
# Probability of what the lexicon does not hold, as in fast_align; position decides among such.
UNSEEN = np.float32(1e-9)
_ARRAYS = {
    "keys_K": np.uint64,
    "forward_K": np.float32,
    "backward_K": np.float32,
    "null_forward_V": np.float32,
    "null_backward_V": np.float32,
}


class Links(NamedTuple):
    """Links of a batch of pairs in order: which pair, which source and target piece of it (from
    0), and a weight between 0 and 1.
    """

    pair_A: np.ndarray
    src_A: np.ndarray
    trg_A: np.ndarray
    weight_A: np.ndarray

    def split(self, num_pairs: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (links [A, 2], weight [A]) of every pair."""
        cuts = np.searchsorted(self.pair_A, np.arange(1, num_pairs))
        links_A2 = np.stack([self.src_A, self.trg_A], axis=1)
        parts = np.split(links_A2, cuts), np.split(self.weight_A, cuts)
        return list(zip(*parts, strict=True))[:num_pairs]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Lexical probabilities of both directions, and the position model of each.

    `keys_K` is `source id << 32 | target id`, ascending; `forward_K` is t(target | source),
    `backward_K` t(source | target); those from the empty word are per id. `tension` and `null` (the
    probability of the empty word) are (forward, backward).
    """

    keys_K: np.ndarray
    forward_K: np.ndarray
    backward_K: np.ndarray
    null_forward_V: np.ndarray
    null_backward_V: np.ndarray
    tension: tuple[float, float]
    null: tuple[float, float]
    tokenizer_sha256: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocab_size(self) -> int:
        """Return how many ids the tokenizer has."""
        return len(self.null_forward_V)

    def find(self, key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return t(target | source) and t(source | target) of keys, UNSEEN where there is none."""
        if not self.keys_K.size:
            return (np.full(len(key_N), UNSEEN, np.float32),) * 2
        # the last key is where those beyond it end, too: so no place lies outside
        at_N = np.searchsorted(self.keys_K[:-1], key_N)
        unseen_N = np.take(self.keys_K, at_N) != key_N
        forward_N, backward_N = np.take(self.forward_K, at_N), np.take(self.backward_K, at_N)
        for t_N in (forward_N, backward_N):
            t_N[unseen_N] = 0
            np.maximum(t_N, UNSEEN, out=t_N)
        return forward_N, backward_N

    def posteriors(self, pairs: Pairs) -> tuple[Cells, tuple[Posterior, Posterior]]:
        """Return the cells of pairs and the posterior of each direction, all at once in memory.

        Raises: BadData for ids outside the vocabulary.
        """
        for ids in (pairs.src_R, pairs.trg_C):
            if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
                raise BadData(
                    f"piece ids {ids.min()} to {ids.max()}, but the lexicon was trained with a "
                    f"vocabulary of {self.vocab_size}: is it of this tokenizer?"
                )
        cells = make_cells(pairs)
        t_N = self.find(cell_keys(pairs, cells))
        null_V = (self.null_forward_V, self.null_backward_V)
        forward, backward = (
            posterior(
                t_N[direction],
                np.maximum(null_V[direction][pairs.made(direction)], UNSEEN),
                cells,
                direction,
                tension=self.tension[direction],
                null=self.null[direction],
            )
            for direction in range(2)
        )
        return cells, (forward, backward)

    def links(self, pairs: Pairs, *, threshold: float = 0.1, top: int = 4) -> Links:
        """Return soft links: the geometric mean of both posteriors where it reaches `threshold`,
        at most the `top` best of each source piece.
        """
        parts = []
        for first, block in pairs.blocks():
            cells, (forward, backward) = self.posteriors(block)
            weight_N = np.sqrt(forward.cell_N * backward.cell_N)
            at = np.flatnonzero(weight_N >= threshold)
            at = at[_is_among_best(cells.row_N[at], weight_N[at], top)]
            pair_R = np.repeat(np.arange(first, first + len(block.src_len_E)), block.src_len_E)
            parts.append((pair_R[cells.row_N[at]], *_places_of(cells, at), weight_N[at]))
        empty = (*[np.zeros(0, np.int64)] * 3, np.zeros(0, np.float32))
        return Links(*(np.concatenate(x) for x in zip(empty, *parts, strict=True)))

    def pair_links(
        self, src_ids: np.ndarray, trg_ids: np.ndarray, *, threshold: float = 0.1, top: int = 4
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (links [A, 2], weight [A]) of one pair, as `links` does for many."""
        links = self.links(Pairs.of([src_ids], [trg_ids]), threshold=threshold, top=top)
        return links.split(1)[0]

    def align(self, pairs: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the hard links of each pair in both directions, [A, 2] of (source, target) each:
        forward the best source piece of each target piece, backward the other way, none where the
        empty word is better. Combine them with jalign.align.symmetrize.
        """
        found = []
        for _, block in pairs.blocks():
            cells, posteriors = self.posteriors(block)
            pair_R = np.repeat(np.arange(len(block.src_len_E)), block.src_len_E)
            sides = []
            for direction, share in enumerate(posteriors):
                made_N = cells.made(direction)
                at = np.flatnonzero(share.cell_N > share.null_M[made_N])
                at = at[_is_among_best(made_N[at], share.cell_N[at], 1)]
                links = Links(pair_R[cells.row_N[at]], *_places_of(cells, at), share.cell_N[at])
                sides.append([part for part, _ in links.split(len(block.src_len_E))])
            found += zip(*sides, strict=True)
        return found


def _places_of(cells: Cells, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    src, trg = cells.src_R.number[cells.row_N[at]], cells.trg_C.number[cells.col_N[at]]
    return src - 1, trg - 1


def _is_among_best(group_A: np.ndarray, weight_A: np.ndarray, num: int) -> np.ndarray:
    """Tell which are the `num` heaviest of their group; of equal ones the first."""
    order = np.lexsort((-weight_A, group_A))
    sorted_A = group_A[order]
    rank_A = np.arange(len(order)) - np.searchsorted(sorted_A, sorted_A)
    keep_A = np.zeros(len(order), bool)
    keep_A[order] = rank_A < num
    return keep_A


def save_lexicon(path: Path | str, lexicon: Lexicon) -> None:
    """Write a lexicon as one .npz file without pickles, whole or not at all; the same lexicon gives
    the same bytes.
    """
    path = Path(path)
    about = {
        "version": FORMAT_VERSION,
        "tokenizer_sha256": lexicon.tokenizer_sha256,
        "tension": list(lexicon.tension),
        "null": list(lexicon.null),
        "details": lexicon.details,
    }
    text = json.dumps(about, ensure_ascii=False, sort_keys=True)
    arrays = {name: np.asarray(getattr(lexicon, name), kind) for name, kind in _ARRAYS.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, about=np.frombuffer(text.encode(), np.uint8), **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_lexicon(path: Path | str, *, tokenizer_sha256: str | None = None) -> Lexicon:
    """Read a lexicon; `tokenizer_sha256` is the tokenizer whose ids it shall be asked about.

    Raises: ConfigError if it is not there or of another tokenizer, BadData if it is no lexicon.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; train a lexicon on the pair sources first")
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            version = about["version"]
            if version == FORMAT_VERSION:
                arrays = {name: file[name].astype(kind) for name, kind in _ARRAYS.items()}
                _check(arrays)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(f"{path} is no lexicon, or damaged ({error}); train it again") from error
    if version != FORMAT_VERSION:
        raise BadData(
            f"{path} has version {version}, this jalign reads {FORMAT_VERSION}; train it again"
        )
    if tokenizer_sha256 is not None and about["tokenizer_sha256"] != tokenizer_sha256:
        raise ConfigError(
            f"{path} was trained on pieces of tokenizer {about['tokenizer_sha256'][:12] or '?'}, "
            f"but the data has {tokenizer_sha256[:12]}; train it on data prepared with that one"
        )
    return Lexicon(
        **arrays,
        tension=tuple(about["tension"]),
        null=tuple(about["null"]),
        tokenizer_sha256=about["tokenizer_sha256"],
        details=about["details"],
    )


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for arrays that no training writes."""
    keys_K, vocab_size = arrays["keys_K"], len(arrays["null_forward_V"])
    for name, values in arrays.items():
        if values.shape != ((len(keys_K),) if name.endswith("_K") else (vocab_size,)):
            raise ValueError(f"{name} has shape {values.shape}")
        if values.dtype == np.float32 and not ((values >= 0) & (values < np.inf)).all():
            raise ValueError(f"{name} holds no probabilities")
    if not (keys_K[1:] > keys_K[:-1]).all():
        raise ValueError("the keys are not in order")
    low = keys_K & np.uint64(0xFFFFFFFF)
    if keys_K.size and max(int(keys_K[-1] >> np.uint64(32)), int(low.max())) >= vocab_size:
        raise ValueError("the keys go beyond the vocabulary")
