"""Evaluate how near words are to their translations, and how far from other words.

In: sentence pairs with word links. For each linked pair of words the distance of their contextual
vectors (related), and that of the foreign word to another word of the same English sentence
(unrelated). Fine-tuning may shrink both, and changes norms: the paired difference and the forms
without scale tell what was forgotten. Word retrieval: is the nearest word of the other language,
among all words of the set, the linked one? Source: Efimov et al. 2022 for the idea, Cao et al. 2020
(contextual word retrieval, CSLS with 10 neighbours); protocol of methods.md 5.5.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jalign.align.words import POOLS, number_words, word_vectors
from jalign.data.tokenizer import load_tokenizer
from jalign.evals._averages import average
from jalign.evals._gold import GoldSet, read_gold_sets
from jalign.evals.word_alignment import PackedGold, pack_gold
from jalign.metrics import distributions as dist
from jalign.metrics.retrieval import retrieve
from jalign.nn.packed import unit_ids
from jalign.types import EvalSetting, Params, Result

SUMMARY = ("related", "unrelated", "difference", "error_rate", "auc")


@dataclass(frozen=True)
class Config:
    """`gold`: sets as in `jalign evaluate --gold` (see `_gold.py`), called SRC-TRG by language.

    `layer`: -1 the last, 0 the embeddings. `pool`: a word's vector is the "mean" of its pieces, the
    "first" or the "last". `one_to_one`, `skip_identical`: as in the objective `adjust`. `anchor`:
    language whose sentence gives the unrelated word (the target's where a set has it not). `seed`:
    of the unrelated words, the same for every model. `histograms`: JSON file to write, relative to
    the workdir, with `bins` bins. `skip_long`: leave out sentences longer than a row.
    """

    gold: tuple[str, ...] = ()
    layer: int = -1
    pool: str = "mean"
    one_to_one: bool = True
    skip_identical: bool = True
    anchor: str = "en"
    seed: int = 0
    histograms: str = ""
    bins: int = 60
    rows: int = 16
    row_length: int = 256
    skip_long: bool = False

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        if not self.gold:
            raise ValueError("gold is empty: name gold sets, as in jalign evaluate --gold")
        if self.pool not in POOLS:
            raise ValueError(f"pool={self.pool!r}: need one of {', '.join(POOLS)}")


class Triples(NamedTuple):
    """Related words and an unrelated one, as rows of the words of all sentences: [N] each.

    `other` is a word of the side `side` (0 source, 1 target), that of the anchor.
    """

    src: np.ndarray
    trg: np.ndarray
    other: np.ndarray
    side: int


class _Set(NamedTuple):
    """A gold set ready to evaluate; `first[side][s]` is the row of sentence s's first word."""

    packed: PackedGold
    first: tuple[np.ndarray, np.ndarray]
    triples: Triples


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Raises: ValueError naming the entry, BadData for a gold file.
    """
    shape = setting.encoder.module.cfg
    if not -1 <= cfg.layer <= shape.layers:
        raise ValueError(f"layer={cfg.layer}: need -1 to {shape.layers}")
    if cfg.histograms and setting.workdir is None and not Path(cfg.histograms).is_absolute():
        raise ValueError(f"histograms={cfg.histograms!r}: no workdir here; name a whole path")
    tokenizer = setting.tokenizer or load_tokenizer(Path(setting.manifest.folder) / "tokenizer")
    sets = []
    for gold in read_gold_sets(cfg.gold):
        packed = pack_gold(gold, tokenizer, "separate", cfg, setting, shape.positions)
        sets.append(_Set(packed, word_rows(gold), draw_triples(cfg, gold)))
    vectors = _make_vectors(cfg, setting)

    def evaluate(params: Params, aux: Any = None) -> Iterator[Result]:
        del aux
        every, counts = [], {}
        for one in sets:
            lang, words = one.packed.set.name, _words(cfg, setting, one, vectors, params)
            triples = _found(one.triples, words)
            of_kind = {kind: _distances(words, triples, kind) for kind in dist.KINDS}
            for kind, (related_N, unrelated_N) in of_kind.items():
                summary = dist.summarize(related_N, unrelated_N)
                for metric in SUMMARY:
                    value = getattr(summary, metric)
                    every.append(Result(f"distances/{kind}", lang, metric, value, summary.num))
            real = [x[~np.isnan(x[:, 0])] for x in words]
            norm, num = dist.mean_norm(*real), sum(map(len, real))
            every.append(Result("distances/l2", lang, "norm", norm, num))
            every += _retrieval(lang, words, triples)
            counts[lang] = {kind: _histograms(*found, cfg.bins) for kind, found in of_kind.items()}
        yield from every
        yield from average(every)
        if cfg.histograms and jax.process_index() == 0:
            path = Path(setting.workdir or "") / cfg.histograms
            path.write_text(json.dumps(counts), encoding="utf-8")

    return evaluate


def word_rows(gold: GoldSet) -> tuple[np.ndarray, np.ndarray]:
    """Return for each side the row of each sentence's first word among all words; last the sum."""
    sizes = ([len(pair[side].split()) for pair in gold.pairs] for side in (0, 1))
    return tuple(np.cumsum([0, *size]) for size in sizes)


def draw_triples(cfg: Config, gold: GoldSet) -> Triples:
    """Choose the related words of a set, by its sure links, and for each an unrelated one.

    The unrelated word is no possible partner, and another string than the related one; where a
    sentence has none such, the pair is left out. Raises: ValueError where nothing is left.
    """
    rng = np.random.default_rng([cfg.seed, zlib.crc32(gold.name.encode())])
    langs = gold.name.split("-")
    side = 0 if len(langs) == 2 and langs[0] == cfg.anchor else 1
    first, rows = word_rows(gold), []
    for s, (pair, links) in enumerate(zip(gold.pairs, gold.gold, strict=True)):
        texts = [text.split() for text in pair]
        for link in _kept(cfg, texts, sorted(links.sure)):
            foreign, near = link[1 - side], link[side]
            free = [
                k
                for k, text in enumerate(texts[side])
                if text != texts[side][near]
                and text != texts[1 - side][foreign]
                and ((k, foreign) if side == 0 else (foreign, k)) not in links.possible
            ]
            if free:
                other = free[rng.integers(len(free))]
                rows.append((first[0][s] + link[0], first[1][s] + link[1], first[side][s] + other))
    if not rows:
        raise ValueError(f"gold set {gold.name}: no linked words are left to compare")
    return Triples(*np.array(rows).T, side)


def _kept(
    cfg: Config, texts: list[list[str]], links: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    uses = [Counter(link[side] for link in links) for side in (0, 1)]
    for i, j in links:
        if cfg.one_to_one and max(uses[0][i], uses[1][j]) > 1:
            continue
        if not (cfg.skip_identical and texts[0][i] == texts[1][j]):
            yield i, j


def _make_vectors(cfg: Config, setting: EvalSetting) -> Callable:
    """Make the jitted function from a batch to the vectors of its words and what they are of."""

    def vectors(params, batch):
        layers = setting.encoder.module.cfg.layers if cfg.layer == -1 else cfg.layer
        module, encoder = setting.encoder.first_layers(params["encoder"], layers)
        h_BLD = module.apply(
            {"params": encoder}, batch["ids"], batch["position"], unit_ids(batch)
        )  # fmt: skip
        words = number_words(batch, batch["ids"].shape[1])
        vector_BWD = word_vectors(h_BLD, words.slot_BL, batch["ids"].shape[1], pool=cfg.pool)
        out = vector_BWD, words.example_BW, words.side_BW, words.word_BW
        return jax.lax.with_sharding_constraint(out, setting.replicated)

    return jax.jit(vectors)


def _words(
    cfg: Config, setting: EvalSetting, one: _Set, vectors: Callable, params: Params
) -> list[np.ndarray]:
    """Return the vectors of all words of each side, NaN for words that no piece was made of."""
    source, size = one.packed.source, setting.encoder.module.cfg.hidden
    rows = -(-cfg.rows // setting.encoder.num_groups) * setting.encoder.num_groups
    found = [np.full((first[-1], size), np.nan, np.float32) for first in one.first]
    for begin in range(0, source.packed.num_rows, rows):
        made = vectors(params, setting.put(source.rows(begin, rows), rows))
        vector_BWD, example_BW, side_BW, word_BW = map(np.asarray, made)
        for b in range(min(rows, source.packed.num_rows - begin)):
            record = np.array([record for _, record in source.records(begin + b)])
            for side in (0, 1):
                at = np.flatnonzero(side_BW[b] == side + 1)
                sentence = record[example_BW[b, at] - 1]
                found[side][one.first[side][sentence] + word_BW[b, at]] = vector_BWD[b, at]
    return found


def _found(triples: Triples, words: list[np.ndarray]) -> Triples:
    """Leave out the triples of which a word has no vector, and give the others NaN-free rows."""
    there = [~np.isnan(x[:, 0]) for x in words]
    keep = there[0][triples.src] & there[1][triples.trg] & there[triples.side][triples.other]
    return Triples(*(x[keep] for x in triples[:3]), triples.side)


def _distances(
    words: list[np.ndarray], triples: Triples, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of the related and of the unrelated words."""
    src, trg, other = words[0][triples.src], words[1][triples.trg], words[triples.side]
    foreign = trg if triples.side == 0 else src
    if kind == "relative":  # one scale for both, that of all words
        scale = dist.mean_norm(*(x[~np.isnan(x[:, 0])] for x in words))
        return tuple(x / scale for x in _distances(words, triples, "l2"))
    related_N = dist.distances(src, trg, kind=kind)
    return related_N, dist.distances(foreign, other[triples.other], kind=kind)


def _retrieval(lang: str, words: list[np.ndarray], triples: Triples) -> Iterator[Result]:
    """Look for each linked word among all words of the other side, both ways."""
    rows = [np.flatnonzero(~np.isnan(x[:, 0])) for x in words]
    vectors = [x[at] for x, at in zip(words, rows, strict=True)]
    gold = [np.searchsorted(at, x) for at, x in zip(rows, triples[:2], strict=True)]
    langs = lang, "-".join(lang.split("-")[::-1])
    for scoring in ("csls", "cosine"):
        for src, trg, name in ((0, 1, langs[0]), (1, 0, langs[1])):
            found = retrieve(vectors[src], vectors[trg], scoring=scoring)
            right = float((found[gold[src]] == gold[trg]).mean())
            task = f"word_retrieval/{scoring}"
            yield Result(task, name, "accuracy", right, len(gold[src]))


def _histograms(related_N: np.ndarray, unrelated_N: np.ndarray, bins: int) -> dict[str, Any]:
    """Count related and unrelated distances into shared bins, and their differences."""
    edges, counts = dist.histograms({"related": related_N, "unrelated": unrelated_N}, bins)
    other, difference = dist.histograms({"difference": unrelated_N - related_N}, bins)
    return {
        "edges": edges.tolist(),
        **{name: x.tolist() for name, x in counts.items()},
        "difference_edges": other.tolist(),
        "difference": difference["difference"].tolist(),
    }
