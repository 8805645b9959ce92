"""Check the header of a safetensors file, every byte of it, before anything is allocated.

In: an open file. Out: where each tensor lies. The rules are those of the reference
(huggingface/safetensors, `Metadata::validate`): tensors cover the data without gap or overlap.
Stricter: no name twice, smaller headers.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from jalign.errors import BadData, ConfigError
from jalign.hf.json_files import AGAIN, is_lfs_pointer, lfs_message, parse_object, quote

# The reference allows 100 MB. An encoder of 1,000 layers needs 2 MB; one emoji makes Python hold a
# text, and each of its parts, at four bytes per character.
MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 20_000
MAX_DIMS = 32
# Every dtype read, and in this order the reference writes tensors (widest first: all are aligned).
DTYPES = {
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_QUANTIZED = ("F8_", "F6_", "F4")


class TensorInfo(NamedTuple):
    """A tensor of a file: `dtype` as safetensors names it, `begin` and `end` in bytes of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


def read_header(file: BinaryIO, path: Path) -> list[TensorInfo]:
    """Read the tensors of an open file, in the order of their bytes; they cover it to its end.

    Raises: BadData for a broken file, ConfigError for a pickle or a quantised model.
    """
    size = os.fstat(file.fileno()).st_size
    header, start = _read_header(file, path, size)
    return _check_header(header, path, start, size)


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return the parsed header, and where the data begins."""
    head = file.read(8)
    if is_lfs_pointer(head):
        raise BadData(lfs_message(str(path)))
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER_BYTES:
        if head.startswith((b"PK\3\4", b"\x80")):  # a zip, or a pickle of protocol 2 and later
            raise ConfigError(
                f"{path} is a pickle with the name of a safetensors file; jalign never opens "
                f"pickles: do not use it, or {AGAIN}."
            )
        raise BadData(
            f"{path} announces a header of {length:,} bytes, and {MAX_HEADER_BYTES:,} are plenty: "
            f"it is no safetensors file or a broken one, {AGAIN}."
        )
    if length > size - 8:
        raise BadData(
            f"{path} is cut short: it has {size:,} bytes and not even a whole header; finish the "
            f"download, or {AGAIN}."
        )
    return parse_object(file.read(length), f"the header of {path}"), 8 + length


def _check_header(header: dict[str, Any], path: Path, start: int, size: int) -> list[TensorInfo]:
    """Turn a header into tensors that lie in the file, one after the other."""
    metadata = header.pop("__metadata__", None)  # null stands for none, as in the reference
    if not isinstance(metadata, dict | None) or any(
        not isinstance(value, str) for value in (metadata or {}).values()
    ):
        raise _broken(path, "its metadata is not an object of strings")
    if len(header) > MAX_TENSORS:
        raise _broken(path, f"it holds {len(header):,} tensors, over {MAX_TENSORS:,}")
    tensors = [_check_entry(name, entry, path, start) for name, entry in header.items()]
    tensors.sort(key=lambda info: (info.begin, info.end))
    reached = start
    for info in tensors:
        if info.begin != reached:
            fault = "overlaps the one before" if info.begin < reached else "follows a gap"
            raise _broken(path, f"tensor {quote(info.name)} {fault}")
        reached = info.end
    if reached > size:
        raise BadData(
            f"{path} is cut short: its tensors end at byte {reached:,} and the file at {size:,}; "
            f"finish the download, or {AGAIN}."
        )
    if reached < size:
        raise _broken(path, f"its tensors end at byte {reached:,} and the file at {size:,}")
    return tensors


def _check_entry(name: str, entry: Any, path: Path, start: int) -> TensorInfo:
    """Check dtype, shape and length of a tensor; whole numbers in Python cannot overflow."""
    shown = f"tensor {quote(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _broken(path, f"{shown} lacks one of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype.startswith(_QUANTIZED):
        raise ConfigError(
            f"{path}: {shown} has dtype {quote(dtype)}: quantised models cannot be read, take the "
            "original."
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(path, f"{shown} has dtype {quote(dtype)}, none of {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMS:
        raise _broken(path, f"the shape of {shown} is {quote(shape)}, not a few whole numbers >= 0")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"the offsets of {shown} are {quote(offsets)}, not two numbers >= 0")
    # Zeros count as ones: NumPy refuses shapes such as [2^40, 2^40, 0], and so does the reference.
    if math.prod(max(n, 1) for n in shape) * DTYPES[dtype].itemsize >= 1 << 62:
        raise _broken(path, f"the shape of {shown} is {quote(shape)}, too large for any machine")
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise _broken(
            path,
            f"{shown} needs {num_bytes:,} bytes for {dtype} {shape}, "
            f"its offsets {quote(offsets)} span {offsets[1] - offsets[0]:,}",
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + offsets[0], start + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in values)


def _broken(path: Path, what: str) -> BadData:
    return BadData(f"{path} is broken: {what}; {AGAIN}, or save the model again.")
