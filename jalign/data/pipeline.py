"""Load packed batches of all streams of a run: the next step's rows are ready before the step asks.

In: a prepared dataset, what each stream wants, the rows that this process must supply. Out: an
iterator of {stream: batch}, from any step on. Step s takes the rows [s B, s B + B) of each stream,
whatever the number of processes: each one reads those that its devices hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain.python as grain
import numpy as np

from jalign.data.links import (
    Linker,
    file_links,
    lexicon_links,
    open_lexicons,
    open_link_files,
)
from jalign.data.records import Manifest, open_source
from jalign.data.rows import Layout, Part, RowSource, Specials
from jalign.data.shuffle import make_key
from jalign.data.tasks.rows import TaskData, make_task_rows
from jalign.data.thesaurus import ThesaurusConfig, open_thesaurus
from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError

PREFETCH = 8
FAR = 1 << 40  # a run may ask for this many steps
Range = tuple[int, int]  # [begin, end)


@dataclass(frozen=True)
class StreamConfig:
    """What one stream of a run wants.

    `sources`: names from the manifest, empty for all. `pair_sides`: a single-text stream also reads
    each side of the pairs as text. `alpha`: temperature exponent over languages or pairs. `rows`:
    rows of the global batch. `lexicons`: folder of `jalign lexicon`, `links`: folder of Pharaoh
    files, `thesaurus`: dictionaries, one of which gives pairs word links. `task`: labelled files,
    which such a stream reads in place of the dataset's sources.
    """

    layout: str
    rows: int
    row_length: int = 256
    max_unit: int = 0  # 0: as long as the row
    alpha: float = 0.7
    sources: tuple[str, ...] = ()
    pair_sides: bool = True
    swap: bool = False
    lexicons: str = ""
    links: str = ""
    thesaurus: ThesaurusConfig = ThesaurusConfig()
    task: TaskData = TaskData()

    def __post_init__(self) -> None:
        """Check what excludes what. Raises: ValueError naming the entries."""
        idle = [n for n in ("sources", "swap", "lexicons", "links") if getattr(self, n)]
        if self.task.format and idle:
            raise ValueError(f"{', '.join(idle)}: not for a stream of labelled files (task.format)")
        linkers = [n for n in ("lexicons", "links") if getattr(self, n)]
        linkers += ["thesaurus.files"] * bool(self.thesaurus.files)
        if len(linkers) > 1:
            raise ValueError(f"{' and '.join(linkers)} both give word links: set one of them only")
        if linkers and (self.layout == "single" or self.task.format):
            raise ValueError(
                f"layout {self.layout!r} has no pairs to link: remove {', '.join(linkers)}"
            )


def make_stream(
    manifest: Manifest,
    specials: Specials,
    name: str,
    cfg: StreamConfig,
    *,
    split: str = "train",
    seed: int = 0,
    once: bool = False,
    tokenizer: Tokenizer | None = None,
) -> RowSource:
    """Open the sources of a stream and plan its rows; `once` gives each example one time, for
    evaluation. A stream of labelled files is a TaskRows, and needs the tokenizer.

    Raises: ConfigError naming the stream, what the dataset has, and what to type.
    """
    layout = Layout(cfg.layout, cfg.row_length, cfg.max_unit or cfg.row_length, cfg.swap)
    salt = int.from_bytes(name.encode()[:7].ljust(7, b"\0"), "little")
    stream_seed = int(make_key(seed, salt) >> np.uint64(1))
    plan = {"alpha": cfg.alpha, "seed": stream_seed, "once": once}
    if cfg.task.format:
        return _task_rows(manifest, specials, name, cfg.task, layout, tokenizer, split, plan)
    parts = (
        _single_parts(manifest, cfg, split)
        if cfg.layout == "single"
        else _pair_parts(manifest, cfg, split)
    )
    if not parts:
        raise ConfigError(_nothing_to_read(manifest, name, cfg, split))
    linker = _make_linker(manifest, name, cfg, split, tokenizer)
    return RowSource(parts, layout, specials, linker=linker, **plan)


def _nothing_to_read(manifest: Manifest, name: str, cfg: StreamConfig, split: str) -> str:
    have = ", ".join(f"{s.stream}/{s.name}" for s in manifest.sources) or "nothing"
    stream = f"stream {name!r} (layout {cfg.layout!r})"
    if split != "train":
        return (
            f"nothing that {stream} reads is held out of {manifest.folder}, which has {have}: type "
            "jalign prepare --heldout=0.01, or take evaluate.tasks.heldout out of the config file"
        )
    if cfg.sources:
        return (
            f"{stream} finds nothing to train on among config.streams.{name}.sources="
            f"{tuple(cfg.sources)}: {manifest.folder} has {have}"
        )
    if cfg.layout == "single":
        return (
            f"{stream} finds no text to train on: {manifest.folder} has {have}. Prepare it with "
            "--corpus=lines,LANG,FILE as well, or take out what reads this stream, and the stream"
        )
    return (
        f"{stream} reads pairs, and {manifest.folder} has none to train on, but {have}. Prepare it "
        "with pairs as well (--corpus=tsv,SRC,TRG,FILE); or, to go without, take out of the config "
        f"file streams.{name}, the objectives that read it, such as tlm, and evaluate.tasks."
        "retrieval, and set evaluate.best to a score that is left"
    )


def _task_rows(
    manifest: Manifest,
    specials: Specials,
    name: str,
    data: TaskData,
    layout: Layout,
    tokenizer: Tokenizer | None,
    split: str,
    plan: Mapping[str, Any],
) -> RowSource:
    """Read a stream of labelled files; errors name the stream."""
    if split != "train":
        raise ValueError(f"stream {name!r} reads labelled files, which have no {split} part")
    if tokenizer is None:
        raise ValueError(f"stream {name!r} reads labelled files: make_stream needs the tokenizer")
    try:
        return make_task_rows(data, tokenizer, manifest.languages, layout, specials, **plan)
    except ConfigError as error:
        raise ConfigError(f"config.streams.{name}: {error}") from error


def _make_linker(
    manifest: Manifest, name: str, cfg: StreamConfig, split: str, tokenizer: Tokenizer | None
) -> Linker | None:
    if not (cfg.lexicons or cfg.links or cfg.thesaurus.files):
        return None
    sources = list(_chosen(manifest, cfg, "pair", split))
    if cfg.lexicons:
        names = [s.name for s in sources]
        return lexicon_links(open_lexicons(cfg.lexicons, names, manifest.tokenizer_sha256))
    if cfg.thesaurus.files:
        if tokenizer is None:
            raise ValueError(f"stream {name!r} has dictionaries: make_stream needs the tokenizer")
        return open_thesaurus(cfg.thesaurus, manifest, sources, tokenizer)
    if split != "train":
        return None  # the files say nothing of held-out pairs
    counts = {s.name: len(s.sides[0].offsets) - 1 for s in sources}
    return file_links(open_link_files(cfg.links, counts))


def _chosen(manifest: Manifest, cfg: StreamConfig, stream: str, split: str) -> Iterator:
    for info in manifest.sources:
        wanted = not cfg.sources or info.name in cfg.sources
        if info.stream == stream and wanted and split in info.splits and info.splits[split].count:
            yield open_source(manifest, info.name, stream, split)


def _pair_parts(manifest: Manifest, cfg: StreamConfig, split: str) -> list[Part]:
    return [
        Part(f"pair/{s.name}", s.sides, tuple(manifest.languages.index(lang) for lang in s.langs))
        for s in _chosen(manifest, cfg, "pair", split)
    ]


def _single_parts(manifest: Manifest, cfg: StreamConfig, split: str) -> list[Part]:
    streams = ("mono", "pair") if cfg.pair_sides else ("mono",)
    return [
        Part(
            f"{stream}/{s.name}" + f".{lang}" * (stream == "pair"),
            (side,),
            (manifest.languages.index(lang),),
        )
        for stream in streams
        for s in _chosen(manifest, cfg, stream, split)
        for side, lang in zip(s.sides, s.langs, strict=True)
    ]


def batch_of(step: int, skipped: Sequence[Range]) -> int:
    """Return the number of a step's batch: the step-th of those not in `skipped`, which is sorted
    and whose ranges do not touch.
    """
    for begin, end in skipped:
        if step < begin:
            break
        step += end - begin
    return step


class BatchSource:
    """Random access to this process's part of every step's batches; those of the ranges `skipped`
    are left out.
    """

    def __init__(
        self,
        streams: Mapping[str, RowSource],
        rows: Mapping[str, int],
        local: Mapping[str, Sequence[Range]] | None = None,
    ) -> None:
        """`rows[s]`: rows of the global batch; `local[s]`: the ranges of them that this process
        reads.
        """
        self.streams, self.rows_per_step = streams, dict(rows)
        self.local = dict(local or {name: ((0, n),) for name, n in rows.items()})
        self.skipped: tuple[Range, ...] = ()

    def __len__(self) -> int:
        """Return how many steps there are: as good as endless."""
        return FAR

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Build {stream: fields} of one step."""
        batch = batch_of(step, self.skipped)
        built = {}
        for name, stream in self.streams.items():
            first = batch * self.rows_per_step[name]
            parts = [stream.rows(first + begin, end - begin) for begin, end in self.local[name]]
            built[name] = parts[0] if len(parts) == 1 else _join(parts)
        return built

    def records(self, step: int) -> dict[str, list[tuple[str, int]]]:
        """Name every record of a step's global batch, per stream: what to look at when a step goes
        wrong.
        """
        batch = batch_of(step, self.skipped)
        return {
            name: [
                r
                for i in range(self.rows_per_step[name])
                for r in stream.records(batch * self.rows_per_step[name] + i)
            ]
            for name, stream in self.streams.items()
        }


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load_batches(
    source: BatchSource, first_step: int, *, prefetch: int = PREFETCH
) -> Iterator[dict]:
    """Iterate over the batches from `first_step` on, built ahead in the background by one thread.

    One thread suffices: it delivers far more than a step consumes (benchmarks/loader.py), and more
    would only take cores from a step that runs on the CPU.
    """
    dataset = grain.MapDataset.source(source)[first_step:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))


def real_tokens(batches: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    """Count the slots that hold an example: padding is never counted."""
    return sum(int(np.count_nonzero(batch["example"])) for batch in batches.values())


def total_slots(batches: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    """Count all slots of the batches."""
    return sum(batch["example"].size for batch in batches.values())


def num_units(batches: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    """Count the attention units of the batches."""
    return sum(int(((b["position"] == 0) & (b["example"] > 0)).sum()) for b in batches.values())
