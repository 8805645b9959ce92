"""Compare prepared columns with their hashes, once, and again where they have changed.

In: a manifest, and a file that remembers what was found whole. Out: nothing, or an error that names
the damaged files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jalign.data.columns import missing_columns
from jalign.data.hashes import find_damage, stat_files
from jalign.data.records import NUM_SIDES, Manifest, damaged


def check_columns(manifest: Manifest, memory: Path | None = None) -> None:
    """Read all columns that there are, and compare them with their hashes, where they have any.

    The file `memory` holds size and time of change of what was found whole, as of each split that
    was read: after an interruption the next check goes on there. What is so in it is not read.
    Raises: ManifestError naming the files that are not what `jalign prepare` wrote.
    """
    known = read_memory(memory) if memory else {}
    for info in manifest.sources:
        for split, said in info.splits.items():
            folder = manifest.folder / "columns" / info.stream / info.name / split
            if missing_columns(folder, num_sides=NUM_SIDES[info.stream]):
                continue  # rebuilt when they are opened
            state = [said.sha256, stat_files(folder)]  # before it is read
            if known.get(str(folder)) == state:
                continue
            if damage := find_damage(folder, about=said.sha256):
                raise damaged(folder, damage)
            known[str(folder)] = state
            if memory:
                write_memory(memory, known)


def read_memory(path: Path) -> dict[str, Any]:
    """Read what an earlier check found whole: nothing where that is missing or broken."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def write_memory(path: Path, found: Mapping[str, Any]) -> None:
    """Keep what a check found whole; on a full disk the next one reads all again."""
    partial = path.with_suffix(".partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
        os.replace(partial, path)
