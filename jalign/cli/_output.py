"""Check, before any work, that a command can write its output, and that it is not its input.

Each check returns the path to write to, or raises ConfigError with what to type instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jalign.errors import ConfigError

PART = ".part"  # what a file is called beside its name until it is whole


def check_output_file(
    flag: str, path: str, inputs: Iterable[str | Path] = (), *, in_place: bool = False
) -> Path:
    """Check a file to write. `inputs`: what is read, "-" for standard input.

    `in_place`: the file is opened under its own name, so that a pipe or a device will do; all
    others grow beside it and are renamed.
    """
    output, asked = Path(path).expanduser(), f"--{flag}={path}"
    with _said(asked):
        if not output.parent.is_dir():
            raise ConfigError(f"{asked}: there is no folder {output.parent}; make it.")
        if output.is_dir():
            raise ConfigError(f"{asked} is a folder; type a file in it")
        if output.exists() and not output.is_file() and not in_place:
            raise ConfigError(f"{asked} is no plain file; type another name")
        inputs = list(inputs)
        if any(is_same(one, output) for one in inputs):
            raise ConfigError(f"{asked} is the input; type another name")
        part = output.with_name(output.name + PART)
        if any(is_same(one, part) for one in inputs):
            raise ConfigError(f"{asked} is written as {part}, the input; type another name")
        if not (in_place and output.exists()):
            _try_to_write(output.parent)
        elif not os.access(output, os.W_OK):
            raise ConfigError(f"{asked} is write-protected; type another name")
    return output


def check_output_folder(
    flag: str, path: str, inputs: Iterable[str | Path] = (), *, whole: bool = False
) -> Path:
    """Check a folder to write into, which need not be there. `inputs`: folders that are read.

    `whole`: the folder grows beside its place and is renamed, so that it needs a name.
    """
    output, asked = Path(path).expanduser(), f"--{flag}={path}"
    with _said(asked):
        if output.exists() and not output.is_dir():
            raise ConfigError(f"{asked} is a file; type a folder")
        if whole and output.name in ("", ".."):
            raise ConfigError(f"{asked}: this folder cannot be replaced; type one in it")
        if any(is_same(one, output) for one in inputs):
            raise ConfigError(f"{asked} is the input; type another folder")
        places = (output, *output.absolute().parents)[int(whole) :]
        there = next(place for place in places if place.exists())
        if not there.is_dir():
            raise ConfigError(f"{asked}: {there} is a file; type another folder")
        _try_to_write(there)
    return output


def is_same(path: str | Path, other: Path) -> bool:
    """Tell whether both are one file or folder, whatever they are called; "-": standard input."""
    try:
        return os.path.samefile(0 if path == "-" else Path(path).expanduser(), other)
    except OSError:  # one of them is not there
        return False


def _try_to_write(folder: Path) -> None:
    """Make a file without a name: what the permissions say is not all that can forbid it."""
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _said(asked: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{asked} cannot be written: {error.strerror}; type another") from error
