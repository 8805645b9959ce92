"""Hash the files of a folder, and find what has changed since: flipped, cut short or deleted.

`FOLDER/hashes.json` holds size and SHA-256 of every file below it, of itself, and what the folder
is about. A checkpoint gets it before it gets its name, so that none stands there without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HASHES = "hashes.json"
THREADS = 4  # hashing and reading let go of the interpreter


def write_hashes(folder: Path, *, about: str = "", leave_out: Collection[str] = ()) -> None:
    """Write the hashes of all files below `folder` but those whose path is left out."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    names = [p.relative_to(folder).as_posix() for p in paths]
    names = [n for n in names if n not in (HASHES, *leave_out)]
    files = dict(zip(names, _hash_all(folder, names), strict=True))
    table = {"about": about, "sha256": _of_table(about, files), "files": files}
    text = json.dumps(table, indent=1)
    (folder / HASHES).write_text(text + "\n", encoding="utf-8")


def find_damage(folder: Path, *, about: str = "", sizes_only: bool = False) -> list[str] | None:
    """Say what is wrong with each file that is not as it was written; None without hashes.json.

    Files that came later are nobody's business. Reads everything, about a second per gigabyte,
    unless `sizes_only`.
    """
    path = folder / HASHES
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_bytes())
        files = table["files"]
        if _of_table(table["about"], files) != table["sha256"]:
            return [f"{HASHES} was changed"]
        if table["about"] != about:
            return ["it holds something else"]
        now = _sizes(folder, files) if sizes_only else _hash_all(folder, list(files))
        pairs = zip(files.items(), now, strict=True)
        return [fault for (name, then), found in pairs if (fault := _fault(name, then, found))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{HASHES} is no longer readable"]


def stat_files(folder: Path) -> dict[str, list[int]]:
    """Return size and time of change (ns) of all files of a folder, by name."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir())}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _sizes(folder: Path, files: Mapping[str, list]) -> list[list | None]:
    """Return what `_hash_all` would, as if no byte had changed."""
    paths = {name: folder / name for name in files}
    return [
        [paths[name].stat().st_size, then[1]] if paths[name].is_file() else None
        for name, then in files.items()
    ]


def _fault(name: str, before: list, now: list | None) -> str:
    if now is None:
        return f"{name} is missing"
    if now[0] != before[0]:
        return f"{name} has {now[0]:,} bytes of {before[0]:,}"
    return "" if now == before else f"{name} holds other bytes than were written"


def _of_table(about: str, files: object) -> str:
    return hashlib.sha256(json.dumps([about, files], sort_keys=True).encode()).hexdigest()


def _hash_all(folder: Path, names: list[str]) -> list[list | None]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda name: _hash(folder / name), names))


def _hash(path: Path) -> list | None:
    """Return [size, SHA-256], None for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return [file.tell(), digest]
    except OSError:
        return None
