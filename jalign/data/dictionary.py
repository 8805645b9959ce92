"""Read bilingual dictionaries: pairs of words or phrases, many to many, with weights; find them in
sentences and in a tokenizer's vocabulary.

Memory is bounded by `max_pairs`, not by the file. Give `vocabularies` to keep only what your
corpora contain. Nothing is left out without being counted.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jalign.data.dictionary_files import Entry, format_of, read_entries
from jalign.data.dictionary_pieces import PiecePairs, PieceSequences, encode_entries
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData, ConfigError

CASES: dict[str, Callable[[str], str]] = {"keep": str, "lower": str.lower, "fold": str.casefold}
FORMS = ("NFC", "NFKC", "none")
Pair = tuple[str, str]
Link = tuple[int, int]
Words = Collection[str]

_MAX_PHRASE = 5  # words of a phrase looked for in a sentence
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class ReadOptions:
    """How to read a dictionary.

    `case`: keep, lower or fold. `form`: Unicode NFC, NFKC or none. `phrases`: keep entries of
    several words. `identical`: keep those of equal sides, names and loanwords, of which MUSE has
    many (8 % of its English-Arabic pairs, 91 % of the English-Vietnamese). `swap`: the file has the
    target language first. `max_pairs`: keep the first so many different pairs; a million take about
    0.4 GB.
    """

    format: str = "auto"
    case: str = "keep"
    form: str = "NFC"
    phrases: bool = True
    identical: bool = True
    swap: bool = False
    max_pairs: int = 1_000_000

    def __post_init__(self):
        for name, value, allowed in (("case", self.case, CASES), ("form", self.form, FORMS)):
            if value not in allowed:
                raise ConfigError(f"{name}={value!r}: need one of {', '.join(allowed)}")
        if self.max_pairs < 1:
            raise ConfigError(f"max_pairs={self.max_pairs}: need 1 or more")

    def normalize(self, text: str) -> str:
        """Return a side of an entry in the form and case asked for, single spaces."""
        if not text.isascii() and self.form != "none":
            text = unicodedata.normalize(self.form, text)
        text = CASES[self.case](text)
        return text if text.isalnum() else " ".join(text.split())


class Fit(NamedTuple):
    """How a dictionary fits corpora: for each side (source, target) two fractions and the scripts.

    `entries_found`: of its different words, those that occur in the corpus of that side.
    `words_covered`: of the corpus's different words, those that it translates.
    `scripts`: the commonest script of the dictionary and of the corpus.
    """

    entries_found: tuple[float, float]
    words_covered: tuple[float, float]
    scripts: tuple[tuple[str, str], tuple[str, str]]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Dictionary:
    """Different pairs of words or phrases with weights that sum to 1 for each source word.

    `counts`: `entries` read, `kept`, and the reasons why others were not (merged ones are
    "repeated").
    """

    name: str
    pairs: tuple[Pair, ...]
    weights: np.ndarray
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def report(self) -> list[str]:
        """Say what was kept of the file and what was not, by reason."""
        src, trg = (len({pair[side] for pair in self.pairs}) for side in (0, 1))
        lines = [
            f"{self.name}: {len(self.pairs)} pairs of {src} source and {trg} target words, "
            f"from {self.counts.get('entries', 0)} entries"
        ]
        notes = (x for x in self.counts.items() if x[0] not in ("entries", "kept") and x[1])
        return lines + [f"  {num} {reason}" for reason, num in notes]

    def swapped(self) -> Dictionary:
        """Return the dictionary of the other direction; weights sum to 1 for its own sources."""
        pairs = tuple((trg, src) for src, trg in self.pairs)
        return replace(self, pairs=pairs, weights=_normalized(pairs, self.weights.tolist()))

    def piece_pairs(self, tokenizer: Tokenizer, *, try_title: bool = False) -> PiecePairs:
        """Return the entries that are one piece on each side, as ids.

        Words are encoded as within a sentence. `try_title` takes the title-case piece where the
        word as it stands is none: MUSE writes German nouns in lower case.
        Raises: ConfigError if there is none.
        """
        found = encode_entries(
            self.pairs, self.weights, tokenizer, max_pieces=1, try_title=try_title
        )
        ids_N2 = np.concatenate([found.src_NP, found.trg_NP], axis=1)
        return PiecePairs(ids_N2, found.weights_N, found.counts)

    def piece_sequences(
        self, tokenizer: Tokenizer, *, max_pieces: int = 4, try_title: bool = False
    ) -> PieceSequences:
        """Return the entries of up to `max_pieces` pieces on each side, padded with -1.

        Raises: ConfigError if there is none.
        """
        return encode_entries(
            self.pairs, self.weights, tokenizer, max_pieces=max_pieces, try_title=try_title
        )

    def word_links(self, src_words: Sequence[str], trg_words: Sequence[str]) -> list[Link]:
        """Link the words of a sentence pair that translate each other: (source, target), sorted.

        Every occurrence is linked with every one; the words of a phrase all with all. Compared
        without case, and without punctuation at the ends of words ("house," is "house").
        """
        index, longest_src, longest_trg = self._index
        there: dict[str, list[range]] = {}
        for span, phrase in _phrases(trg_words, longest_trg):
            there.setdefault(phrase, []).append(span)
        links = set()
        for span, phrase in _phrases(src_words, longest_src):
            for translation in index.get(phrase, ()):
                for other in there.get(translation, ()):
                    links.update((i, j) for i in span for j in other)
        return sorted(links)

    @cached_property
    def _index(self) -> tuple[dict[str, tuple[str, ...]], int, int]:
        """Map every source phrase to its translations; say how long phrases are on each side."""
        index: dict[str, tuple[str, ...]] = {}
        longest = [1, 1]
        for pair in self.pairs:
            src, trg = (_key(text.split()) for text in pair)
            if trg not in index.get(src, ()):
                index[src] = (*index.get(src, ()), trg)
            for side, text in enumerate((src, trg)):
                longest[side] = max(longest[side], text.count(" ") + 1)
        return index, *(min(num, _MAX_PHRASE) for num in longest)

    def fit(self, src_words: Words, trg_words: Words, *, min_frac: float = 0.05) -> Fit:
        """Compare the dictionary with the words of two corpora, without case.

        Warns of a side if less than `min_frac` of its entries occur and less than `min_frac` of the
        corpus's words are among them (a small corpus has few of the words of a large dictionary, a
        small dictionary few of a large corpus), and if its script is another.
        Raises: ConfigError if a side has no entry in common with its corpus.
        """
        corpora = tuple({_bare(word) for word in words} for words in (src_words, trg_words))
        entries = tuple(
            {_bare(word) for pair in self.pairs for word in pair[side].split()} for side in (0, 1)
        )
        found, covered, crossed = (
            tuple(_share(part, whole) for part, whole in zip(parts, wholes, strict=True))
            for parts, wholes in (
                (entries, corpora), (corpora, entries), (entries, corpora[::-1])
            )
        )  # fmt: skip
        scripts = tuple((_script(entries[side]), _script(corpora[side])) for side in (0, 1))
        is_swapped = min(crossed) > 2 * max(found)
        warnings = []
        for side, name in enumerate(("source", "target")):
            what = (
                f"{self.name}: {found[side]:.1%} of its {name} words occur in the {name} corpus "
                f"({scripts[side][0]} script in the dictionary, {scripts[side][1]} in the corpus); "
            )
            if is_swapped:
                what += "the sides seem swapped: read it with swap=True."
            elif scripts[side][0] != scripts[side][1]:
                what += "is it of these languages?"
            else:
                what += "is it of this language, and does the corpus have spaces between words?"
            if not found[side]:
                raise ConfigError(what)
            if max(found[side], covered[side]) < min_frac or scripts[side][0] != scripts[side][1]:
                warnings.append(what)
        return Fit(found, covered, scripts, tuple(warnings))


def read_dictionary(
    path: Path | str,
    options: ReadOptions | None = None,
    *,
    vocabularies: tuple[Words | None, Words | None] = (None, None),
) -> Dictionary:
    """Read a dictionary of any format of `dictionary_files`, packed or not.

    Pairs that repeat are merged: a weight of the file is added up, one that the file does not have
    is 1 (so each of n translations gets 1/n). Beyond `max_pairs` different pairs new ones are
    counted, not kept, and their repeats not recognised. With `vocabularies` (source and target
    words, normalised like the entries) pairs of other words are left out before that.
    Raises: ConfigError if the file is missing or no pair is left; BadData if it is damaged, or no
    text at all.
    Source: the weights are methods.md 2.9.
    """
    options = options or ReadOptions()
    counts: Counter[str] = Counter()
    format = format_of(path) if options.format == "auto" else options.format
    kept: dict[Pair, float] = {}
    for entry in read_entries(path, format, counts):
        pair = _pair(entry, options)
        if pair in kept:
            counts["repeated"] += 1
            kept[pair] += entry.weight or 0.0
            continue
        reason = _fault(pair, options, vocabularies)
        if reason is None and len(kept) >= options.max_pairs:
            reason = f"beyond max_pairs={options.max_pairs}"
        if reason is None:
            # interned, because in a many-to-many dictionary words come again and again
            kept[sys.intern(pair[0]), sys.intern(pair[1])] = entry.weight or 1.0
        else:
            counts[reason] += 1
    _check_kept(kept, path, counts)
    counts["kept"] = len(kept)
    pairs = tuple(kept)
    return Dictionary(Path(path).name, pairs, _normalized(pairs, kept.values()), dict(counts))


def _pair(entry: Entry, options: ReadOptions) -> Pair:
    src, trg = options.normalize(entry.src), options.normalize(entry.trg)
    return (trg, src) if options.swap else (src, trg)


def _fault(
    pair: Pair, options: ReadOptions, vocabularies: tuple[Words | None, Words | None]
) -> str | None:
    if not (pair[0] and pair[1]):
        return "with an empty side"
    if not options.phrases and (" " in pair[0] or " " in pair[1]):
        return "of several words"
    if not options.identical and pair[0] == pair[1]:
        return "of identical sides"
    for side, name in enumerate(("source", "target")):
        words = vocabularies[side]
        if words is not None and any(word not in words for word in pair[side].split()):
            return f"not in the {name} vocabulary"
    return None


def _check_kept(kept: Mapping[Pair, float], path: Path | str, counts: Counter[str]) -> None:
    unreadable = counts["not UTF-8"] + counts["control character"]
    if 2 * unreadable > counts["entries"]:
        raise BadData(
            f"{path}: {unreadable} of {counts['entries']} lines are no UTF-8 text; need a text "
            "file of word pairs (one in UTF-16 or Latin-1 is converted by iconv -t UTF-8)."
        )
    if kept:
        return
    reasons = ", ".join(f"{num} {reason}" for reason, num in counts.items() if reason != "entries")
    if not counts["entries"]:
        reasons = f"the file has no entries ({reasons or 'it is empty'})"
    raise ConfigError(
        f"{path} gives no pair of words: {reasons}. Need lines 'source target', or 'source<TAB>"
        "target' with an optional weight, FreeDict TEI or dictd; name another file or change the "
        "options that left everything out."
    )


def _normalized(pairs: Sequence[Pair], weights: Iterable[float]) -> np.ndarray:
    """Divide weights by their sum over the source word. float32 [N]."""
    total: dict[str, float] = {}
    weights = list(weights)
    for (src, _), weight in zip(pairs, weights, strict=True):
        total[src] = total.get(src, 0.0) + weight
    divided = (w / total[src] for (src, _), w in zip(pairs, weights, strict=True))
    return np.fromiter(divided, np.float32, len(pairs))


def _key(words: Sequence[str]) -> str:
    """Return what words are compared by: case folded, without punctuation at their ends."""
    return " ".join(map(_bare, words))


def word_key(word: str) -> str:
    """Return what a word is compared by: case folded, without punctuation at its ends."""
    return _bare(word)


@lru_cache(1 << 16)
def _bare(word: str) -> str:
    word = unicodedata.normalize("NFC", word).casefold()
    return word if word.isalnum() else _EDGES.sub("", word) or word


def _phrases(words: Sequence[str], longest: int) -> Iterable[tuple[range, str]]:
    """Yield every run of up to `longest` words and what it is compared by."""
    bare = [_bare(word) for word in words]
    for start in range(len(bare)):
        for stop in range(start + 1, min(start + longest, len(bare)) + 1):
            yield range(start, stop), " ".join(bare[start:stop])


def _share(part: Collection[str], whole: Collection[str]) -> float:
    return sum(word in whole for word in part) / len(part) if part else 0.0


def _script(words: Iterable[str]) -> str:
    """Return the commonest script of the letters, by their Unicode names: LATIN, CYRILLIC, CJK."""
    counts = Counter(_script_of(char) for word in words for char in word if char.isalpha())
    return counts.most_common(1)[0][0] if counts else "none"


@lru_cache(1 << 14)
def _script_of(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").partition(" ")[0]
