"""Open files that somebody else wrote: no devices, no surprises, limits before anything is parsed.

In: a path. Out: an open regular file, or the object that a JSON file holds; or an error that says
what to do.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from jalign.errors import BadData, ConfigError

# A value costs up to 100 bytes once parsed and 3 in the file, so that bytes alone bound nothing.
MAX_VALUES = 200_000
AGAIN = "take it from its origin again"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one as in hub caches; never waits for a pipe or a device.

    Raises: ConfigError if it cannot be opened, BadData if it is something else.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer, for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        if path.is_symlink():
            reason += ", it is a link to nothing that can be read"
        raise ConfigError(f"cannot read {path}: {reason}; {AGAIN}.") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise BadData(f"{path} is {what}, and a file is needed: remove it and {AGAIN}.")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path | str, *, max_bytes: int) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises: ConfigError if it cannot be opened; BadData if it is too large, not UTF-8, not JSON, not
    an object, or has a key twice, NaN or an infinity.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadData(
                f"{path} has {size:,} bytes; {max_bytes:,} are plenty for such a file: {AGAIN}."
            )
        return parse_object(file.read(size), str(path))


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object; `what` names it in errors. See `read_json` for what is refused.

    Raises: BadData.
    """
    if is_lfs_pointer(data):
        raise BadData(lfs_message(what))
    if data.count(b",") > MAX_VALUES:
        raise BadData(f"{what} holds more than {MAX_VALUES:,} values: {AGAIN}.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        if (
            b"\\ud" in data.lower()
        ):  # half a surrogate pair is no text: it could not be written again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{what} is not UTF-8 text at byte {error.start}: {AGAIN}.") from error
    except RecursionError as error:
        raise BadData(f"{what} is nested too deeply: {AGAIN}.") from error
    except ValueError as error:  # JSONDecodeError is one; so is a number of 5,000 digits
        raise BadData(f"{what} is not valid JSON ({error}): mend it, or {AGAIN}.") from error
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string"}.get(type(value), "a single value")
        raise BadData(f"{what} holds {kind} where an object {{...}} is needed: {AGAIN}.")
    return value


def is_lfs_pointer(data: bytes) -> bool:
    """Tell whether a file is what git leaves in place of a large one it has not downloaded."""
    return data.startswith(b"version ")  # neither JSON nor a sane length of a header


def lfs_message(what: str) -> str:
    """Say what to do about a Git LFS pointer."""
    return (
        f"{what} is a Git LFS pointer, not the file itself: run 'git lfs install && git lfs pull' "
        "in the folder."
    )


def quote(name: object, limit: int = 100) -> str:
    """Show a name from somebody's file: in quotes, control characters escaped, not too long."""
    text = repr(name)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {quote(twice)} comes twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _whole(digits: str) -> int | float:
    return -0.0 if digits == "-0" else int(digits)  # no whole number to other parsers


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {quote(digits, 40)} is too large")
    return value
