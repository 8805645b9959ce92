"""Score entities of tagged sentences as conlleval does: an entity counts if type and extent are
right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jalign.metrics.accuracy import flat
from jalign.metrics.precision_recall import Score, make_score


class Entity(NamedTuple):
    """A type and the first and last token, counted over all sentences and one gap after each."""

    type: str
    first: int
    last: int


class SpanScores(NamedTuple):
    """The score over all entities, and per type, sorted by name."""

    micro: Score
    by_type: dict[str, Score]


def find_entities(sentences: Sequence[Sequence[str]], *, whole_tags: bool = False) -> list[Entity]:
    """Find the entities in tags of IOB, IOB2, IOBES or none of these.

    An I- begins an entity where none of its type is open, as in conlleval. A tag is its first
    letter (the position) and what follows it, after a hyphen if there is one (the type): so NOUN
    becomes type OUN, which is how XTREME's F1 of part-of-speech tags comes about. Equal to seqeval
    1.2.2 in its default mode for any tags. There a tag of one letter that is none of B I E S, such
    as X of UPOS, neither opens nor closes an entity next to another of one letter, or at the edge
    of a sentence, and what its entity is said to begin with may lie in the sentence before: scores
    need all sentences at once.

    `whole_tags`: the type of a tag is what follows its last hyphen, else all of it (NOUN), as in
    seqeval 0.0.12, with which XTREME published its scores of part-of-speech tags.
    Raises: ValueError for an empty tag.
    """
    found: list[Entity] = []
    at, first, before, type_before = 0, 0, "O", ""
    for tags in sentences:
        for tag in (*tags, "O"):
            if not tag:
                raise ValueError("a tag is empty; need at least one letter, such as O")
            letter = tag[0]
            kind = tag.split("-")[-1] if whole_tags else tag[1:].split("-", 1)[-1] or "_"
            if _ends(before, letter, kind != type_before):
                found.append(Entity(type_before, first, at - 1))
            if _begins(before, letter, kind != type_before):
                first = at
            at, before, type_before = at + 1, letter, kind
    return found


def _ends(before: str, letter: str, other_type: bool) -> bool:
    if before in "ES" or (before in "BI" and letter in "BSO"):
        return True
    return before not in "O." and other_type


def _begins(before: str, letter: str, other_type: bool) -> bool:
    if letter in "BS" or (before in "ESO" and letter in "EI"):
        return True
    return letter not in "O." and other_type


def span_scores(
    gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]], *, whole_tags: bool = False
) -> SpanScores:
    """Score predicted tags against gold tags, all sentences of a test set at once.

    `whole_tags` as in `find_entities`.
    Raises: ValueError where the two sides do not have the same tokens, or a tag is empty.
    Source: Tjong Kim Sang & De Meulder 2003 (conlleval), as seqeval 1.2.2 computes it.
    """
    flat(gold, found)
    gold_set = set(find_entities(gold, whole_tags=whole_tags))
    found_set = set(find_entities(found, whole_tags=whole_tags))
    types = sorted({entity.type for entity in gold_set | found_set})
    counts = {name: [0, 0, 0] for name in types}
    for index, entities in enumerate((gold_set & found_set, found_set, gold_set)):
        for entity in entities:
            counts[entity.type][index] += 1
    by_type = {name: make_score(*numbers) for name, numbers in counts.items()}
    micro = make_score(len(gold_set & found_set), len(found_set), len(gold_set))
    return SpanScores(micro, by_type)
