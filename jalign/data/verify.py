"""Compare prepared columns with their hashes, once, and again where they have changed.

In: a manifest, and a file that remembers. Out: nothing, or an error that names the damaged files.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from jalign.data.columns import missing_columns
from jalign.data.hashes import find_damage, stat_files
from jalign.data.records import NUM_SIDES, Manifest, damaged


def check_columns(manifest: Manifest, memory: Path | None = None) -> None:
    """Read all columns that there are, and compare them with their hashes, where they have any.

    `memory`: a file that keeps size and time of change of what was found whole, so that the next
    check reads only what has changed since.
    Raises: ManifestError naming the files that are not what `jalign prepare` wrote.
    """
    known = _read_memory(memory)
    found = {}
    for info in manifest.sources:
        for split, said in info.splits.items():
            folder = manifest.folder / "columns" / info.stream / info.name / split
            if missing_columns(folder, num_sides=NUM_SIDES[info.stream]):
                continue  # rebuilt when they are opened
            state = [said.sha256, stat_files(folder)]  # before it is read
            if known.get(str(folder)) != state and (
                damage := find_damage(folder, about=said.sha256)
            ):
                raise damaged(folder, damage)
            found[str(folder)] = state
    if memory and found != known:
        with contextlib.suppress(OSError):  # a full disk: the next check reads all again
            memory.write_text(json.dumps(found) + "\n", encoding="utf-8")


def _read_memory(path: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes())) if path else {}
    except (OSError, ValueError, TypeError):  # none yet, or cut short: nothing is known
        return {}
