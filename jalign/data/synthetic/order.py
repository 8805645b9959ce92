"""Move what belongs to words along with them: tags, entities, spans, links, pieces.

An order is int32 [N]: place i now holds what was at `order[i]`, so `new = [old[i] for i in order]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Order = np.ndarray
Link = tuple[int, int]
T = TypeVar("T")


class Entity(NamedTuple):
    """A named entity: its type and the words [start, stop)."""

    kind: str
    start: int
    stop: int


def identity(num: int) -> Order:
    """Return the order that moves nothing."""
    return np.arange(num, dtype=np.int32)


def then(first: Order, second: Order) -> Order:
    """Return the one order that does `first`, then `second`."""
    return first[second]


def inverse(order: Order) -> Order:
    """Return the order that undoes this one; it also says where each old place went."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order), dtype=order.dtype)
    return back


def move(items: Sequence[T], order: Order) -> list[T]:
    """Put the items in their new places."""
    return [items[i] for i in order]


def move_span(start: int, stop: int, order: Order) -> tuple[int, int] | None:
    """Return where the words [start, stop) are now, None where they are not together any more."""
    places = np.sort(inverse(order)[start:stop])
    if not len(places) or places[-1] - places[0] >= len(places):
        return None
    return int(places[0]), int(places[-1]) + 1


def move_links(links: Iterable[Link], order: Order, *, side: int) -> list[Link]:
    """Return word links after the words of one side (0 source, 1 target) moved, sorted."""
    place = inverse(order)
    if side == 0:
        return sorted((int(place[i]), j) for i, j in links)
    return sorted((i, int(place[j])) for i, j in links)


def links_of(order: Order) -> list[Link]:
    """Return the word links between a sentence (source) and its derived form (target), sorted.

    They are gold: every word has exactly one.
    """
    return sorted((int(old), new) for new, old in enumerate(order))


def piece_order(order: Order, word_N: np.ndarray) -> Order:
    """Return the order of pieces when words move: the pieces of a word keep theirs.

    `word_N` is the word index of each piece, ascending from 0 with no word missing.
    """
    stop_W = np.searchsorted(word_N, np.arange(len(order)), side="right")
    start_W = np.concatenate([[0], stop_W[:-1]])
    runs = [np.arange(start_W[old], stop_W[old], dtype=np.int32) for old in order]
    return np.concatenate([np.empty(0, np.int32), *runs])


def is_bio(tags: Sequence[str]) -> bool:
    """Tell whether these are BIO tags: O, B-x and I-x only."""
    return all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def entities(tags: Sequence[str]) -> list[Entity]:
    """List the entities of BIO tags.

    An I- with no entity of its type before it begins one, as seqeval and conlleval have it.
    """
    found: list[Entity] = []
    for i, tag in enumerate(tags):
        kind = tag[2:]
        if tag[:2] == "I-" and found and found[-1].stop == i and found[-1].kind == kind:
            found[-1] = found[-1]._replace(stop=i + 1)
        elif tag != "O":
            found.append(Entity(kind, i, i + 1))
    return found


def move_tags(tags: Sequence[str], order: Order) -> list[str]:
    """Move tags with their words; BIO tags are repaired, so that every entity begins with B-.

    An entity whose words are together again in any order is one entity; one that was torn apart
    becomes one per run of its words. Original tags that begin with I- come back with B-.
    Source: methods.md 2.5; the authors reverse every run I..I B, which is the same for inversion.
    """
    if not is_bio(tags):
        return move(tags, order)
    member = [-1] * len(tags)
    found = entities(tags)
    for index, entity in enumerate(found):
        member[entity.start : entity.stop] = [index] * (entity.stop - entity.start)
    moved, last = [], -1
    for index in move(member, order):
        inside = "I-" if index == last else "B-"
        moved.append("O" if index < 0 else inside + found[index].kind)
        last = index
    return moved
