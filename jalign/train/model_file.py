"""Describe the model of a folder in one file, `model.json`, so that it can be opened without the
data and the config it was trained with.

Written beside the tokenizer when a run starts (and where a model is imported); read for export,
inference and to continue a run whose `init` folder is gone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jalign.errors import BadData, ConfigError

MODEL_FILE = "model.json"
FORMAT = 1
MAX_BYTES = 64 << 20  # thousands of sources fit in one; more is no model.json of ours
ENTRIES = {"family": str, "model_type": str, "encoder": dict, "tokenizer_sha256": str}


def write_model_file(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `folder/model.json`, whole or not at all; `content` has at least ENTRIES."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False)
    partial = folder / f"{MODEL_FILE}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, folder / MODEL_FILE)


def read_model_file(folder: Path | str) -> dict[str, Any]:
    """Read `folder/model.json`.

    Raises: ConfigError where there is none or it is of another format; BadData where it is broken.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {MODEL_FILE}, so it is no workdir of 'jalign pretrain' and no model "
            "of 'jalign import': name one of these"
        )
    if path.stat().st_size > MAX_BYTES:
        raise BadData(f"{path} has {path.stat().st_size:,} bytes: that is no model file of jalign")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise BadData(f"{path} is broken ({error}): copy it again from where it came") from error
    if not isinstance(content, dict):
        raise BadData(f"{path} holds no entries: copy it again from where it came")
    if content.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has format {content.get('format')!r}, and this jalign reads {FORMAT}: "
            "read it with the jalign that wrote it"
        )
    for name, kind in ENTRIES.items():
        if not isinstance(content.get(name), kind):
            raise BadData(
                f"{path}: {name!r} is {content.get(name)!r:.80}, and a {kind.__name__} is needed: "
                "copy it again from where it came"
            )
    return content
