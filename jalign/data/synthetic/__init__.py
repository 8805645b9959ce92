"""Derive synthetic languages from real text, parallel to it sentence by sentence (ALIGN-MLM).

`make("trans+inv", settings)` composes transformations: trans (other ids), inv (reversed sentences),
perm (random word order), syn (the word order of another language). `corpus` applies them to files.
Source: methods.md 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from jalign.data.synthetic.base import Answer, Composition, Nli, Question, Transformation
from jalign.data.synthetic.reorder import MARKS, WIDE_MARKS, Inversion, Permutation
from jalign.data.synthetic.syntax import OrderTable, Syntax, learn_order
from jalign.data.synthetic.transliterate import Transliteration
from jalign.errors import ConfigError

__all__ = [
    "MARKS", "WIDE_MARKS", "Answer", "Composition", "Inversion", "Nli", "OrderTable", "Permutation",
    "Question", "Settings", "Syntax", "Transformation", "Transliteration", "learn_order", "make",
]  # fmt: skip

STAGES = ("trans", "inv", "perm", "syn")


@dataclass(frozen=True)
class Settings:
    """What the stages of a transformation need; each takes its own.

    `level` is that of inv and perm; `overlap` of trans; `source` and `target` of syn. The seed is
    that of trans, perm and syn. `special_ids`: begin, end, padding and mask, for trans and for
    `level="token"`.
    """

    vocab_size: int = 0
    special_ids: tuple[int, ...] = ()
    seed: int = 0
    overlap: float = 0.0
    level: str = "word"
    marks: frozenset[str] = MARKS
    source: OrderTable | None = None
    target: OrderTable | None = None


def make(name: str, settings: Settings) -> Transformation:
    """Make a transformation from its name: stages joined by +, applied from left to right.

    Raises: ConfigError for an unknown stage, one named twice, or one that lacks its settings.
    """
    names = name.split("+")
    unknown = [stage for stage in names if stage not in STAGES]
    if unknown or len(set(names)) < len(names):
        what = f"unknown stage {unknown[0]!r}" if unknown else "a stage named twice"
        raise ConfigError(
            f"transformation {name!r}: {what}; need one or more of {', '.join(STAGES)}, joined "
            "by +, such as trans+inv."
        )
    stages = tuple(_make_stage(stage, settings) for stage in names)
    return stages[0] if len(stages) == 1 else Composition(stages)


def _make_stage(name: str, s: Settings) -> Transformation:
    if name == "trans":
        return Transliteration(s.vocab_size, s.special_ids, overlap=s.overlap, seed=s.seed)
    if name == "inv":
        return Inversion(s.level, s.special_ids, s.marks)
    if name == "perm":
        return Permutation(s.level, s.special_ids, s.seed)
    if s.source is None or s.target is None:
        raise ConfigError(
            "syn needs the word orders of two languages: set source and target to "
            "learn_order(trees) of a treebank of each."
        )
    return Syntax(s.source, s.target, s.seed)
