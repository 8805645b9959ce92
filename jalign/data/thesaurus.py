"""Link the words of pairs that a bilingual dictionary knows as translations of each other.

In: prepared pairs, as piece ids and word indices; dictionaries of whole words. Out: a `Linker`
(`data/links.py`) between the first pieces of words. Compared are words without case and without
punctuation at their ends, as the tokenizer spells them, and their lemmas where a treebank says
them. The most frequent words are passed by: "the" is on the way to every article.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jalign.data.dictionary import Dictionary, ReadOptions, read_dictionary, word_key
from jalign.data.links import Found, PairText
from jalign.data.records import Manifest, Source, open_source
from jalign.data.tasks import conllu
from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError

_SAMPLE = 2000  # examples of each source in which words are counted, evenly spread
_MAX_KNOWN = 500_000  # words whose spelling is remembered


@dataclass(frozen=True)
class ThesaurusConfig:
    """Which dictionaries link the words of a stream's pairs, and which words they pass by.

    `files`: SRC-TRG=PATH each, such as en-de=muse.en-de.txt; several of a pair add up, and each
    serves both directions. `lemmas`: LANG=PATH of CoNLL-U treebanks, whose lemmas match, too.
    `skip_frequent`: how many of the most frequent words of each language are passed by.
    `max_links`: of a pair that get a weight of 1, the least ambiguous ones; others get 0.
    `identical`: use entries of two equal words.
    """

    files: tuple[str, ...] = ()
    lemmas: tuple[str, ...] = ()
    skip_frequent: int = 100
    max_links: int = 32
    identical: bool = False

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry and what to type."""
        for name, least in (("skip_frequent", 0), ("max_links", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: need {least} or more")
        for spec in (*self.files, *self.lemmas):
            split_file(spec)


def split_file(spec: str) -> tuple[str, str]:
    """Split NAME=PATH. Raises: ValueError."""
    name, _, path = spec.partition("=")
    if not (name and path) or "/" in name:
        raise ValueError(f"{spec!r}: need NAME=PATH, such as en-de=muse.en-de.txt or en=en.conllu")
    return name, path


class Spelling:
    """Spell words: from piece ids back to text, each word once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[bytes, str] = {}

    def words(self, ids: np.ndarray, word: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the words of a text and the place of the first piece of each; a word with an
        unknown piece is "".
        """
        first = np.flatnonzero(np.diff(word.astype(np.int64), prepend=-1))
        parts = np.split(ids.astype(np.int32), first[1:]) if first.size else []
        return [self._spell(part) for part in parts], first

    def _spell(self, ids: np.ndarray) -> str:
        key = ids.tobytes()
        if key not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self.tokenizer.unk_id not in ids
            decode = self.tokenizer.backend.decode
            text = decode(ids.tolist(), skip_special_tokens=False) if known else ""
            self._known[key] = text.strip()
        return self._known[key]


@dataclass(frozen=True)
class Thesaurus:
    """The linker: `dictionaries` by the languages of a pair, which `langs` says of every source.

    `counts`: what the log says of it.
    """

    spelling: Spelling
    langs: Mapping[str, tuple[str, str]]
    dictionaries: Mapping[tuple[str, str], Dictionary]
    lemmas: Mapping[str, Mapping[str, str]]
    frequent: Mapping[str, frozenset[str]]
    max_links: int
    counts: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, pairs: Sequence[PairText]) -> list[Found]:
        """Link the words of each pair; a pair without a dictionary has no links."""
        return [self._links(pair) for pair in pairs]

    def _links(self, pair: PairText) -> Found:
        langs = self.langs[pair.source]
        dictionary = self.dictionaries.get(langs)
        if dictionary is None:
            return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        src, src_first = self.spelling.words(pair.src_ids, pair.src_word)
        trg, trg_first = self.spelling.words(pair.trg_ids, pair.trg_word)
        words = [
            self._without_frequent(side, lang) for side, lang in zip((src, trg), langs, strict=True)
        ]
        links = set(dictionary.word_links(*words))
        if any(lang in self.lemmas for lang in langs):
            bases = [self._lemmas(side, lang) for side, lang in zip(words, langs, strict=True)]
            for sides in ((bases[0], words[1]), (words[0], bases[1]), bases):
                links |= set(dictionary.word_links(*sides))
        links_A2 = np.array(sorted(links), np.int64).reshape(-1, 2)
        pieces_A2 = np.stack([src_first[links_A2[:, 0]], trg_first[links_A2[:, 1]]], axis=1)
        return pieces_A2, _cap(links_A2, self.max_links)

    def _without_frequent(self, words: Sequence[str], lang: str) -> list[str]:
        frequent = self.frequent.get(lang, frozenset())
        return ["" if word_key(word) in frequent else word for word in words]

    def _lemmas(self, words: Sequence[str], lang: str) -> list[str]:
        lemmas = self.lemmas.get(lang, {})
        bases = [lemmas.get(word_key(word), word) for word in words]
        return self._without_frequent(bases, lang)


def _cap(links_A2: np.ndarray, most: int) -> np.ndarray:
    """Give a weight of 1 to the first `most` links in order of how many others share their words,
    0 to the others.
    """
    rivals_A = sum(
        (links_A2[:, side, None] == links_A2[None, :, side]).sum(axis=1) for side in (0, 1)
    )
    weight_A = np.zeros(len(links_A2), np.float32)
    weight_A[np.argsort(rivals_A, kind="stable")[:most]] = 1.0
    return weight_A


def open_thesaurus(
    cfg: ThesaurusConfig, manifest: Manifest, sources: Sequence[Source], tokenizer: Tokenizer
) -> Thesaurus:
    """Read the dictionaries and treebanks, and count the words of the sources' training pairs.

    Warns of a dictionary that fits its languages badly. Raises: ConfigError for one of languages
    that no source pairs, or that shares no word with them.
    """
    spelling = Spelling(tokenizer)
    langs = {source.name: (source.langs[0], source.langs[1]) for source in sources}
    words: dict[str, Counter[str]] = {}
    for name in langs:
        for lang, found in _sample(manifest, name, spelling):
            words.setdefault(lang, Counter()).update(found)
    dictionaries = _read_all(cfg, set(langs.values()))
    for pair, dictionary in dictionaries.items():
        for warning in dictionary.fit(*(set(words[lang]) for lang in pair)).warnings:
            warnings.warn(warning, stacklevel=2)
    counts = {f"words in the dictionary {'-'.join(p)}": len(d) for p, d in dictionaries.items()}
    for source in sources:
        if langs[source.name] not in dictionaries:
            counts[f"pairs of {source.name} without a dictionary"] = source.num_examples
    return Thesaurus(
        spelling,
        langs,
        dictionaries,
        {lang: read_lemmas(path) for lang, path in map(split_file, cfg.lemmas)},
        {lang: most_frequent(found, cfg.skip_frequent) for lang, found in words.items()},
        cfg.max_links,
        counts,
    )


def _sample(
    manifest: Manifest, name: str, spelling: Spelling
) -> Iterable[tuple[str, Counter[str]]]:
    """Count the words of a source by what they are compared by, for each of its sides."""
    source = open_source(manifest, name, "pair", "train")
    chosen = np.unique(np.linspace(0, source.num_examples - 1, _SAMPLE, dtype=np.int64))
    for lang, side in zip(source.langs, source.sides, strict=True):
        found: Counter[str] = Counter()
        for begin, end in zip(side.offsets[chosen], side.offsets[chosen + 1], strict=True):
            found.update(spelling.words(side.ids[begin:end], side.word[begin:end])[0])
        keys: Counter[str] = Counter()
        for word, count in found.items():
            keys[word_key(word)] += count
        del keys[""]
        yield lang, keys


def most_frequent(words: Mapping[str, int], num: int) -> frozenset[str]:
    """Return the `num` most frequent words; of equal ones the first in alphabetical order."""
    return frozenset(sorted(words, key=lambda word: (-words[word], word))[:num])


def _read_all(
    cfg: ThesaurusConfig, pairs: set[tuple[str, str]]
) -> dict[tuple[str, str], Dictionary]:
    """Read every file for the pairs of languages that it serves, in either direction."""
    options = ReadOptions(case="fold", phrases=False, identical=cfg.identical)
    found: dict[tuple[str, str], Dictionary] = {}
    for name, path in map(split_file, cfg.files):
        served = [pair for pair in pairs if name in ("-".join(pair), "-".join(pair[::-1]))]
        if not served:
            have = ", ".join(sorted("-".join(pair) for pair in pairs))
            raise ConfigError(
                f"dictionary {name}={path}: no source of this stream pairs these languages (it has "
                f"{have}); name it after two of them, or leave it out"
            )
        for pair in served:
            swap = name != "-".join(pair)
            one = read_dictionary(path, replace(options, swap=swap))
            found[pair] = _joined(found[pair], one) if pair in found else one
    return found


def _joined(one: Dictionary, other: Dictionary) -> Dictionary:
    pairs = tuple(dict.fromkeys((*one.pairs, *other.pairs)))
    return Dictionary(f"{one.name} + {other.name}", pairs, np.ones(len(pairs), np.float32))


def read_lemmas(path: str) -> dict[str, str]:
    """Read the most frequent lemma of every word form of a CoNLL-U file, both as they are compared;
    those that equal their form are left out.
    """
    counted: dict[str, Counter[str]] = {}
    for sentence in conllu.read(path, column="lemma"):
        for form, lemma in zip(*sentence, strict=True):
            if lemma != "_":
                counted.setdefault(word_key(form), Counter())[word_key(lemma)] += 1
    best = {form: min(lemmas, key=lambda x: (-lemmas[x], x)) for form, lemmas in counted.items()}
    return {form: lemma for form, lemma in best.items() if form != lemma}
