"""Evaluate word alignment on gold links: AER, precision, recall and F1 of the encoder as it is.

The gold sets of the config are tokenised with the run's tokenizer, word by word, and packed; layers
and methods are those of `jalign align`. Source: Och & Ney 2003 (the scores).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jalign.align.methods import LAYOUTS, Rule, cell_arrays, row_links
from jalign.data.records import Side
from jalign.data.rows import Layout, Part, PartIndex, RowSource
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.evals._averages import average
from jalign.evals._gold import GoldSet, read_gold_sets, results, task_name
from jalign.metrics.aer import LinkCounts, count_links
from jalign.nn.packed import unit_ids
from jalign.types import EvalSetting, Params, Result


@dataclass(frozen=True)
class Config:
    """`gold`: sets as in `jalign evaluate --gold` (see `_gold.py`). `layers`: 0 the embeddings,
    -1 the last; none for two thirds of them. `similarity`, `layout`: "" is the method's own.

    Scores are named word_alignment/METHOD/layerK. The best checkpoint is chosen by the highest
    score: take f1, for AER is best where it is lowest. `skip_long`: leave out sentences longer than
    the encoder or a row; then `n` says how many are scored.
    """

    gold: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("itermax",)
    layers: tuple[int, ...] = ()
    similarity: str = ""
    level: str = "piece"
    layout: str = ""
    rows: int = 16
    row_length: int = 256
    skip_long: bool = False


class PackedGold(NamedTuple):
    """A gold set in rows of one layout."""

    set: GoldSet
    source: RowSource

    @property
    def num(self) -> int:
        """Return how many sentences are scored."""
        return self.source.index[0].size


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once per layout.

    Raises: ValueError naming the entry, BadData for a gold file.
    """
    if not cfg.gold:
        raise ValueError("gold is empty: name gold sets, as in jalign evaluate --gold")
    if cfg.layout not in ("", *LAYOUTS):
        raise ValueError(f"layout={cfg.layout!r}: need one of {', '.join(LAYOUTS)}, or nothing")
    shape = setting.encoder.module.cfg
    layers = tuple(dict.fromkeys(_layer(k, shape.layers) for k in cfg.layers))
    layers = layers or (round(2 * shape.layers / 3),)
    rules = [Rule(m, cfg.similarity, cfg.level) for m in dict.fromkeys(cfg.methods)]
    if not rules:
        raise ValueError("methods is empty: name at least one, such as itermax")
    tokenizer = setting.tokenizer or load_tokenizer(Path(setting.manifest.folder) / "tokenizer")
    sets = read_gold_sets(cfg.gold)
    works = []
    for layout in LAYOUTS:
        chosen = tuple(rule for rule in rules if (cfg.layout or rule.layout) == layout)
        if chosen:
            packed = [
                pack_gold(set_, tokenizer, layout, cfg, setting, shape.positions) for set_ in sets
            ]
            works.append((chosen, packed, _cells(setting, layers, chosen)))

    def evaluate(params: Params, aux: Any = None) -> Iterator[Result]:
        del aux
        every = []
        for chosen, packed, cells in works:
            for one in packed:
                counts = _count(params, one, cells, chosen, layers, cfg.rows, setting)
                for (layer, rule), some in counts.items():
                    every += results(task_name(rule.method, layer), one.set.name, some, one.num)
        yield from every
        yield from average(every)

    return evaluate


def _layer(layer: int, layers: int) -> int:
    if not -1 <= layer <= layers:
        raise ValueError(f"layers: {layer} is none of -1 to {layers}")
    return layers if layer == -1 else layer


def pack_gold(
    set_: GoldSet,
    tokenizer: Tokenizer,
    layout: str,
    cfg: Config,
    setting: EvalSetting,
    positions: int,
) -> PackedGold:
    """Tokenise a gold set and lay its pairs into rows, each once; `cfg` says how long these are.

    Raises: ValueError where pairs are too long and may not be left out.
    """
    sides = []
    for s in (0, 1):
        encoded = tokenizer.encode_words([pair[s] for pair in set_.pairs])
        flat = [np.concatenate([e[k] for e in encoded]) for k in (0, 1)]
        sides.append(Side(np.cumsum([0, *(ids.size for ids, _ in encoded)]), *flat))
    part = Part(set_.name, tuple(sides), (0, 0))
    shape = Layout(layout, cfg.row_length, min(positions, cfg.row_length))
    index = PartIndex(part, shape)
    if index.num_left_out and not (cfg.skip_long and index.size):
        raise ValueError(
            f"gold set {set_.name}: {index.num_left_out} of {len(set_.pairs)} pairs are longer "
            f"than the encoder's {positions} positions or a row; set row_length above "
            f"{cfg.row_length} if it is the row"
            + (", or skip_long=True to score the others" if index.size else "")
        )
    return PackedGold(set_, RowSource([part], shape, setting.specials, once=True))


def _cells(setting: EvalSetting, layers: tuple[int, ...], rules: tuple[Rule, ...]) -> Callable:
    """Make the jitted function that returns {rule number: arrays [layers, B, L, …]}."""

    def cells(params, batch):
        module, encoder = setting.encoder.first_layers(params["encoder"], max(layers))
        h = module.apply(
            {"params": encoder}, batch["ids"], batch["position"], unit_ids(batch), all_layers=True
        )
        fields = batch["example"], batch["side"], batch["word"]
        out = jax.lax.map(
            lambda h_BLD: [cell_arrays(rule, h_BLD, *fields) for rule in rules],
            h[jnp.array(layers)],
        )
        return jax.lax.with_sharding_constraint(out, setting.replicated)

    return jax.jit(cells)


def _count(
    params: Params,
    packed: PackedGold,
    cells: Callable,
    rules: tuple[Rule, ...],
    layers: tuple[int, ...],
    rows: int,
    setting: EvalSetting,
) -> dict[tuple[int, Rule], LinkCounts]:
    """Count the links of every rule at every layer."""
    source, gold = packed.source, packed.set.gold
    counts = {(layer, rule): LinkCounts() for layer in layers for rule in rules}
    for first in range(0, source.packed.num_rows, rows):
        host = source.rows(first, rows)
        found = jax.tree.map(np.asarray, cells(params, setting.put(host, rows)))
        records = [[record for _, record in source.records(first + b)]
                   for b in range(min(rows, source.packed.num_rows - first))]  # fmt: skip
        for rule, arrays in zip(rules, found, strict=True):
            for at, layer in enumerate(layers):
                chosen = {name: x[at] for name, x in arrays.items()}
                links = row_links(rule, chosen, host["example"], host["word"])
                for named, row in zip(records, links, strict=False):
                    for record, some in zip(named, row, strict=True):
                        of = gold[record]
                        counts[layer, rule] += count_links(some, of.sure, of.possible)
    return counts
