"""Read and write the tensors of a model as safetensors; no other format is read (`pickles.py`).

In: a folder with model.safetensors, or with an index and its shards. Out: tensors by name, memory
mapped; and back.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jalign.errors import BadData, ConfigError, UserError
from jalign.hf.header import DTYPES, MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo, read_header
from jalign.hf.json_files import AGAIN, open_regular, quote, read_json
from jalign.hf.pickles import no_safetensors
from jalign.plugin import did_you_mean

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 4_000_000
MAX_SHARDS = 200  # each keeps a file open; 1,024 is a usual limit
FLOATS = ("F64", "F32", "BF16", "F16")
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_RANK = {code: rank for rank, code in enumerate(DTYPES)}
_WRITTEN = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_OURS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|\.model-\d{5}\.tmp"
)


class Tensors:
    """The tensors of a folder, checked; nothing is read until `read` asks for it."""

    def __init__(
        self, folder: Path, info: Mapping[str, TensorInfo], maps: Mapping[Path, mmap.mmap]
    ) -> None:
        """Hold what `open_tensors` found."""
        self.folder, self.info, self._maps = folder, MappingProxyType(dict(info)), dict(maps)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names in the order of the files."""
        return tuple(self.info)

    def __contains__(self, name: object) -> bool:
        return name in self.info

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as float32, every value exactly that of the file; read-only.

        float32 is a view of the file, so that only what is used is read from disk.
        Raises: BadData if there is none of this name; ConfigError for integers, and for float64
        that float32 cannot hold.
        """
        raw = self.read_raw(name)
        if self.info[name].dtype not in FLOATS:
            raise ConfigError(
                f"{self.info[name].file}: tensor {quote(name)} is {self.info[name].dtype}, and a "
                "weight must be floating point: quantised models cannot be read, take the original."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array = raw.astype(np.float32, copy=False)
        if raw.dtype == np.float64 and not np.array_equal(array, raw, equal_nan=True):
            raise ConfigError(
                f"{self.info[name].file}: float32 cannot hold tensor {quote(name)} (F64) without "
                "rounding: save the model as float32 first (in PyTorch: model.float())."
            )
        array.flags.writeable = False
        return array

    def read_raw(self, name: str) -> np.ndarray:
        """Return a tensor in the dtype of the file (BF16 as ml_dtypes.bfloat16); read-only.

        Raises: BadData if there is none of this name.
        """
        if name not in self.info:
            hint = did_you_mean(name, list(self.info))
            raise BadData(f"{self.folder} has no tensor {quote(name)}.{hint}")
        info = self.info[name]
        array = np.ndarray(info.shape, DTYPES[info.dtype], self._maps[info.file], info.begin)
        if not array.flags.aligned:  # headers of other writers have any length; C code may mind
            array = array.copy()
            array.flags.writeable = False
        return array


def open_tensors(folder: Path | str) -> Tensors:
    """Open and check the safetensors of a folder: model.safetensors, or the index and its shards.

    Like transformers, takes the single file where there are both.
    Raises: ConfigError for a folder without safetensors, BadData for broken files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder here: name the folder of a model on this machine "
            "('hf download NAME --local-dir FOLDER' fetches one)."
        )
    if os.path.lexists(folder / SINGLE):
        info, mapped = _open_file(folder / SINGLE)
        return Tensors(folder, info, {folder / SINGLE: mapped})
    if not os.path.lexists(folder / INDEX):
        raise no_safetensors(folder)
    weight_map = _read_index(folder / INDEX)
    info, maps = {}, {}
    for shard in sorted(set(weight_map.values())):
        if not os.path.lexists(folder / shard):
            raise BadData(
                f"{folder / INDEX} names the shard {quote(shard)}, which is not there: finish the "
                "download, or export the model again."
            )
        found, maps[folder / shard] = _open_file(folder / shard)
        _check_shard(folder / shard, found, weight_map)
        info |= found
    return Tensors(folder, info, maps)


def _read_index(path: Path) -> dict[str, str]:
    """Read which shard holds each tensor; a shard is a file name, never a path."""
    weight_map = read_json(path, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadData(f"{path} has no 'weight_map' of tensor names to files: {AGAIN}.")
    if len(weight_map) > MAX_TENSORS:
        raise BadData(f"{path} names {len(weight_map):,} tensors, over {MAX_TENSORS:,}: {AGAIN}.")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", shard):
            raise BadData(
                f"{path} puts tensor {quote(name)} into {quote(shard)}; need the plain name of a "
                f".safetensors file in the same folder: do not use this folder, or {AGAIN}."
            )
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise BadData(f"{path} names more than {MAX_SHARDS} shards: save the model in larger ones.")
    return weight_map


def _check_shard(
    path: Path, found: Mapping[str, TensorInfo], weight_map: Mapping[str, str]
) -> None:
    """Check that a shard holds exactly the tensors that the index puts there."""
    meant = {name for name, shard in weight_map.items() if shard == path.name}
    for name in [*sorted(meant - found.keys()), *sorted(found.keys() - meant)]:
        says = f"is in {quote(weight_map[name])}" if name in weight_map else "does not exist"
        does = "and it is not there" if name in meant else f"and {path.name} holds it"
        raise BadData(
            f"{path}: the index says that tensor {quote(name)} {says}, {does}: index and shards "
            f"are not of one model, {AGAIN}."
        )


def _open_file(path: Path) -> tuple[dict[str, TensorInfo], mmap.mmap]:
    """Check a file's header and map the file."""
    with open_regular(path) as file:
        tensors = read_header(file, path)
        # Mapped from the descriptor that was checked: the name may mean another file by now.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {info.name: info for info in tensors}, mapped


def write_tensors(
    folder: Path | str,
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"}),
) -> list[Path]:
    """Write tensors into a folder, in place of those there: one file, or shards and an index.

    Equal input gives equal bytes. Floating point becomes `dtype`, rounded to nearest even; integers
    stay. The arrays of an iterator are held one shard at a time. All files are complete before the
    first is renamed, and at no moment do old and new make up a model together.
    Raises: ConfigError for another dtype, or values that it cannot hold; UserError if the folder
    cannot be written.
    """
    if dtype not in _WRITTEN:
        raise ConfigError(f"dtype={dtype!r}: tensors are written as {', '.join(_WRITTEN)}.")
    folder = Path(folder)
    temporary: list[Path] = []
    shard_of: dict[str, int] = {}
    total = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shard in _shards(tensors, DTYPES[_WRITTEN[dtype]], max_shard_bytes):
            shard_of |= dict.fromkeys(shard, len(temporary))
            temporary.append(folder / f".model-{len(temporary) + 1:05d}.tmp")
            total += _write_file(temporary[-1], shard, DTYPES[_WRITTEN[dtype]], metadata)
        return _publish(folder, temporary, shard_of, total)
    except OSError as error:
        raise UserError(
            f"cannot write the tensors to {folder}: {error.strerror}; free space, or name another "
            "folder."
        ) from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _shards(
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    target: np.dtype,
    max_bytes: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the tensors in groups of at most `max_bytes`; a larger tensor is a group of its own."""
    seen: set[str] = {"__metadata__"}
    shard: dict[str, np.ndarray] = {}
    filled = 0
    for name, array in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name in seen:
            raise ValueError(f"tensor {name!r} comes twice, or has a name that is taken")
        seen.add(name)
        array = np.asarray(array)
        num_bytes = array.size * _stored_dtype(name, array, target).itemsize
        if shard and filled + num_bytes > max_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = array
        filled += num_bytes
    yield shard


def _stored_dtype(name: str, array: np.ndarray, target: np.dtype) -> np.dtype:
    """Return `target` for floating point, and the array's own dtype for anything else."""
    native = array.dtype.newbyteorder("=")
    if native not in _CODES:
        raise ValueError(f"tensor {name!r} has dtype {array.dtype}: safetensors has none for it")
    return target if _CODES[native] in FLOATS else native


def _write_file(
    path: Path, shard: Mapping[str, np.ndarray], target: np.dtype, metadata: Mapping[str, str]
) -> int:
    """Write one file, byte for byte as the reference does; return the bytes of its tensors."""
    codes = {name: _CODES[_stored_dtype(name, array, target)] for name, array in shard.items()}
    order = sorted(shard, key=lambda name: (_RANK[codes[name]], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + shard[name].size * DTYPES[codes[name]].itemsize
        shape = list(shard[name].shape)
        header[name] = {"dtype": codes[name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES or len(order) > MAX_TENSORS:
        raise ValueError(f"{len(order):,} tensors in a file are more than we would read again")
    path.unlink(missing_ok=True)  # left by a killed run
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            stored = _convert(name, shard[name], DTYPES[codes[name]])
            file.write(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    return end


def _convert(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert to `dtype`; a finite number that would become infinite is an error."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = array.astype(dtype, copy=False)
    if dtype.itemsize < array.dtype.itemsize and (np.isinf(stored) & ~np.isinf(array)).any():
        raise ConfigError(
            f"{dtype} cannot hold the largest numbers of tensor {quote(name)}: write bfloat16 or "
            "float32."
        )
    return stored


def _publish(
    folder: Path, temporary: list[Path], shard_of: Mapping[str, int], total: int
) -> list[Path]:
    """Rename complete files to their names and remove those of an earlier export.

    The old index goes first, the new one comes after its shards, a single file that is left goes
    last: a kill in between leaves the old model, the new one, or a folder that cannot be read.
    """
    count = len(temporary)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    names = [SINGLE] if count == 1 else names
    (folder / INDEX).unlink(missing_ok=True)
    for path, name in zip(temporary, names, strict=True):
        path.replace(folder / name)
    if count > 1:
        weight_map = {name: names[i] for name, i in shard_of.items()}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        temporary.append(folder / ".model-00000.tmp")
        temporary[-1].write_text(text, encoding="utf-8")
        temporary[-1].replace(folder / INDEX)
        names.append(INDEX)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in names:
            path.unlink()
    return [folder / name for name in names]
