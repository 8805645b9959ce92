"""The stages of `jalign prepare` that grow with the corpus, in this process, source by source."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from jalign.data import prepare_steps as steps
from jalign.data import records
from jalign.data.corpora import Part
from jalign.data.prepare_steps import Options, Piece, Progress, Report
from jalign.data.spool import DuplicateFinder, Quarantine, Spool
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData


class LocalStages:
    """Validate, choose the tokenizer's texts, encode and write; every step streams."""

    def __init__(
        self, options: Options, sources: dict[tuple[str, str], list[Part]], progress: Progress
    ):
        self._options = options
        self._sources = sources
        self._progress = progress
        self._partial = records.partial_folder(options.output)
        self._pieces: list[tuple[Report, Piece]] = []
        self._chars: Counter = Counter()

    def validate(self, scratch: Path) -> list[Report]:
        """Read all sources, set aside what is flawed or repeated, spool the rest to `scratch`.

        Raises: BadData for the first flaw in strict mode, or for what no mode can read.
        """
        for (stream, name), parts in sorted(self._sources.items()):
            report = Report(name, stream, parts[0].langs)
            piece = self._validate(report, parts, scratch / stream / name)
            self._pieces.append((report, piece))
        return [report for report, _ in self._pieces]

    def _validate(self, report: Report, parts: list[Part], folder: Path) -> Piece:
        finder = DuplicateFinder(folder)
        spool = Spool(folder / "records", len(report.langs))
        aside = self._partial / "quarantine" / f"{report.stream}.{report.name}.tsv.gz"
        with Quarantine(aside) as quarantine:
            with contextlib.closing(spool):
                for part in parts:
                    for record in steps.read_part(
                        part, self._options, report, quarantine, self._progress
                    ):
                        spool.append(record)
                        finder.append(record.texts)
            repeats, earliest = finder.find()
            if earliest and self._options.on_error == "strict":
                raise BadData(_duplicate_message(spool, *earliest))
            piece = Piece(report.langs, spool.path, repeats)
            self._chars.update(steps.settle(piece, report, quarantine))
            report.quarantined = quarantine.counts
        return piece

    def sample(self) -> Iterator[str]:
        """Yield the train texts for the tokenizer, each once, at most `tokenizer_chars` characters.

        Where there is more, language l gets a share in proportion to chars_l^alpha, chosen by hash.
        """
        options = self._options
        rates = steps.sampling_rates(self._chars, options.tokenizer_chars, options.tokenizer_alpha)
        return steps.each_once(
            chain.from_iterable(steps.choose(piece, rates) for _, piece in self._pieces)
        )

    def write(self, writer: records.DatasetWriter, tokenizer: Tokenizer) -> Counter:
        """Encode and write all sources; return the number of ids by language."""
        tokens: Counter = Counter()
        for report, piece in self._pieces:
            self._progress(f"{report.name}: encoding {report.train + report.heldout:,}")
            splits = {
                split: lambda p=piece, h=held_out: steps.encode(p, tokenizer, tokens, held_out=h)
                for split, held_out in steps.SPLITS
            }
            info = writer.add_source(report.name, report.stream, langs=report.langs, splits=splits)
            report.tokens = sum(split.tokens for split in info.splits.values())
        return tokens


def _duplicate_message(spool: Spool, index: int, repeated: int) -> str:
    rows = {
        i: row for i, row in zip(range(index + 1), spool, strict=False) if i in (index, repeated)
    }
    return steps.duplicate_message(rows[index].origin, rows[repeated].origin)
