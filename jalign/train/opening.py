"""Open what a run reads: a prepared dataset, or labelled files with the tokenizer of `init`.

In: a `RunConfig` and where it starts from. Out: a manifest (without sources where nothing is
prepared), the tokenizer, hashes of the labelled files, and the number of steps that so many epochs
take.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jalign.data.pipeline import BatchSource
from jalign.data.records import Manifest, read_manifest
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.data.verify import check_columns
from jalign.errors import BadData, ConfigError
from jalign.train.run_config import RunConfig
from jalign.train.start import Start

CHECKED = "checked.json"  # in the workdir: what of the data was found whole


class Opened(NamedTuple):
    """What a run reads; `tokenizer_folder` is copied into its workdir."""

    manifest: Manifest
    tokenizer: Tokenizer
    tokenizer_folder: Path


def open_data(cfg: RunConfig, start: Start | None, workdir: Path | None = None) -> Opened:
    """Open the prepared dataset, or do without where all streams are labelled.

    All of it is read once and compared with its hashes; what the workdir remembers as whole and has
    not changed since is not read again.
    Raises: ConfigError where the tokenizer is not that of the data or of `init`; ManifestError.
    """
    if not cfg.data:
        return _open_bare(cfg, start)
    manifest = read_manifest(cfg.data)
    if jax.process_index() == 0:
        check_columns(manifest, workdir / CHECKED if workdir else None)
    folder = Path(cfg.data) / "tokenizer"
    tokenizer = load_tokenizer(folder)
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(
            f"{cfg.data}/tokenizer is not the one this data was prepared with: prepare it again"
        )
    if start and start.held and start.held.tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(
            f"{manifest.folder} was prepared with tokenizer {manifest.tokenizer_sha256[:12]}, and "
            f"config.init={cfg.init} has {start.held.tokenizer.sha256[:12]}: the ids mean other "
            f"words. Prepare the data with 'jalign prepare --tokenizer={start.tokenizer_folder}'"
        )
    return Opened(manifest, tokenizer, folder)


def _open_bare(cfg: RunConfig, start: Start | None) -> Opened:
    unlabelled = [name for name in cfg.streams if name not in cfg.labelled]
    if unlabelled:
        raise ConfigError(
            f"config.data is empty, and stream {unlabelled[0]!r} has no labelled files of its own: "
            f"set config.data to a folder of 'jalign prepare', or config.streams."
            f"{unlabelled[0]}.task"
        )
    if start is None:
        raise ConfigError(
            "config.data and config.init are both empty, so there is no tokenizer: set config.init "
            "to a model (a Hugging Face folder, an imported model or a workdir)"
        )
    tokenizer = start.held.tokenizer if start.held else load_tokenizer(start.tokenizer_folder)
    manifest = bare_manifest(tokenizer, start.tokenizer_folder, languages(cfg))
    return Opened(manifest, tokenizer, start.tokenizer_folder)


def bare_manifest(tokenizer: Tokenizer, folder: Path, langs: Sequence[str]) -> Manifest:
    """Return the manifest of no prepared data: a tokenizer and languages, no sources."""
    content = " ".join([tokenizer.sha256, *langs])
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return Manifest(folder, sha256, tuple(langs), tokenizer.sha256, tokenizer.vocab_size, ())


def languages(cfg: RunConfig) -> list[str]:
    """Return the languages of the labelled files, sorted."""
    files = [file for name in cfg.labelled for file in cfg.streams[name].task.files]
    return sorted({file.partition("=")[0] for file in files})


def labelled_sha256(cfg: RunConfig) -> dict[str, str]:
    """Hash the labelled files of each stream: a run goes on only with those that it began with."""
    found = {}
    for name in cfg.labelled:
        said = hashlib.sha256()
        for file in cfg.streams[name].task.files:
            path = Path(file.partition("=")[2])
            try:
                said.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise BadData(
                    f"config.streams.{name}.task.files: cannot read {path} ({error.strerror})"
                ) from error
        found[name] = said.hexdigest()
    return found


def labelled_sources(cfg: RunConfig, source: BatchSource) -> list[dict[str, Any]]:
    """Describe the labelled files as model.json describes the sources of a dataset."""
    return [
        {
            "name": Path(index.part.name.partition("=")[2]).name,
            "stream": name,
            "langs": [index.part.name.partition("=")[0].rpartition("/")[2]],
            "count": index.size,
        }
        for name in cfg.labelled
        for index in source.streams[name].index
    ]


def count_steps(cfg: RunConfig, source: BatchSource) -> tuple[int, list[str]]:
    """Return how many steps the run takes, and how that was counted where epochs say it.

    Raises: ConfigError where both steps and epochs are set.
    """
    if not cfg.epochs:
        return cfg.steps, []
    if cfg.steps:
        raise ConfigError(
            f"config.steps={cfg.steps} and config.epochs={cfg.epochs:g} both say how long the run "
            "is: set one of them to 0"
        )
    passes = {name: _rows_of_a_pass(source, name) for name in cfg.labelled or cfg.streams}
    stream = max(passes, key=lambda name: passes[name] / cfg.streams[name].rows)
    rows = cfg.streams[stream].rows
    steps = max(1, math.ceil(cfg.epochs * passes[stream] / rows))
    return steps, [
        f"{cfg.epochs:g} epochs of {passes[stream]:,} rows of stream {stream}, {rows} rows a step: "
        f"{steps:,} steps"
    ]


def _rows_of_a_pass(source: BatchSource, name: str) -> int:
    """Return how many rows hold as many examples as a stream has, seen over its first window."""
    stream = source.streams[name]
    num_examples = sum(index.size for index in stream.index)
    rows, examples = stream.packed.window_rows, stream.packed.plan(0).example.size
    return math.ceil(num_examples * rows / examples)
