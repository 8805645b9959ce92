"""Train a lexicon by expectation maximisation: IBM model 1, then fast_align's diagonal positions.

In: the sides of prepared pair sources. Out: a `Lexicon` of both directions. Letters as in
jalign.data.lexicon_cells, with K kinds of cells (source id, target id) and V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from jalign.data.columns import Side
from jalign.data.lexicon import Lexicon
from jalign.data.lexicon_cells import (
    BLOCK_CELLS,
    MAX_TENSION,
    Cells,
    Pairs,
    Posterior,
    TensionFit,
    cell_keys,
    distinct,
    first_of,
    is_first,
    make_cells,
    posterior,
)
from jalign.errors import BadData, ConfigError

_TINY = 1e-30  # least probability in training, above the denormal numbers, which are slow
_MERGE_KEYS = 1 << 24


@dataclass(frozen=True)
class LexiconConfig:
    """How to train.

    model1_iterations, diagonal_iterations: how many of each kind, in this order.
    agree: both directions learn from the product of their posteriors (Liang et al. 2006).
    alpha: Dirichlet prior of the lexical probabilities (variational Bayes); 0 is plain EM. With
        `agree` it prunes too much: products are small counts.
    null: probability of the empty word.
    tension: of the first diagonal iteration where no other came before, or of all if not
        fit_tension.
    prune: entries below it in both directions are left out at the end.
    max_length: pairs with a longer side are left out.
    max_cells: of text with more cells (source times target pieces) only every n-th pair is used,
        so that memory is bounded, at about 10 bytes a cell.
    """

    model1_iterations: int = 3
    diagonal_iterations: int = 4
    agree: bool = True
    alpha: float = 0.0
    null: float = 0.2
    tension: float = 4.0
    fit_tension: bool = True
    prune: float = 1e-3
    max_length: int = 200
    max_cells: int = 1 << 27
    block_cells: int = BLOCK_CELLS

    def __post_init__(self) -> None:
        """Check the numbers. Raises: ConfigError naming the entry."""
        rules = {
            "model1_iterations": (self.model1_iterations >= 0, "0 or more"),
            "diagonal_iterations": (self.diagonal_iterations >= 0, "0 or more"),
            "alpha": (self.alpha >= 0, "0 or more"),
            "null": (0 < self.null < 1, "a number between 0 and 1"),
            "tension": (0 <= self.tension <= MAX_TENSION, f"0 to {MAX_TENSION}"),
            "prune": (0 <= self.prune < 1, "0 or more, less than 1"),
            "max_length": (self.max_length >= 1, "1 or more"),
            "max_cells": (1 <= self.max_cells < 1 << 31, "1 to 2^31 - 1"),
            "block_cells": (self.block_cells >= 1, "1 or more"),
        }
        for name, (holds, need) in rules.items():
            if not holds:
                raise ConfigError(f"lexicon {name}={getattr(self, name)!r}: need {need}")
        if self.num_iterations < 1:
            raise ConfigError("lexicon: 0 iterations train nothing; set diagonal_iterations=4")

    @property
    def num_iterations(self) -> int:
        """Return how many iterations there are."""
        return self.model1_iterations + self.diagonal_iterations


def train_lexicon(
    sources: Iterable[tuple[Side, Side]],
    *,
    vocab_size: int,
    tokenizer_sha256: str = "",
    config: LexiconConfig | None = None,
    details: Mapping[str, Any] | None = None,
    log: Callable[[str], None] | None = None,
) -> Lexicon:
    """Train the lexicon of pair sources, both directions at once; the same input gives the same
    bytes.

    Sources of one pair of languages, in one order, belong in one lexicon: the tension is common to
    all. `details` (which text it was) are kept with those of the training; `log` gets a line per
    iteration.
    Raises: BadData for sides of different numbers, ids outside the vocabulary, or no pair at all.
    Source: Dyer, Chahuneau & Smith 2013. Differs: model 1 comes first, the directions agree, and
    the tension is the exact maximum where fast_align takes gradient steps; with the config
    (model1_iterations=0, agree=False, alpha=0.01, null=0.08, fit_tension=False) it is
    `fast_align -d -v`.
    """
    config = config or LexiconConfig()
    pairs, used = _gather(list(sources), vocab_size, config)
    training = _Training(pairs, vocab_size, config)
    history = []
    for iteration in range(config.num_iterations):
        history.append(training.step(iteration))
        if log:
            forward, backward = history[-1]
            log(
                f"lexicon {iteration + 1}/{config.num_iterations}: log-likelihood per piece "
                f"{forward:.4f} forward, {backward:.4f} backward"
            )
    keep_K = np.maximum(*training.t) >= config.prune
    training_details = {
        **used,
        "config": asdict(config),
        "log_likelihood": history,
        "num_kinds": len(keep_K),
    }
    return Lexicon(
        keys_K=training.keys_K[keep_K],
        forward_K=training.t[0][keep_K],
        backward_K=training.t[1][keep_K],
        null_forward_V=training.null_t[0],
        null_backward_V=training.null_t[1],
        tension=(training.tension[0], training.tension[1]),
        null=(config.null, config.null),
        tokenizer_sha256=tokenizer_sha256,
        details={**(details or {}), **training_details},
    )


def _gather(
    sources: list[tuple[Side, Side]], vocab_size: int, config: LexiconConfig
) -> tuple[Pairs, dict[str, Any]]:
    """Lay the pairs to train on flat in memory, and say how many were used and left out."""
    lengths, kept, num_cells = [], [], 0
    for number, (src, trg) in enumerate(sources):
        if len(src.offsets) != len(trg.offsets):
            raise BadData(
                f"pair source {number}: {len(src.offsets) - 1} source and {len(trg.offsets) - 1} "
                "target sides; need as many of each"
            )
        src_len, trg_len = np.diff(src.offsets), np.diff(trg.offsets)
        fits = np.minimum(src_len, trg_len) > 0
        fits &= np.maximum(src_len, trg_len) <= config.max_length
        lengths.append((src_len, trg_len))
        kept.append(np.flatnonzero(fits))
        num_cells += int((src_len * trg_len)[fits].sum())
    num_pairs = sum(len(src_len) for src_len, _ in lengths)
    if not num_cells:
        raise BadData(
            f"no pair to train a lexicon on: of {num_pairs} pairs in {len(sources)} sources none "
            f"has two sides of 1 to {config.max_length} pieces; raise max_length or give more text"
        )
    stride = -(-num_cells // config.max_cells)
    kept = [at[::stride] for at in kept]
    sides = [
        (_take(src, at, vocab_size), src_len[at], _take(trg, at, vocab_size), trg_len[at])
        for (src, trg), (src_len, trg_len), at in zip(sources, lengths, kept, strict=True)
    ]
    pairs = Pairs(*(np.concatenate(part) for part in zip(*sides, strict=True)))
    num_used = len(pairs.src_len_E)
    return pairs, {"num_pairs": num_used, "num_left_out": num_pairs - num_used, "stride": stride}


def _take(side: Side, examples: np.ndarray, vocab_size: int) -> np.ndarray:
    begin, length = side.offsets[:-1][examples], np.diff(side.offsets)[examples]
    at = np.repeat(begin - first_of(length)[:-1], length)
    at += np.arange(len(at))
    ids = np.asarray(side.ids[at], np.int32)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise BadData(
            f"piece ids {ids.min()} to {ids.max()} in a vocabulary of {vocab_size}: is this the "
            "tokenizer that prepared the text?"
        )
    return ids


class _Block(NamedTuple):
    """Some pairs, the kind of each cell numbered within the block, and these among all kinds."""

    pairs: Pairs
    kind_N: np.ndarray
    kinds: np.ndarray


def _make_blocks(pairs: Pairs, block_cells: int) -> tuple[list[_Block], np.ndarray]:
    """Find the kinds of all cells, the only index that the training needs; the keys are sorted.

    Cells refer to the kinds of their block, and these in ascending order to all: so probabilities
    are gathered, and counts scattered, within the cache.
    """
    blocks, merged, waiting = [], np.zeros(0, np.uint64), []
    for _, part in pairs.blocks(block_cells):
        keys, kind_N = distinct(cell_keys(part, make_cells(part)))
        blocks.append(_Block(part, kind_N, keys))
        waiting.append(keys)
        if sum(map(len, waiting)) > _MERGE_KEYS:
            merged, waiting = _merge([merged, *waiting]), []
    merged = _merge([merged, *waiting])
    for number, block in enumerate(blocks):
        at = np.searchsorted(merged, block.kinds).astype(np.int32)
        blocks[number] = block._replace(kinds=at)
    return blocks, merged


def _merge(parts: list[np.ndarray]) -> np.ndarray:
    keys = np.concatenate(parts)
    keys.sort()
    return keys[is_first(keys)]


class _Counts:
    """What an iteration counts, for each of the two directions."""

    def __init__(self, pairs: Pairs, num_kinds: int, vocab_size: int):
        self.count_K = [np.zeros(num_kinds) for _ in range(2)]
        self.null_V = [np.zeros(vocab_size) for _ in range(2)]
        self.distance = [0.0, 0.0]
        self.log_p = [0.0, 0.0]
        self.mass_M: list[list[np.ndarray]] = [[], []]  # of the pieces of each block, without null

    def add(self, direction: int, block: _Block, cells: Cells, found: Posterior) -> None:
        count = np.bincount(block.kind_N, found.cell_N, len(block.kinds))
        self.count_K[direction][block.kinds] += count
        made_M, made_N = block.pairs.made(direction), cells.made(direction)
        self.null_V[direction] += np.bincount(made_M, found.null_M, len(self.null_V[direction]))
        self.distance[direction] += float(np.vdot(found.cell_N, cells.distance_N))
        self.mass_M[direction].append(np.bincount(made_N, found.cell_N, len(made_M)))
        self.log_p[direction] += float(found.log_M.sum())


class _Training:
    """The probabilities so far; lists hold direction 0 (target given source) and 1 (source given
    target).
    """

    def __init__(self, pairs: Pairs, vocab_size: int, config: LexiconConfig):
        self.pairs, self.vocab_size, self.config = pairs, vocab_size, config
        self.blocks, self.keys_K = _make_blocks(pairs, config.block_cells)
        self.t = [np.full(len(self.keys_K), 1 / vocab_size, np.float32) for _ in range(2)]
        self.null_t = [np.full(vocab_size, 1 / vocab_size, np.float32) for _ in range(2)]
        self.tension = [0.0, 0.0]
        lengths = pairs.trg_len_E, pairs.src_len_E
        self.tensions = [TensionFit(*lengths), TensionFit(*lengths[::-1])]

    def step(self, iteration: int) -> list[float]:
        """Share all pieces out and learn from the counts; return the log-likelihood per piece
        before that, forward and backward.
        """
        config = self.config
        if iteration == config.model1_iterations and not (config.fit_tension and iteration):
            self.tension = [config.tension, config.tension]
        counts = _Counts(self.pairs, len(self.keys_K), self.vocab_size)
        for block in self.blocks:
            cells = make_cells(block.pairs)
            for direction, found in enumerate(self._posteriors(block, cells)):
                counts.add(direction, block, cells, found)
        next_is_diagonal = config.diagonal_iterations and iteration + 1 >= config.model1_iterations
        for direction in range(2):
            self._learn(direction, counts.count_K[direction], counts.null_V[direction])
            if config.fit_tension and next_is_diagonal:
                self.tension[direction] = self.tensions[direction].best(
                    counts.distance[direction],
                    np.concatenate(counts.mass_M[direction]),
                    self.tension[direction],
                )
        return [counts.log_p[d] / len(self.pairs.made(d)) for d in range(2)]

    def _posteriors(self, block: _Block, cells: Cells) -> list[Posterior]:
        found = [
            posterior(
                np.take(np.take(self.t[direction], block.kinds), block.kind_N),
                self.null_t[direction][block.pairs.made(direction)],
                cells,
                direction,
                tension=self.tension[direction],
                null=self.config.null,
            )
            for direction in range(2)
        ]
        if self.config.agree:
            both_N = found[0].cell_N * found[1].cell_N
            found = [part._replace(cell_N=both_N) for part in found]
        return found

    def _learn(self, direction: int, count_K: np.ndarray, null_V: np.ndarray) -> None:
        num = np.count_nonzero(null_V)
        self.null_t[direction] = self._probability(null_V, null_V.sum(), num)
        total_V, num_V = np.zeros(self.vocab_size), np.zeros(self.vocab_size)
        for part, given in self._given(direction):
            total_V += np.bincount(given, count_K[part], self.vocab_size)
            num_V += np.bincount(given, minlength=self.vocab_size)
        for part, given in self._given(direction):
            t = self._probability(count_K[part], total_V[given], num_V[given])
            self.t[direction][part] = t

    def _given(self, direction: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield runs of kinds, and the id that each kind generates from."""
        shift, low = np.uint64(32), np.uint64(0xFFFFFFFF)
        for begin in range(0, len(self.keys_K), BLOCK_CELLS):
            part = slice(begin, begin + BLOCK_CELLS)
            keys = self.keys_K[part]
            yield part, (keys & low if direction else keys >> shift).astype(np.int64)

    def _probability(
        self, count: np.ndarray, total: np.ndarray | float, num: np.ndarray | int
    ) -> np.ndarray:
        """Return float32 probabilities of counts, given the total and the number of their kinds."""
        alpha = self.config.alpha
        if alpha:
            t = exp_digamma(count + alpha) / exp_digamma(total + alpha * num)
        else:
            t = count / np.maximum(total, _TINY)
        return np.maximum(t, _TINY).astype(np.float32)


def exp_digamma(x: np.ndarray | float) -> np.ndarray:
    """Return exp(digamma(x)) for x > 0, to 1e-9: what variational Bayes puts for a count."""
    x = np.asarray(x, np.float64)
    below = sum(1 / (x + k) for k in range(6))  # digamma(x) = digamma(x + 6) - below
    y = 1 / (x + 5.5) ** 2  # the series around x + 6 - 1/2
    return (x + 5.5) * np.exp(y * (1 / 24 - y * (7 / 960 - y * (31 / 8064))) - below)
