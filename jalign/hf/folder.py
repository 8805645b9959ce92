"""Read and write a Hugging Face folder: config.json, safetensors, tokenizer files.

In: a folder. Out: the family's Config and parameters, and back; the two are exact inverses. All
checks come before the first tensor is read, and no code of the folder is ever run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jalign import plugin
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.encoders import _names
from jalign.errors import BadData, ConfigError
from jalign.hf.heads import TaskHead, add_head, head_entries
from jalign.hf.limits import check_config, check_shapes
from jalign.hf.tensors import Tensors, open_tensors, read_json, write_tensors

CONFIG_BYTES = 4 << 20
MARK = "jalign.json"  # in exported folders: what binds the tokenizer to the weights
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
# Tensors that say nothing new: buffers, and copies of tied ones (checked to be copies).
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids", "rotary_emb.inv_freq")
PREFIXES = ("bert.", "roberta.", "model.")


class Folder(NamedTuple):
    """A Hugging Face folder, read: `params` is the encoder's tree of float32 arrays.

    `left_out`: tensors of the folder that no part of the encoder uses, such as a classifier.
    """

    path: Path
    family: str
    model_type: str
    cfg: Any
    params: dict[str, Any]
    tokenizer: Tokenizer
    config: dict[str, Any]
    left_out: tuple[str, ...]


def families() -> dict[str, str]:
    """Return the family that serves each Hugging Face model type."""
    return {
        model_type: name
        for name in plugin.available("encoders")
        for model_type in plugin.load("encoders", name).ARCHITECTURES
    }


def abstract_params(family: ModuleType, cfg: Any) -> dict[str, Any]:
    """Return the shapes of the encoder's parameters, without allocating any."""
    boxed = jax.eval_shape(lambda key: family.init_params(family.make(cfg), key), jax.random.key(0))
    return nn.unbox(boxed)


def read_folder(path: Path | str) -> Folder:
    """Read the encoder of a Hugging Face folder.

    Raises: ConfigError (exit code 2) for a folder that is not what is needed, BadData (3) for a
    broken one; each says what to do.
    """
    path = Path(path)
    config = read_config(path)
    name = families()[config["model_type"]]
    family = plugin.load("encoders", name)
    tensors = open_tensors(path)
    try:
        cfg = family.from_hf_config(config, tuple(tensors.info))
    except ValueError as error:
        raise ConfigError(f"{path}/config.json: {error}") from error
    names = family.hf_names(cfg, config["model_type"])
    expected = _names.foretell(names, abstract_params(family, cfg))
    found = {wanted: find(wanted, tensors.info) for wanted in expected}
    unused = check_shapes(expected, tensors, found)
    tokenizer = load_tokenizer(path)
    check_tokenizer(path, config, tokenizer, cfg.vocab_size)
    params = _names.from_hf(names, lambda n: tensors.read(found[n]))
    copies = family.hf_copies(cfg, config["model_type"])
    left_out = _without_copies(unused, tensors, found, copies if cfg.tied else {})
    left_out = [name for name in left_out if cfg.tied or find(name, copies) not in copies]
    return Folder(path, name, config["model_type"], cfg, params, tokenizer, config, tuple(left_out))


def read_config(path: Path) -> dict[str, Any]:
    """Read and check config.json."""
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder: a model is a folder with config.json")
    config = read_json(path / "config.json", max_bytes=CONFIG_BYTES)
    check_config(config, path, tuple(families()))
    return config


def find(wanted: str, there: Collection[str]) -> str:
    """Return the name under which a folder holds a tensor; `wanted` itself where it does not.

    Folders differ in the base model's prefix, and old ones say gamma and beta.
    """
    bare = next((wanted.removeprefix(p) for p in PREFIXES if wanted.startswith(p)), wanted)
    for name in (wanted, bare, *(p + bare for p in PREFIXES)):
        for old, new in ((".weight", ".weight"), (".weight", ".gamma"), (".bias", ".beta")):
            if name.endswith(old) and name.removesuffix(old) + new in there:
                return name.removesuffix(old) + new
        if name in there:
            return name
    return wanted


def check_tokenizer(
    path: Path, config: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int
) -> None:
    """Refuse a tokenizer that is not the model's: its size, its special ids, its stored hash.

    Raises: ConfigError.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} ids and the model {vocab_size} "
            "rows, so that some ids have none: take the tokenizer that the model was trained with"
        )
    for name, ours in (("pad", tokenizer.pad_id), ("bos", tokenizer.bos_id)):
        theirs = config.get(f"{name}_token_id")
        if isinstance(theirs, int) and theirs != ours:
            raise ConfigError(
                f"{path}: config.json says {name}_token_id={theirs} and the tokenizer's {name} id "
                f"is {ours}: take the tokenizer that the model was trained with"
            )
    if (path / MARK).exists():
        check_hash(
            path, read_json(path / MARK, max_bytes=CONFIG_BYTES).get("tokenizer_sha256"), tokenizer
        )


def check_hash(path: Path, sha256: Any, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that differs from the one recorded beside the weights, be it in one id.

    Raises: ConfigError.
    """
    if sha256 != tokenizer.sha256:
        raise ConfigError(
            f"{path}: the tokenizer's hash is {tokenizer.sha256[:12]}, and the weights were "
            f"written with {str(sha256)[:12]}: some token has another id; put back the tokenizer "
            "files that belong to them"
        )


def _without_copies(
    unused: Collection[str], tensors: Tensors, found: Mapping[str, str], copies: Mapping[str, str]
) -> list[str]:
    """Leave buffers and copies of tied tensors out of what is reported as left out.

    Raises: BadData for a copy that differs from what config.json ties it to.
    """
    left_out = []
    for name in sorted(unused):
        copy = next((c for c in copies if find(c, (name,)) == name), None)
        if copy is None:
            left_out += [] if name.endswith(BUFFERS) else [name]
        elif not np.array_equal(tensors.read(name), tensors.read(found[copies[copy]])):
            raise BadData(
                f"{tensors.info[name].file}: {name} differs from {found[copies[copy]]}, and "
                'config.json ties them: set "tie_word_embeddings": false there if the decoder has '
                "its own"
            )
    return left_out


def write_folder(
    path: Path,
    family_name: str,
    model_type: str,
    cfg: Any,
    params: Mapping[str, Any],
    tokenizer_folder: Path,
    *,
    dtype: str = "float32",
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5 << 30,
    head: TaskHead | None = None,
) -> None:
    """Write the encoder as a Hugging Face folder; `config` is the config.json it came with, `head`
    that of a fine-tuned model.

    Entries of `config` that jalign does not own are kept. Raises: ConfigError where the format
    cannot hold the model.
    """
    family = plugin.load("encoders", family_name)
    tokenizer = load_tokenizer(tokenizer_folder)
    entries = hf_config(family, model_type, cfg, tokenizer, dtype, config or {})
    path.mkdir(parents=True, exist_ok=True)
    tensors = _names.to_hf(family.hf_names(cfg, model_type), params)
    if not cfg.tied:  # transformers wants these too, though it computes with the originals
        copies = family.hf_copies(cfg, model_type)
        tensors |= {name: tensors[original] for name, original in copies.items()}
    if head is not None:
        tensors = add_head(tensors, model_type, head)
        entries |= head_entries(model_type, head)
    write_tensors(path, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
    (path / "config.json").write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
    mark = {"format": 1, "tokenizer_sha256": tokenizer.sha256, "family": family_name}
    (path / MARK).write_text(json.dumps(mark, indent=2) + "\n")
    copy_tokenizer_files(tokenizer_folder, path)


def hf_config(
    family: ModuleType,
    model_type: str,
    cfg: Any,
    tokenizer: Tokenizer,
    dtype: str,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the entries of config.json."""
    with_head, bare = family.ARCHITECTURES[model_type]
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    ids |= {"unk": tokenizer.unk_id, "mask": tokenizer.mask_id}
    ids |= {"cls": tokenizer.bos_id, "sep": tokenizer.eos_id}
    owned = family.to_hf_config(cfg, ids)
    owned |= {"model_type": model_type, "architectures": [with_head if cfg.head else bare]}
    dropped = ("torch_dtype", "_name_or_path", "transformers_version", "auto_map")
    kept = {k: v for k, v in config.items() if k not in dropped}
    if "initializer_range" in kept:
        owned.pop("initializer_range")  # how it was initialised, not what it is
    return kept | owned | {"dtype": dtype}


def copy_tokenizer_files(source: Path, target: Path) -> None:
    """Copy the tokenizer's files byte for byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
