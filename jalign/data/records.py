"""A prepared dataset: what its manifest says, and random access to its columns and texts.

OUT/manifest.json                             what there is: hashes, counts, languages, the command
OUT/tokenizer/                                the tokenizer, a Hugging Face folder
OUT/records/<stream>/<source>/1.0.0/          TFDS dataset, ArrayRecord files; splits train, heldout
OUT/columns/<stream>/<source>/<split>/*.npy   the same ids, flat, to memory-map; rebuilt if missing
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jalign.data.columns import (
    ColumnWriter,
    Example,
    Side,
    Text,
    missing_columns,
    open_sides,
)
from jalign.data.hashes import find_damage, write_hashes
from jalign.errors import BadData

__all__ = [
    "DamagedColumns", "DatasetWriter", "Example", "Manifest", "ManifestError", "Side", "Source",
    "SourceInfo", "SplitInfo", "Text", "open_source", "read_manifest", "read_texts",
    "write_dataset",
]  # fmt: skip

FORMAT_VERSION = 1
NUM_SIDES = {"mono": 1, "pair": 2}


class ManifestError(BadData):
    """A prepared folder that is missing, half-written, of another version or damaged."""


class DamagedColumns(ManifestError):
    """Columns that are not what was prepared: bad data, where a wrong folder is wrong usage."""


@dataclass(frozen=True)
class SplitInfo:
    """What a split holds; `tokens` counts the pieces of all sides, without special tokens."""

    count: int
    tokens: int
    sha256: str


@dataclass(frozen=True)
class SourceInfo:
    """One line of the manifest: a source, its languages (one per side) and its splits by name."""

    name: str
    stream: str
    langs: tuple[str, ...]
    splits: Mapping[str, SplitInfo]


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds; a language's id is its index in `languages`."""

    folder: Path
    sha256: str
    languages: tuple[str, ...]
    tokenizer_sha256: str
    vocab_size: int
    sources: tuple[SourceInfo, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def find(self, name: str, stream: str, split: str) -> SourceInfo:
        """Return the line of a source that has this split.

        Raises: ManifestError listing what there is.
        """
        for source in self.sources:
            if (source.name, source.stream) == (name, stream) and split in source.splits:
                return source
        have = [f"{s.stream}/{s.name}/{x}" for s in self.sources for x in s.splits]
        raise ManifestError(
            f"{self.folder} has no {stream}/{name}/{split}; it has {', '.join(have)}."
        )


@dataclass(frozen=True)
class Source:
    """One split of one source, memory-mapped: a side for mono, two for pairs."""

    name: str
    stream: str
    langs: tuple[str, ...]
    sides: tuple[Side, ...]

    @property
    def num_examples(self) -> int:
        """Count the examples of the split."""
        return len(self.sides[0].offsets) - 1


def read_manifest(folder: Path | str) -> Manifest:
    """Read what `jalign prepare` wrote.

    Raises: ManifestError if the folder is missing, half-written, damaged or of another version.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    advice = f"run 'jalign prepare --output={folder} --corpus=...' first"
    if not path.is_file():
        if partial_folder(folder).exists():
            raise ManifestError(f"{folder}: its 'jalign prepare' did not finish; run it again.")
        what = "is a file" if folder.is_file() else "does not exist"
        what = "holds no manifest.json" if folder.is_dir() else what
        raise ManifestError(f"{folder} {what}, so it is no prepared dataset; {advice}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["version"]
        if version != FORMAT_VERSION:
            raise ManifestError(
                f"{path} has version {version}, this jalign reads {FORMAT_VERSION}; "
                "prepare it again."
            )
        return _from_json(folder, data)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path} is damaged ({error!r}); prepare it again.") from error


def _from_json(folder: Path, data: dict[str, Any]) -> Manifest:
    sources = tuple(
        SourceInfo(
            source["name"],
            source["stream"],
            tuple(source["langs"]),
            {name: SplitInfo(**split) for name, split in source["splits"].items()},
        )
        for source in data["sources"]
    )
    tokenizer = data["tokenizer"]
    sha256 = _content_sha256(tokenizer["sha256"], tokenizer["vocab_size"], sources)
    if sha256 != data["sha256"]:
        raise ManifestError(f"{folder / 'manifest.json'} was changed by hand; prepare it again.")
    return Manifest(
        folder, sha256, tuple(data["languages"]), tokenizer["sha256"], tokenizer["vocab_size"],
        sources, data.get("details", {}),
    )  # fmt: skip


def _to_json(manifest: Manifest) -> dict[str, Any]:
    sources = [
        {
            "name": s.name,
            "stream": s.stream,
            "langs": list(s.langs),
            "splits": {name: vars(split) for name, split in s.splits.items()},
        }
        for s in manifest.sources
    ]
    return {
        "version": FORMAT_VERSION,
        "sha256": manifest.sha256,
        "languages": list(manifest.languages),
        "tokenizer": {"sha256": manifest.tokenizer_sha256, "vocab_size": manifest.vocab_size},
        "sources": sources,
        "details": manifest.details,
    }


def _content_sha256(tokenizer_sha256: str, vocab_size: int, sources: Sequence[SourceInfo]) -> str:
    content = [
        [s.stream, s.name, s.langs, sorted((n, x.count, x.sha256) for n, x in s.splits.items())]
        for s in sources
    ]
    text = json.dumps([tokenizer_sha256, vocab_size, languages_of(sources), content])
    return hashlib.sha256(text.encode()).hexdigest()


def languages_of(sources: Iterable[SourceInfo]) -> list[str]:
    """List the languages of the sources, sorted: the index is the language id."""
    return sorted({lang for source in sources for lang in source.langs})


def open_source(manifest: Manifest, name: str, stream: str, split: str) -> Source:
    """Memory-map one split of a source; missing columns are rebuilt from the records.

    Raises: ManifestError for a source or split that is not there, or columns of another length.
    """
    info = manifest.find(name, stream, split)
    folder = manifest.folder / "columns" / stream / name / split
    if missing_columns(folder, num_sides=NUM_SIDES[stream]):
        _rebuild_columns(manifest, info, split, folder)
    about = info.splits[split].sha256
    if damage := find_damage(folder, about=about, sizes_only=True):
        raise damaged(folder, damage)
    source = Source(name, stream, info.langs, open_sides(folder, num_sides=NUM_SIDES[stream]))
    tokens = sum(int(side.offsets[-1]) for side in source.sides)
    if (source.num_examples, tokens) != (info.splits[split].count, info.splits[split].tokens):
        raise ManifestError(
            f"{folder} holds {source.num_examples} examples and {tokens} tokens, the manifest says "
            f"{info.splits[split].count} and {info.splits[split].tokens}; delete the folder to "
            "rebuild it."
        )
    return source


def damaged(folder: Path, damage: Sequence[str]) -> DamagedColumns:
    """Make the error for columns of which `find_damage` said that much."""
    return DamagedColumns(
        f"{folder} is not what 'jalign prepare' wrote ({'; '.join(damage[:3])}): delete it, "
        "and it is rebuilt from the records"
    )


def _rebuild_columns(manifest: Manifest, info: SourceInfo, split: str, folder: Path) -> None:
    """Write the columns again beside their place, check their hash, and move them there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / split
        num_sides = NUM_SIDES[info.stream]
        with ColumnWriter(new, num_sides=num_sides, vocab_size=manifest.vocab_size) as columns:
            for example in read_examples(manifest, info.name, info.stream, split):
                columns.append(example)
        if columns.sha256 != info.splits[split].sha256:
            raise ManifestError(
                f"the records of {info.stream}/{info.name}/{split} in {manifest.folder} do not "
                "have the hash of the manifest: they were changed or damaged; prepare them again."
            )
        write_hashes(new, about=columns.sha256)
        _move_columns(new, folder, Path(scratch) / "old", num_sides=num_sides)


def _move_columns(new: Path, folder: Path, old: Path, *, num_sides: int) -> None:
    """Move whole columns to their place, and incomplete ones from there to `old`.

    Whole ones stay there: another process was quicker and has mapped them; they are the same bytes.
    """
    if missing_columns(folder, num_sides=num_sides):
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, old)
        if old.exists() and not missing_columns(old, num_sides=num_sides):
            new = old  # finished in this very moment: back to their place
    try:
        os.rename(new, folder)
    except OSError:
        if missing_columns(folder, num_sides=num_sides):
            raise


def read_examples(
    manifest: Manifest, name: str, stream: str, split: str, indices: Iterable[int] | None = None
) -> Iterator[Example]:
    """Yield examples with texts and origins from the ArrayRecord files, all or those asked for."""
    from jalign.data import tfds_source  # tensorflow_datasets takes a second to import

    manifest.find(name, stream, split)
    records = tfds_source.open_records(manifest.folder / "records" / stream, name, split)
    for index in range(len(records)) if indices is None else indices:
        yield tfds_source.from_record(records[int(index)], NUM_SIDES[stream])


def read_texts(
    manifest: Manifest, name: str, stream: str, split: str, indices: Iterable[int]
) -> list[tuple[str, ...]]:
    """Return the texts of examples, one tuple each with the text of every side."""
    examples = read_examples(manifest, name, stream, split, indices)
    return [tuple(side.text for side in example.sides) for example in examples]


def partial_folder(folder: Path) -> Path:
    """Return the place beside `folder` where it grows until it is whole."""
    folder = Path(folder)
    return folder.parent / f".{folder.name}.partial"


class DatasetWriter:
    """Write a prepared folder source by source, beside its place; `finish` moves it there whole."""

    def __init__(self, folder: Path | str, *, tokenizer_sha256: str, vocab_size: int):
        self.folder = Path(folder)
        self.partial = partial_folder(self.folder)
        self.tokenizer_sha256 = tokenizer_sha256
        self.vocab_size = vocab_size
        self._sources: list[SourceInfo] = []
        self.partial.mkdir(parents=True, exist_ok=True)

    def add_source(
        self, name: str, stream: str, *, langs: Sequence[str],
        splits: Mapping[str, Callable[[], Iterable[Example]]],
    ) -> SourceInfo:  # fmt: skip
        """Write one source, streaming; a split that turns out to be empty is left out.

        `splits` maps `train` and `heldout` to functions that give the examples once.
        """
        from jalign.data import tfds_source

        if len(langs) != NUM_SIDES[stream]:
            raise ValueError(
                f"stream {stream!r} has {NUM_SIDES[stream]} sides, got languages {langs}"
            )
        infos: dict[str, SplitInfo] = {}
        generators = {}
        for split, examples in splits.items():
            first, rest = _peek(examples())
            if first is not None:
                folder = self.partial / "columns" / stream / name / split
                generators[split] = lambda s=split, d=folder, a=first, r=rest: self._tee(
                    d, infos, s, _chain(a, r)
                )
        if generators:
            tfds_source.write_source(
                self.partial / "records" / stream, name, num_sides=len(langs), splits=generators
            )
        source = SourceInfo(name, stream, tuple(langs), {s: infos[s] for s in generators})
        self._sources.append(source)
        return source

    def move_source(self, folder: Path, info: SourceInfo) -> None:
        """Take a source that another writer wrote into its `partial` folder, now at `folder`."""
        for kind in ("records", "columns") if info.splits else ():
            here = self.partial / kind / info.stream
            here.mkdir(parents=True, exist_ok=True)
            os.rename(folder / kind / info.stream / info.name, here / info.name)
        self._sources.append(info)

    def _tee(
        self, folder: Path, infos: dict[str, SplitInfo], split: str, examples: Iterator[Example]
    ) -> Iterator[Example]:
        num_sides = NUM_SIDES[folder.parent.parent.name]
        with ColumnWriter(folder, num_sides=num_sides, vocab_size=self.vocab_size) as columns:
            for example in examples:
                columns.append(example)
                yield example
        write_hashes(folder, about=columns.sha256)
        infos[split] = SplitInfo(columns.num_examples, sum(columns.num_tokens), columns.sha256)

    def finish(self, details: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest and move the whole folder to its place; the old one there goes."""
        sources = tuple(
            sorted((s for s in self._sources if s.splits), key=lambda s: (s.stream, s.name))
        )
        manifest = Manifest(
            self.folder, _content_sha256(self.tokenizer_sha256, self.vocab_size, sources),
            tuple(languages_of(sources)), self.tokenizer_sha256, self.vocab_size, sources,
            dict(details or {}),
        )  # fmt: skip
        text = json.dumps(_to_json(manifest), indent=1, ensure_ascii=False)
        (self.partial / "manifest.json").write_text(text + "\n", encoding="utf-8")
        if self.folder.exists():
            old = self.folder.parent / f".{self.folder.name}.old"
            shutil.rmtree(old, ignore_errors=True)  # left where a former overwrite was killed
            os.rename(self.folder, old)
            os.rename(self.partial, self.folder)
            shutil.rmtree(old)
        else:
            os.rename(self.partial, self.folder)
        return manifest


def _peek(examples: Iterable[Example]) -> tuple[Example | None, Iterator[Example]]:
    iterator = iter(examples)
    return next(iterator, None), iterator


def _chain(first: Example, rest: Iterator[Example]) -> Iterator[Example]:
    yield first
    yield from rest


def write_dataset(
    folder: Path | str,
    sources: Mapping[tuple[str, str], Mapping[str, Sequence[Example]]],
    *,
    langs: Mapping[str, Sequence[str]],
    vocab_size: int,
    tokenizer_sha256: str = "0" * 64,
) -> Manifest:
    """Write a prepared folder from examples in memory (tests, synthetic corpora).

    `sources` maps (stream, name) to its splits, `langs` a name to its languages: `write_dataset(d,
    {("pair", "en-de"): {"train": examples}}, langs={"en-de": ("en", "de")}, vocab_size=50)`.
    The folder has no tokenizer/ of its own unless you put one there.
    """
    writer = DatasetWriter(folder, tokenizer_sha256=tokenizer_sha256, vocab_size=vocab_size)
    for (stream, name), splits in sources.items():
        generators = {split: (lambda e=examples: e) for split, examples in splits.items()}
        writer.add_source(name, stream, langs=langs[name], splits=generators)
    return writer.finish()
