"""Write a model folder beside its place and rename it, so that it is whole or not there.

Replaced is only what `jalign export` or `jalign import` wrote, and never what is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jalign.errors import ConfigError, UserError
from jalign.hf.compare import FINGERPRINT
from jalign.hf.folder import MARK, TOKENIZER_FILES
from jalign.train.model_file import MODEL_FILE, read_model_file

CHOSEN = "aligner.json"  # of jalign evaluate --save-best: it holds for these weights only
EXPORTED = {MARK, "config.json", "README.md", FINGERPRINT, CHOSEN, *TOKENIZER_FILES}
TENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
IMPORTED = {MODEL_FILE, "tokenizer", "checkpoints", "best", FINGERPRINT, CHOSEN}


@contextmanager
def beside(source: Path, target: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside the target to write to, which becomes the target at the end.

    Raises: ConfigError where the target lies in the source or around it, or is something else than
    a folder that may be replaced.
    """
    source, target = source.resolve(), target.resolve()
    partial, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    for place in (target, partial, old):
        if place == source or place in source.parents or source in place.parents:
            raise ConfigError(
                f"{target} is to be written and {source} is read, and one holds the other: name "
                "another --output"
            )
    _check_free(target, overwrite)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        _check_free(target, overwrite)  # again: somebody may have written there meanwhile
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)  # left where a former overwrite was killed
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file: name a folder as --output")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{target} is there already: name another --output, or type --overwrite")
    if found := _in_the_way(target):
        raise ConfigError(
            f"--overwrite replaces what jalign export or jalign import wrote, and {target} "
            f"{found}: name another --output"
        )


def _in_the_way(folder: Path) -> str:
    """Say what is in a folder that export and import do not write; "" where there is nothing."""
    names = {path.name for path in folder.iterdir()}
    if MARK in names:
        others = {name for name in names - EXPORTED if not TENSORS.fullmatch(name)}
    elif _is_imported(folder):
        places = (path for name in ("checkpoints", "best") for path in (folder / name).glob("*"))
        steps = {path.relative_to(folder).as_posix() for path in places}
        others = (names - IMPORTED) | (steps - {"checkpoints/0"})
    else:
        return "is something else"
    return f"also holds {', '.join(sorted(others)[:3])}" if others else ""


def _is_imported(folder: Path) -> bool:
    """Tell it from the workdir of a run, whose model was not compared with anybody's."""
    try:
        return "verified" in read_model_file(folder)
    except UserError:
        return False
