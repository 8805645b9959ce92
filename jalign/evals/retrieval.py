"""Evaluate translation retrieval on held-out pairs: is a sentence's nearest neighbour its
translation?

Sentence vectors are means over the states of a layer. Both directions, every pair of languages, and
their average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np

from jalign.align.search import nearest_both
from jalign.data.records import Side, open_source
from jalign.data.rows import SPECIALS, Layout, Part, RowSource
from jalign.evals._averages import average
from jalign.metrics.retrieval import retrieval_accuracy
from jalign.nn.packed import unit_ids, unit_means
from jalign.types import EvalSetting, Params, Result


@dataclass(frozen=True)
class Config:
    """`candidates`: the first so many held-out pairs of each language pair; `layer`: -1 is the
    last, 0 the embeddings.
    """

    candidates: int = 256
    layer: int = -1
    rows: int = 16
    row_length: int = 256


def make(cfg: Config, setting: EvalSetting) -> Callable[[Params], Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Raises: ValueError where no pair has held-out data.
    """
    layout = Layout("separate", cfg.row_length, cfg.row_length)
    sources: dict[str, RowSource] = {}
    for info in setting.manifest.sources:
        if info.stream == "pair" and "heldout" in info.splits:
            part = _first(setting.manifest, info.name, cfg)
            sources[info.name] = RowSource([part], layout, setting.specials, once=True)
    if not sources:
        raise ValueError(
            f"retrieval needs held-out pairs, and {setting.manifest.folder} has none: prepare it "
            "with pairs and --heldout=0.01, or leave out this evaluation"
        )
    num_units = 2 * max(
        len(s.packed.row(i)[0]) for s in sources.values() for i in range(s.packed.num_rows)
    )
    module = setting.encoder.module

    @jax.jit
    def vectors(params, batch):
        unit_BL = unit_ids(batch)
        last = cfg.layer == -1
        h = module.apply(
            {"params": params["encoder"]},
            batch["ids"],
            batch["position"],
            unit_BL,
            all_layers=not last,
        )
        return jax.lax.with_sharding_constraint(
            unit_means(h if last else h[cfg.layer], unit_BL, num_units), setting.replicated
        )

    def sides(params: Params, source: RowSource) -> tuple[np.ndarray, np.ndarray]:
        found = {}
        for first in range(0, source.packed.num_rows, cfg.rows):
            batch = setting.put(source.rows(first, cfg.rows), cfg.rows)
            mean_BUD = np.asarray(vectors(params, batch))
            for b in range(cfg.rows):
                for k, (_, record) in enumerate(source.records(first + b)):
                    found[record] = mean_BUD[b, 2 * k : 2 * k + 2]
        both = np.stack([found[r] for r in sorted(found)])
        return both[:, 0], both[:, 1]

    def evaluate(params: Params, aux=None) -> Iterator[Result]:
        del aux
        every: list[Result] = []
        for name, source in sources.items():
            src, trg = sides(params, source)
            forward, backward = retrieval_accuracy(src, trg, search=nearest_both)
            turned = "-".join(_langs(setting.manifest, name)[::-1])
            for lang, accuracy in ((name, forward), (turned, backward)):
                every.append(Result("retrieval", lang, "accuracy", accuracy, len(src)))
        yield from every
        yield from average(every, min)

    return evaluate


def _langs(manifest, name: str) -> tuple[str, ...]:
    return next(s.langs for s in manifest.sources if s.stream == "pair" and s.name == name)


def _first(manifest, name: str, cfg: Config) -> Part:
    """Take the first held-out pairs of a source that fit a row."""
    source = open_source(manifest, name, "pair", "heldout")
    slots = sum(np.diff(side.offsets) for side in source.sides) + SPECIALS["separate"]
    chosen = np.flatnonzero(slots <= cfg.row_length)[: cfg.candidates]
    langs = tuple(manifest.languages.index(lang) for lang in source.langs)
    return Part(name, tuple(_take(side, chosen) for side in source.sides), langs)


def _take(side: Side, chosen: np.ndarray) -> Side:
    """Keep the chosen examples of a side."""
    begin, end = side.offsets[chosen], side.offsets[chosen + 1]
    at = np.concatenate([np.arange(b, e) for b, e in zip(begin, end, strict=True)])
    return Side(np.cumsum([0, *(end - begin)]), side.ids[at], side.word[at])
