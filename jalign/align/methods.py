"""Name the methods of word alignment: what each compares, and how it turns that into links.

In: hidden states of packed rows, with example, side and word of every slot. Out: arrays over the
cells [B, L, L] of each row, from which the host takes links between slots: `links`; or `forward`
and `reverse`, to be combined word by word; or `sim` and `pair`, to be matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jalign.align import extract
from jalign.align.extract import matching
from jalign.align.similarity import KINDS, row_pair_mask, similarity
from jalign.align.symmetrize import METHODS as COMBINED
from jalign.align.symmetrize import Link, symmetrize
from jalign.align.transport import sinkhorn
from jalign.align.words import row_word_links, word_vectors
from jalign.errors import ConfigError
from jalign.types import Array

LAYOUTS = ("separate", "joint")
LEVELS = ("piece", "word")


class Preset(NamedTuple):
    """What a method's authors use with it; `threshold` is None where it has none."""

    similarity: str
    layout: str
    threshold: float | None = None


_SIMALIGN = Preset("simalign", "separate")
PRESETS = {
    "argmax": _SIMALIGN,
    "itermax": _SIMALIGN,
    "match": _SIMALIGN,
    "softmax": Preset("dot", "separate", 1e-3),  # awesome-align
    "entmax": Preset("dot", "separate", 0.0),  # awesome-align
    "ot": Preset("dot", "joint"),  # the aligner of XLM-Align
    "forward": _SIMALIGN,
    "reverse": _SIMALIGN,
    **dict.fromkeys(COMBINED, _SIMALIGN),
}
METHODS = tuple(PRESETS)


@dataclass(frozen=True)
class Rule:
    """A method and what it compares.

    `similarity`: "" is that of the method's preset. `level`: link pieces, and then the words that
    they belong to, or link words by the means of their pieces. `threshold`: None is the method's
    own. "intersection" and the other combinations join the word links of both directions.
    """

    method: str = "itermax"
    similarity: str = ""
    level: str = "piece"
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Fill in the preset. Raises: ConfigError naming the entry."""
        if self.method not in PRESETS:
            raise ConfigError(f"method={self.method!r}: need one of {', '.join(METHODS)}")
        preset = PRESETS[self.method]
        object.__setattr__(self, "similarity", self.similarity or preset.similarity)
        for name, served in (("similarity", KINDS), ("level", LEVELS)):
            got = getattr(self, name)
            if got not in served:
                raise ConfigError(f"{name}={got!r}: need one of {', '.join(served)}")
        if self.threshold is None:
            object.__setattr__(self, "threshold", preset.threshold)
        elif not isinstance(self.threshold, int | float):
            raise ConfigError(f"threshold={self.threshold!r}: need a number")
        elif preset.threshold is None:
            raise ConfigError(
                f"threshold={self.threshold:g}: only softmax and entmax have one, not {self.method}"
            )

    @property
    def layout(self) -> str:
        """Return the layout of the method's authors."""
        return PRESETS[self.method].layout


def cell_arrays(
    rule: Rule,
    h_BLD: Array,
    example_BL: Array,
    side_BL: Array,
    word_BL: Array | None = None,
    *,
    scores: bool = False,
) -> dict[str, Array]:
    """Return what the host needs for the links of packed rows, each [B, L, L]; with `scores` also
    `score`, how sure each cell is.

    `word_BL` (index in the side, -1 for none) is read at level "word" only: a word then stands at
    its first slot. Scores are the similarities where these are bounded; of dot products, which
    are not, the harmonic mean of the softmaxes of both directions.
    """
    if rule.level == "word":
        h_BLD, side_BL = _to_words(h_BLD, example_BL, side_BL, word_BL)
    pair_BLL = row_pair_mask(example_BL, side_BL)
    sim_BLL = similarity(h_BLD, h_BLD, kind=rule.similarity)
    out = _cells(rule, sim_BLL, pair_BLL)
    if scores:
        dot = rule.similarity == "dot"
        out["score"] = extract.softmax_scores(sim_BLL, pair_BLL) if dot else sim_BLL
    return out


def _cells(rule: Rule, sim_BLL: Array, pair_BLL: Array) -> dict[str, Array]:
    match rule.method:
        case "argmax":
            return {"links": extract.mutual_links(sim_BLL, pair_BLL)}
        case "itermax":
            return {"links": extract.itermax(sim_BLL, pair_BLL)}
        case "softmax":
            return {"links": extract.softmax_links(sim_BLL, pair_BLL, threshold=rule.threshold)}
        case "entmax":
            return {"links": extract.entmax_links(sim_BLL, pair_BLL, threshold=rule.threshold)}
        case "ot":
            return {"links": extract.plan_links(*sinkhorn(sim_BLL, pair_BLL), pair_BLL)}
        case "forward":
            return {"links": extract.forward_links(sim_BLL, pair_BLL)}
        case "reverse":
            return {"links": extract.reverse_links(sim_BLL, pair_BLL)}
        case "match":
            return {"sim": sim_BLL, "pair": pair_BLL}
    return {
        "forward": extract.forward_links(sim_BLL, pair_BLL),
        "reverse": extract.reverse_links(sim_BLL, pair_BLL),
    }


def _to_words(
    h_BLD: Array, example_BL: Array, side_BL: Array, word_BL: Array
) -> tuple[Array, Array]:
    """Put the mean of each word's pieces at its first slot, and take the other slots out."""
    real_BL = (side_BL > 0) & (word_BL >= 0)
    same_BL = jnp.roll(real_BL, 1, axis=1)
    for field_BL in (example_BL, side_BL, word_BL):
        same_BL &= field_BL == jnp.roll(field_BL, 1, axis=1)
    start_BL = real_BL & ~same_BL.at[:, 0].set(False)
    slot_BL = jax.lax.broadcasted_iota(jnp.int32, side_BL.shape, 1)
    first_BL = jax.lax.cummax(jnp.where(start_BL, slot_BL, -1), axis=1)
    first_BL = jnp.where(real_BL, first_BL, -1)
    words_BLD = word_vectors(h_BLD, first_BL, side_BL.shape[1])
    return words_BLD, jnp.where(start_BL, side_BL, 0)


def row_links(
    rule: Rule, arrays: Mapping[str, np.ndarray], example_BL: np.ndarray, word_BL: np.ndarray
) -> list[list[set[Link]]]:
    """List the word links of packed rows from what `cell_arrays` returned: for every row one set
    per example, in order. On the host.
    """

    def sets(links_BLL: np.ndarray) -> list[list[set[Link]]]:
        rows = row_word_links(links_BLL, example_BL, word_BL)
        return [[set(map(tuple, some.pairs_A2.tolist())) for some in row] for row in rows]

    if "links" in arrays:
        return sets(arrays["links"])
    if "sim" in arrays:
        return sets(matching(arrays["sim"], arrays["pair"]))
    ways = [sets(arrays[name]) for name in ("forward", "reverse")]
    return [
        [symmetrize(*both, rule.method) for both in zip(*rows, strict=True)]
        for rows in zip(*ways, strict=True)
    ]
