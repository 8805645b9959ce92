"""Give the pairs of a stream word links from outside: a lexicon's, or those of a file.

In: the pairs of a row, as piece ids and word indices. Out: per pair links between pieces and their
weights, which the rows carry as `links` and `link_weight`. Called in the loader's thread, a batch
of pairs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jalign.data.files import read_lines
from jalign.data.lexicon import Lexicon, load_lexicon
from jalign.data.lexicon_cells import Pairs
from jalign.errors import BadData, ConfigError
from jalign.metrics.links import parse_pharaoh


class PairText(NamedTuple):
    """One pair of a source: its number there, piece ids and word index of each piece."""

    source: str
    record: int
    src_ids: np.ndarray
    src_word: np.ndarray
    trg_ids: np.ndarray
    trg_word: np.ndarray


Found = tuple[np.ndarray, np.ndarray]  # links [A, 2] between pieces, weight [A]
Linker = Callable[[Sequence[PairText]], list[Found]]


def lexicon_links(lexicons: Mapping[str, Lexicon], *, threshold: float = 0.1) -> Linker:
    """Link pieces by the lexicon of the pair's source (`data/lexicon.py`)."""

    def links(pairs: Sequence[PairText]) -> list[Found]:
        found: list[Found | None] = [None] * len(pairs)
        for source in dict.fromkeys(pair.source for pair in pairs):
            at = [i for i, pair in enumerate(pairs) if pair.source == source]
            flat = Pairs.of([pairs[i].src_ids for i in at], [pairs[i].trg_ids for i in at])
            parts = lexicons[source].links(flat, threshold=threshold).split(len(at))
            for i, part in zip(at, parts, strict=True):
                found[i] = part
        return found

    return links


def open_lexicons(
    folder: Path | str, sources: Sequence[str], tokenizer_sha256: str
) -> dict[str, Lexicon]:
    """Open `folder/SOURCE.npz` of every pair source.

    Raises: ConfigError naming what is missing and the command that makes it.
    """
    folder = Path(folder)
    lacking = [name for name in sources if not (folder / f"{name}.npz").is_file()]
    if lacking:
        raise ConfigError(
            f"{folder} has no lexicon for {', '.join(lacking)}: type 'jalign lexicon --data=DATA "
            f"--output={folder}'"
        )
    return {
        name: load_lexicon(folder / f"{name}.npz", tokenizer_sha256=tokenizer_sha256)
        for name in sources
    }


def file_links(files: Mapping[str, Sequence[str]]) -> Linker:
    """Link the first pieces of the words that a Pharaoh line links; `files[source]` holds a line
    per example of the source.

    Raises (when called): BadData for a link to a word that the pair does not have.
    """

    def links(pairs: Sequence[PairText]) -> list[Found]:
        return [_piece_links(pair, files[pair.source][pair.record]) for pair in pairs]

    return links


def open_link_files(folder: Path | str, counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Read `folder/SOURCE.links` of every pair source; `counts` says how many examples it has.

    Raises: ConfigError for a missing file, BadData for another number of lines.
    """
    files = {}
    for name, count in counts.items():
        path = Path(folder) / f"{name}.links"
        if not path.is_file():
            raise ConfigError(
                f"{path} is missing: need a file of {count:,} Pharaoh lines, one for each example "
                f"of source {name}, in the order of the prepared data"
            )
        files[name] = [line.data.decode("ascii", "replace") for line in read_lines(path)]
        if len(files[name]) != count:
            raise BadData(
                f"{path} has {len(files[name]):,} lines, and source {name} has {count:,} examples"
            )
    return files


def _piece_links(pair: PairText, line: str) -> Found:
    where = f"{pair.source}.links:{pair.record + 1}"
    words = np.array(sorted(parse_pharaoh(line, where).possible), np.int64).reshape(-1, 2)
    sides = []
    for column, word in enumerate((pair.src_word, pair.trg_word)):
        first = np.searchsorted(word, words[:, column])  # words are in order
        if words.size and words[:, column].max() > word.max(initial=-1):
            raise BadData(
                f"{where}: a link to word {words[:, column].max()} (from 0), and the sentence has "
                f"{word.max(initial=-1) + 1}"
            )
        sides.append(first)
    return np.stack(sides, axis=1), np.ones(len(words), np.float32)
