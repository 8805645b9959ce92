"""Open a pretrained encoder, wherever it lies: a Hugging Face folder, an imported one, a workdir.

In: a path. Out: the family's Config, the encoder's parameters as NumPy arrays, and the tokenizer,
bound to each other by the hash that was stored with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jalign import config, plugin
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.errors import ConfigError
from jalign.hf.folder import abstract_params, check_hash, families, read_folder
from jalign.train.checkpoint import complete_steps, read_params
from jalign.train.model_file import MODEL_FILE, read_model_file


class Pretrained(NamedTuple):
    """An encoder to use or to continue.

    `family`: file of jalign/encoders. `tokenizer_folder`: where its files lie. `step`: of the
    checkpoint, -1 for a Hugging Face folder. `details`: the content of model.json, or for a Hugging
    Face folder its config.json as `hf_config` and the tensors not used as `left_out`.
    """

    family: str
    cfg: Any
    params: dict[str, Any]
    tokenizer: Tokenizer
    model_type: str
    path: Path
    tokenizer_folder: Path
    step: int
    details: Mapping[str, Any]


def read_pretrained(path: Path | str, *, step: int | str | None = None) -> Pretrained:
    """Read an encoder; `step` is one of a workdir's checkpoints, or "best"; None is the newest.

    Raises: ConfigError (exit code 2) and BadData (3), each saying what to do.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"{path} is no folder: name a Hugging Face folder, one that 'jalign import' wrote, or "
            "a workdir of 'jalign pretrain'"
        )
    if (path / MODEL_FILE).is_file():
        return _read_workdir(path, step)
    if not (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        raise ConfigError(
            f"{path} has neither {MODEL_FILE} (a workdir or an imported model) nor config.json "
            "with safetensors (a Hugging Face folder)"
        )
    if step is not None:
        raise ConfigError(f"{path} is a Hugging Face folder: it has no checkpoint {step!r}")
    hf = read_folder(path)
    details = {"hf_config": hf.config, "left_out": list(hf.left_out)}
    return Pretrained(
        hf.family, hf.cfg, hf.params, hf.tokenizer, hf.model_type, path, path, -1, details
    )


def read_shape(path: Path | str) -> tuple[str, Any]:
    """Read only (family, Config) of a workdir or an imported model."""
    described = read_model_file(path)
    known = sorted(set(families().values()))
    if described["family"] not in known:
        raise ConfigError(
            f"{path}/{MODEL_FILE}: family {described['family']!r} is none of {', '.join(known)}"
        )
    family = plugin.load("encoders", described["family"])
    entries = described["encoder"]
    return described["family"], config.build(
        family.Config, entries, f"{path}/{MODEL_FILE}: encoder"
    )


def _read_workdir(path: Path, step: int | str | None) -> Pretrained:
    described = read_model_file(path)
    family, cfg = read_shape(path)
    tokenizer = load_tokenizer(path / "tokenizer")
    check_hash(path, described["tokenizer_sha256"], tokenizer)
    folder = find_checkpoint(path, step)
    shapes = {"encoder": abstract_params(plugin.load("encoders", family), cfg)}
    params = read_params(folder, shapes)["encoder"]
    return Pretrained(
        family,
        cfg,
        params,
        tokenizer,
        described["model_type"],
        path,
        path / "tokenizer",
        int(folder.name),
        described,
    )


def find_checkpoint(path: Path, step: int | str | None) -> Path:
    """Return the folder of a workdir's checkpoint: of a step, the "best", None for the newest.

    Raises: ConfigError listing what there is.
    """
    folder = path / ("best" if step == "best" else "checkpoints")
    steps = complete_steps(folder)
    if not steps:
        raise ConfigError(f"{folder} holds no complete checkpoint yet")
    if step in (None, "best"):
        return folder / str(steps[-1])
    if step not in steps:
        raise ConfigError(f"{folder} has no checkpoint {step!r}; it has {steps}")
    return folder / str(step)
