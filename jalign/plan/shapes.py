"""Say of what shape the encoder of a planned run is: that of `config.init`, a published one, or the
config's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jalign import plugin
from jalign.errors import ConfigError
from jalign.hf.folder import families, read_config
from jalign.plugin import did_you_mean
from jalign.train.model_file import MODEL_FILE
from jalign.train.pretrained import read_shape

_MBERT = dict(family="bert", vocab_size=119_547, max_positions=512, first_position=0)
_LARGE = dict(hidden=1024, layers=24, heads=16, mlp=4096)
# Published shapes by name; what is not named is the default of the family's Config (XLM-R base for
# bert, mmBERT base for modernbert). XLM-R: Conneau et al. 2020, table 1; mBERT: its released
# config.json; mmBERT: Marone et al. 2025, table 1; ModernBERT: Warner et al. 2024, table 4.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "xlmr-base": dict(family="bert"),
    "xlmr-large": dict(family="bert", **_LARGE),
    "mbert-base": _MBERT | dict(type_vocab_size=2, layer_norm_eps=1e-12),
    "mmbert-base": dict(family="modernbert"),
    "modernbert-large": dict(
        family="modernbert", vocab_size=50_368, hidden=1024, layers=28, heads=16, mlp=2624
    ),
}


def encoder_entries(entries: Mapping[str, Any], init: str, shape: str = "") -> dict[str, Any]:
    """Return the whole encoder section of a run whose weights need not be here.

    `shape`: a name of SHAPES, in place of the shape that `init` or the section has. What the
    family calls a run's choice (dtype, dropout, remat ...) stays as the section says.
    Raises: ConfigError where neither the shape of `init` nor another is known.
    """
    if shape and shape not in SHAPES:
        hint = did_you_mean(shape, list(SHAPES))
        raise ConfigError(f"--shape={shape}: there is no such shape.{hint} Use {', '.join(SHAPES)}")
    if shape:
        return _with_choices(SHAPES[shape], entries)
    return _with_choices(_shape_of(init), entries) if init else dict(entries)


def _with_choices(shape: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    choices = (*plugin.load("encoders", shape["family"]).RUN_ENTRIES, "head")
    return dict(shape) | {name: value for name, value in entries.items() if name in choices}


def _shape_of(init: str) -> dict[str, Any]:
    path = Path(init).expanduser()
    if (path / MODEL_FILE).exists():
        family, cfg = read_shape(path)
    elif (path / "config.json").exists():
        hf = read_config(path)
        if hf.get("model_type") not in families():
            raise ConfigError(
                f"{path}/config.json has model_type={hf.get('model_type')!r}: need one of "
                f"{', '.join(sorted(families()))}"
            )
        family = families()[hf["model_type"]]
        cfg = plugin.load("encoders", family).from_hf_config(hf, ())
    else:
        raise ConfigError(
            f"config.init={init} is not here, so its shape is not known: put its config.json into "
            f"that folder, or name a shape: --shape={'|'.join(SHAPES)}"
        )
    return {"family": family, **dataclasses.asdict(cfg), "pooler": False, "head": True}
