"""Refuse folders without safetensors, saying which command converts what they have.

Pickles, and what may hold pickles, run code of their author when they are read: jalign never opens
them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from jalign.errors import ConfigError, UserError
from jalign.hf.json_files import quote, read_json

_FLAX = re.compile(r"flax_model.*\.msgpack")
_TENSORFLOW = re.compile(r"tf_model.*\.h5")
_PYTORCH = re.compile(r"pytorch_model.*\.bin")
_OTHERS = re.compile(
    r".*\.(bin|pt|pth|ckpt|h5|msgpack|npz|npy|pkl|pickle|joblib|ot|onnx|gguf|pb)"
    r"|.*\.ckpt[-.].*"
)
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]{1,60}")
_CONFIG_BYTES = 1 << 20


def no_safetensors(folder: Path) -> ConfigError:
    """Return the error for a folder that has no model.safetensors and no index."""
    names = sorted(path.name for path in folder.iterdir())
    for pattern, argument, note in (
        (_PYTORCH, "", ""),
        (_FLAX, ", from_flax=True", " (it needs transformers 4: pip install 'transformers<5')"),
        (_TENSORFLOW, ", from_tf=True", " (it needs transformers 4: pip install 'transformers<5')"),
        (_OTHERS, "", " (once the file is one that transformers reads)"),
    ):
        found = [name for name in names if pattern.fullmatch(name)]
        if found:
            return ConfigError(
                f"{folder} has {_some(found)} and no safetensors. Such files can run code when "
                "they are read, and jalign never opens them. If you trust who made them, convert "
                f"them where transformers and PyTorch are installed{note}:\n"
                f"  {_command(folder, argument)}\n"
                f"and go on with {_converted(folder)}."
            )
    tensors = [name for name in names if name.endswith(".safetensors")]
    if any(name.startswith("adapter_") for name in tensors):
        return ConfigError(
            f"{folder} has {_some(tensors)}, an adapter and not a model: merge it into its base "
            "(PEFT's merge_and_unload) and save that."
        )
    if tensors:
        return ConfigError(
            f"{folder} has {_some(tensors)} but no model.safetensors and no "
            "model.safetensors.index.json: rename the file if it is the whole model."
        )
    return ConfigError(
        f"{folder} holds no weights: need model.safetensors, or model.safetensors.index.json with "
        f"its shards; there is {_some(names) if names else 'nothing'}. Name another folder, or "
        "finish the download."
    )


def _command(folder: Path, argument: str) -> str:
    """Return the shell command that reads the folder and saves it as safetensors."""
    name = _class_name(folder)
    code = (
        f"from transformers import AutoTokenizer, {name}; "
        f"a, b = {str(folder)!r}, {str(_converted(folder))!r}; "
        f"{name}.from_pretrained(a{argument}).save_pretrained(b); "
        "AutoTokenizer.from_pretrained(a).save_pretrained(b)"
    )
    return f"python -c {shlex.quote(code)}"


def _class_name(folder: Path) -> str:
    """Return the class to load with: AutoModelForMaskedLM would invent a head where there is none,
    and drop a pooler.
    """
    try:
        named = read_json(folder / "config.json", max_bytes=_CONFIG_BYTES).get("architectures")
    except UserError:
        named = None
    first = named[0] if isinstance(named, list) and named else None
    bare = isinstance(first, str) and _CLASS.fullmatch(first) and first.endswith("Model")
    return first if bare else "AutoModelForMaskedLM"


def _converted(folder: Path) -> Path:
    folder = folder.absolute()
    return folder.with_name(folder.name + "-safetensors")


def _some(names: list[str]) -> str:
    shown = ", ".join(quote(name).strip("'") for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
