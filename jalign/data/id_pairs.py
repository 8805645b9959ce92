"""Keep a dictionary as ids of one tokenizer: what alignment objectives train on, and what alignment
is measured with.

A file holds all pairs, and says of each whether it is for training or held out: objectives and
evaluations that are given the same file agree on that.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jalign.errors import BadData, ConfigError

FORMAT_VERSION = 1
_ARRAYS = {"src_NP": np.int32, "trg_NP": np.int32, "weight_N": np.float32, "train_N": np.bool_}


@dataclass(frozen=True, eq=False)
class IdPairs:
    """Entries as pieces, padded with -1, with weights; `train_N` is false where held out.

    `langs` are (source, target); `tokenizer_sha256` says what the ids mean.
    """

    src_NP: np.ndarray
    trg_NP: np.ndarray
    weight_N: np.ndarray
    train_N: np.ndarray
    langs: tuple[str, str]
    tokenizer_sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weight_N)

    @property
    def is_single_N(self) -> np.ndarray:
        """Tell which entries are one piece on each side. bool [N]."""
        return ((self.src_NP >= 0).sum(1) == 1) & ((self.trg_NP >= 0).sum(1) == 1)

    def take(self, keep_N: np.ndarray) -> IdPairs:
        """Return the entries that a bool or index array chooses."""
        arrays = {name: getattr(self, name)[keep_N] for name in _ARRAYS}
        return replace(self, **arrays)

    def split(self, rate: float, *, seed: int = 0) -> IdPairs:
        """Train on a random share of the source words, with all their entries; hold out the rest.

        Raises: ConfigError for a rate outside (0, 1] or one that leaves nothing.
        """
        if not 0 < rate <= 1:
            raise ConfigError(f"rate={rate}: need more than 0 and at most 1")
        _, word_N = np.unique(self.src_NP, axis=0, return_inverse=True)
        num_words = int(word_N.max()) + 1
        rng = np.random.default_rng(seed)
        chosen = rng.choice(num_words, int(rate * num_words), replace=False)
        if not len(chosen):
            raise ConfigError(f"rate={rate} of {num_words} source words leaves none: raise it")
        return replace(self, train_N=np.isin(word_N.reshape(-1), chosen))


def single_pairs(
    ids_N2: np.ndarray,
    train_N: np.ndarray,
    *,
    langs: tuple[str, str],
    tokenizer_sha256: str,
    details: Mapping[str, Any] | None = None,
) -> IdPairs:
    """Make entries of single pieces with equal weights."""
    ids_N2 = np.asarray(ids_N2, np.int32)
    weight_N, train_N = np.ones(len(ids_N2), np.float32), np.asarray(train_N, bool)
    sides = ids_N2[:, :1], ids_N2[:, 1:]
    return IdPairs(*sides, weight_N, train_N, langs, tokenizer_sha256, dict(details or {}))


def write_id_pairs(path: Path | str, pairs: IdPairs) -> None:
    """Write a file (.npz), whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    header = {
        "version": FORMAT_VERSION,
        "langs": list(pairs.langs),
        "tokenizer_sha256": pairs.tokenizer_sha256,
        "details": dict(pairs.details),
    }
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with partial.open("wb") as file:
        np.savez_compressed(file, header=text, **{name: getattr(pairs, name) for name in _ARRAYS})
    os.replace(partial, path)


def read_id_pairs(path: Path | str, tokenizer_sha256: str) -> IdPairs:
    """Read a file of this tokenizer.

    Raises: ConfigError where it is missing or of another tokenizer; BadData where it is broken.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: write it with 'jalign dictionary', or name the dictionary.npz "
            "of a folder of 'jalign synthetic'"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            arrays = {name: np.asarray(file[name], dtype) for name, dtype in _ARRAYS.items()}
        version, langs, sha256 = (header[n] for n in ("version", "langs", "tokenizer_sha256"))
        pairs = IdPairs(**arrays, langs=tuple(langs), tokenizer_sha256=sha256,
                        details=header["details"])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile,
            zlib.error) as error:  # fmt: skip
        raise BadData(f"{path} is no file of 'jalign dictionary', or damaged: {error!r}") from error
    if version != FORMAT_VERSION:
        raise BadData(f"{path} has version {version}, this jalign reads {FORMAT_VERSION}")
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1 or len(pairs.langs) != 2 or not len(pairs):
        raise BadData(f"{path} is damaged: columns of {sorted(sizes)} entries")
    if sha256 != tokenizer_sha256:
        raise ConfigError(
            f"{path} has ids of tokenizer {sha256[:12]}, and this model's is "
            f"{tokenizer_sha256[:12]}: write it again with that tokenizer"
        )
    return pairs


def read_all(paths: Sequence[str] | str, tokenizer_sha256: str) -> list[IdPairs]:
    """Read one file or several. Raises: as `read_id_pairs`, and ConfigError where none is named."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    if not any(paths):
        raise ConfigError(
            "dictionary is empty: name a file of 'jalign dictionary', or dictionary.npz of a "
            "folder of 'jalign synthetic'"
        )
    return [read_id_pairs(path, tokenizer_sha256) for path in paths]
