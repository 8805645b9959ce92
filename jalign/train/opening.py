"""Open what a run reads: a prepared dataset, or labelled files with the tokenizer of `init`.

In: a `RunConfig` and where it starts from. Out: a manifest (without sources where nothing is
prepared), the tokenizer, hashes of the labelled files, and the number of steps that so many epochs
take.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from jalign.data.pipeline import BatchSource
from jalign.data.records import Manifest, read_manifest
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.data.verify import check_columns
from jalign.errors import BadData, ConfigError
from jalign.train.run_config import RunConfig
from jalign.train.start import Start
from jalign.train.together import attempt, gather, tell

CHECKED = "checked.json"  # in the workdir: what of the data was found whole
PLACES = ("data", "init")  # entries that say where something lies: that may differ between hosts


class Opened(NamedTuple):
    """What a run reads; `tokenizer_folder` is copied into its workdir."""

    manifest: Manifest
    tokenizer: Tokenizer
    tokenizer_folder: Path


def open_data(cfg: RunConfig, start: Start | None) -> Opened:
    """Open the prepared dataset, or do without where all streams are labelled.

    Raises: ConfigError where the tokenizer is not that of the data or of `init`; ManifestError.
    """
    if not cfg.data:
        return _open_bare(cfg, start)
    manifest = read_manifest(cfg.data)
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


def check_data(manifest: Manifest, workdir: Path | None) -> None:
    """Read all prepared data and compare them with their hashes, in process 0; the others wait.

    What the workdir remembers as whole and has not changed since is not read again.
    Raises: ManifestError, on all processes, naming the damaged files.
    """

    def check() -> None:
        if jax.process_index() == 0:
            check_columns(manifest, workdir / CHECKED if workdir else None)

    attempt(check)


def check_same(
    cfg: RunConfig, start: Start | None, opened: Opened, labelled: Mapping[str, str]
) -> None:
    """Compare what the processes of a job read, which may lie on each host's own disk.

    Raises: ConfigError, on all processes, naming those that differ from process 0, and in what.
    """
    if jax.process_count() == 1:
        return
    entries = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in PLACES}
    mine = {
        "host": socket.gethostname(),
        "manifest_sha256": opened.manifest.sha256,
        "tokenizer_sha256": opened.manifest.tokenizer_sha256,
        "labelled_sha256": dict(labelled),
        "init_sha256": start.sample_sha256() if start else "",
        "config": entries,
    }
    mine = json.loads(json.dumps(mine))
    theirs = tell(mine)
    faults = gather(_differences(mine, theirs))
    found = [f"process {i}: {fault}" for i, fault in enumerate(faults) if fault]
    if found:
        raise ConfigError(
            f"not all processes read the same; other than process 0 ({theirs['host']}) have "
            + "; ".join(found[:8])
            + (f"; and {len(found) - 8} more processes" if len(found) > 8 else "")
            + ". Start all with the same command, and copy the files anew to hosts that have their "
            "own"
        )


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say in what a process differs from process 0, and on which host; "" for nothing."""
    ours, first = flatten_dict(mine, sep="."), flatten_dict(theirs, sep=".")
    left_out = {"host"}
    if not (ours["init_sha256"] and first["init_sha256"]):
        left_out.add("init_sha256")  # to one of the two a checkpoint gives the weights
    names = sorted((ours.keys() | first.keys()) - left_out)
    found = [
        f"{name}={_short(ours.get(name))} (not {_short(first.get(name))})"
        for name in names
        if ours.get(name) != first.get(name)
    ]
    return ", ".join(found[:5]) + f" on {mine['host']}" if found else ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


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
