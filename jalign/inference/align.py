"""Align words: bitext in, word links out, in order and in constant memory.

In: an open Model, a method (`jalign/align/methods.py`), a layer. Out: links between the words of
each pair, which are what stands between white space. The encoder runs up to the layer and no
further; pairs are packed as texts are for vectors. `aligner.json` in a model folder holds the
defaults that `jalign evaluate --save-best` found on gold links.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jalign.align.methods import LAYOUTS, Rule
from jalign.align.words import WordLinks
from jalign.errors import ConfigError
from jalign.inference.align_links import Found, Links, make_cells, slots_of
from jalign.inference.align_texts import (
    OVERFLOW,
    Pair,
    PairCut,
    PairWindow,
    cut_pairs,
    pair_windows,
    tokenise,
)
from jalign.inference.engine import Done, Function, Work
from jalign.plugin import did_you_mean

if TYPE_CHECKING:
    from jalign.inference.model import Model
    from jalign.types import Params

STORED = "aligner.json"
OF_RULE = ("method", "similarity", "level", "threshold")
ENTRIES = (*OF_RULE, "layout", "layer")
PAIRS_PER_TEXT = 4  # a window holds so many times fewer pairs than the engine's windows hold texts
CHARS_PER_PAIR = 512  # and also ends after so many characters per pair that it may hold


@dataclass
class PairCounts:
    """What has gone through: `pairs`, `tokens` with the special ones, `slots` with padding too,
    `links`; how many pairs were `long` (longer than the encoder) or `empty` (on one side).
    `on_batch` is called after every batch.
    """

    pairs: int = 0
    tokens: int = 0
    slots: int = 0
    links: int = 0
    long: int = 0
    empty: int = 0
    on_batch: Callable[[PairCounts], None] | None = None

    def add(self, done: Done) -> None:
        """Count one batch."""
        batch = done.batch
        self.tokens += int(done.work.items.lengths[batch.item].sum())
        self.slots += batch.num_rows * batch.row_length
        if self.on_batch:
            self.on_batch(self)


class Aligned(NamedTuple):
    """What a window of pairs gave: the links by (layer, rule), and which of its pairs were `long`
    or `empty`.
    """

    links: Mapping[tuple[int, Rule], Links]
    long: np.ndarray
    empty: np.ndarray

    @property
    def one(self) -> Links:
        """Return the only links there are."""
        (links,) = self.links.values()
        return links


@dataclass(frozen=True)
class Setting:
    """How to align: every rule at every layer, all in one layout.

    `layers`: 0 the embeddings, k after layer k. `scores`: give every link one.
    """

    rules: tuple[Rule, ...]
    layers: tuple[int, ...]
    layout: str
    on_overflow: str = "window"
    scores: bool = False

    def __post_init__(self) -> None:
        """Check the choices. Raises: ConfigError."""
        for name, served in (("layout", LAYOUTS), ("on_overflow", OVERFLOW)):
            got = getattr(self, name)
            if got not in served:
                raise ConfigError(f"{name}={got!r}: need one of {', '.join(served)}")


def default_layer(layers: int) -> int:
    """Return the layer that suits most encoders: two thirds up, 8 of 12."""
    return round(2 * layers / 3)


def choose(
    layers: int,
    stored: Mapping[str, Any],
    *,
    on_overflow: str = "window",
    scores: bool = False,
    **given: Any,
) -> Setting:
    """Choose how to align with an encoder of so many layers: what is `given` (ENTRIES), else what
    is stored, else what the method's authors use, at two thirds of the layers.

    Another method than the stored one brings its own similarity, level, threshold and layout; the
    layer stays. Raises: ConfigError.
    """
    for name in given:
        if name not in ENTRIES:
            hint = did_you_mean(name, list(ENTRIES))
            raise ConfigError(f"{name} is no option.{hint} There are: {', '.join(ENTRIES)}.")
    given = {name: value for name, value in given.items() if value is not None}
    stored = {name: value for name, value in stored.items() if value is not None}
    method = stored.get("method")
    known = ENTRIES if given.get("method", method) == method else ("layer",)
    said = {name: stored[name] for name in known if name in stored} | given
    rule = Rule(**{name: said[name] for name in OF_RULE if name in said})
    layer = said.get("layer", default_layer(layers))
    if not isinstance(layer, int) or not -1 <= layer <= layers:
        raise ConfigError(
            f"layer={layer}: this encoder has {layers} layers; need -1 (the last), 0 (the "
            f"embeddings) to {layers}"
        )
    layer = layers if layer == -1 else layer
    return Setting((rule,), (layer,), said.get("layout", rule.layout), on_overflow, scores)


def read_stored(folder: Path | None) -> dict[str, Any]:
    """Read the defaults in a model folder; {} where there are none. Raises: ConfigError."""
    path = None if folder is None else folder / STORED
    if path is None or not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        choose(10**6, stored if isinstance(stored, dict) else {"layer": stored})
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: {error}; delete it, or write it anew: jalign evaluate --save-best"
        ) from error
    return stored


def write_stored(folder: Path, layer: int, rule: Rule, layout: str, **notes: Any) -> Path:
    """Write the defaults into a model folder; `notes` say where they come from."""
    entries = {"layer": layer, "layout": layout}
    entries |= {n: getattr(rule, n) for n in ENTRIES if n not in entries}
    path = folder / STORED
    path.write_text(json.dumps({**entries, **notes}, indent=1) + "\n", encoding="utf-8")
    return path


class Aligner:
    """A model and how to align with it."""

    def __init__(self, model: Model, setting: Setting) -> None:
        """Cut the encoder off above the highest layer."""
        self.model, self.setting = model, setting
        self._function, self._params = self._cut_off()

    def align(self, pairs: Sequence[Pair], counts: PairCounts | None = None) -> list[WordLinks]:
        """Return the word links of each pair of texts."""
        windows = list(self.stream(pairs, counts))
        return [links for window in windows for links in window.one.split()]

    def stream(self, pairs: Iterable[Pair], counts: PairCounts | None = None) -> Iterator[Aligned]:
        """Yield the links of the pairs window by window, in order, in constant memory.

        The same pairs are always cut into the same windows; one does not depend on the others.
        Raises: PairTooLong.
        """
        counts, waiting = counts or PairCounts(), deque()

        def prepare(window: PairWindow) -> Work:
            work = self._work(window)
            waiting.append(work.about)
            return work

        size = max(1, self.model.engine.window_texts // PAIRS_PER_TEXT)
        windows = pair_windows(pairs, size, size * CHARS_PER_PAIR)
        found = self._found()
        for done in self.model.engine.run(self._function, self._params, windows, prepare):
            while waiting[0] is not done.work.about:  # windows without a pair to compute
                yield self._finish(self._found(), waiting.popleft(), counts)
            slot_N = slots_of(done.work.about, done.batch)
            for some in found:
                some.add(done, slot_N)
            counts.add(done)
            if done.last:
                yield self._finish(found, waiting.popleft(), counts)
                found = self._found()
        while waiting:
            yield self._finish(found, waiting.popleft(), counts)

    def _found(self) -> list[Found]:
        rules, layers = self.setting.rules, self.setting.layers
        return [Found(n, r, at) for at in range(len(layers)) for n, r in enumerate(rules)]

    def _finish(self, found: Sequence[Found], cut: PairCut, counts: PairCounts) -> Aligned:
        layers = self.setting.layers
        links = {(layers[some.at], some.rule): some.links(cut) for some in found}
        counts.pairs += cut.num_pairs
        counts.long += cut.long.size
        counts.empty += cut.empty.size
        counts.links += sum(some.pair_A.size for some in links.values())
        return Aligned(links, cut.long, cut.empty)

    def _work(self, window: PairWindow) -> Work:
        tokenizer, setting = self.model.tokenizer, self.setting
        sides = tuple(tokenise(tokenizer, [pair[s] for pair in window.pairs]) for s in (0, 1))
        cut = cut_pairs(
            sides,
            (tokenizer.bos_id, tokenizer.eos_id),
            positions=self.model.cfg.positions,
            layout=setting.layout,
            on_overflow=setting.on_overflow,
            words=any(rule.level == "word" for rule in setting.rules),
            before=window.before,
        )
        return Work(cut.items, cut)

    def _cut_off(self) -> tuple[Function, Params]:
        model, layers = self.model, self.setting.layers
        module, params, index = model._cut_off(max(layers))
        several = layers if len(layers) > 1 or index is not None else None
        rules, scores = self.setting.rules, self.setting.scores
        key = ("cells", layers, rules, scores)
        return model._keep(key, lambda: make_cells(module, several, rules, scores)), params
