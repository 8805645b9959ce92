"""Lay the run out over devices: the mesh, the one table of rules, and who holds which rows.

In: a mesh entry of a config (dcn, data, fsdp, tensor) and logical axis names on parameters. Out:
shardings. Model and loss files never mention devices.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jalign.data.pipeline import Range
from jalign.errors import ConfigError

AXES = ("dcn", "data", "fsdp", "tensor")  # outermost first: dcn crosses the slowest network
BATCH_AXES = ("dcn", "data", "fsdp")

# Logical axis of a parameter or activation -> mesh axis. Scale is this table and the mesh entry of
# the config.
RULES = (
    ("batch", BATCH_AXES),
    ("replica", ("dcn", "data")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("norm", None),
)


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 for `data` takes all that are left.

    `dcn`: slices of TPUs that only the data-centre network connects. Parameters are never sharded
    over it, so that one sum of the gradients per step is all that crosses it.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    dcn: int = 1


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build the mesh over all devices, or over those given.

    Raises: ConfigError where the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    num, rest = len(devices), cfg.dcn * cfg.fsdp * cfg.tensor
    if min(cfg.dcn, cfg.fsdp, cfg.tensor) < 1 or (cfg.data < 1 and cfg.data != -1):
        raise ConfigError(
            f"config.mesh={cfg}: need positive sizes; only data may be -1 (all that are left)"
        )
    shape = (cfg.dcn, cfg.data if cfg.data > 0 else max(1, num // rest), cfg.fsdp, cfg.tensor)
    if math.prod(shape) != num:
        raise ConfigError(
            f"config.mesh asks for dcn x data x fsdp x tensor = {' x '.join(map(str, shape))} = "
            f"{math.prod(shape)} devices, and there are {num}. Set config.mesh.data=-1 and divide "
            f"{num} by dcn x fsdp x tensor."
        )
    return Mesh(arrange(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices: Sequence[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    """Lay devices out so that neighbours on an inner axis are near each other, slice by slice.

    Raises: ConfigError where `dcn` is not the number of slices that there are.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if devices[0].platform != "tpu":  # GPUs report nodes; a dcn axis there takes them in order
        slices = {0: list(devices)}
    if len(slices) > 1 and shape[0] != len(slices):
        raise ConfigError(
            f"config.mesh.dcn={shape[0]}, and the devices are {len(slices)} slices: set "
            f"config.mesh.dcn={len(slices)}"
        )
    inner = shape if len(slices) == 1 else (1, *shape[1:])
    parts = [
        mesh_utils.create_device_mesh(inner, found, allow_split_physical_axes=True)
        for _, found in sorted(slices.items())
    ]
    return np.concatenate(parts)


def num_batch_shards(mesh: Mesh) -> int:
    """Count the shards of the batch axis."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES)


def check_rows(mesh: Mesh, stream: str, rows: int, accumulate: int) -> None:
    """Check that a stream's rows divide into microbatches and shards. Raises: ConfigError."""
    shards = num_batch_shards(mesh)
    if rows % (shards * accumulate):
        raise ConfigError(
            f"config.streams.{stream}.rows={rows} does not divide into {accumulate} microbatches "
            f"on {shards} shards: set it to a multiple of {shards * accumulate}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of every batch field: rows over dcn, data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a copy everywhere."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(boxed, mesh: Mesh):
    """Map the logical axes of (abstract) boxed parameters to shardings; an axis that does not
    divide stays whole.
    """
    return jax.tree.map(
        lambda leaf, spec: NamedSharding(
            mesh,
            PartitionSpec(*(a if divides else None for _, a, divides in _axes(leaf, spec, mesh))),
        ),
        nn.unbox(boxed),
        _specs(boxed),
    )


def undivided(boxed, mesh: Mesh) -> list[str]:
    """Say which sizes of (abstract) boxed parameters do not divide over their mesh axis."""
    found: dict[tuple[int, str], list[str]] = {}
    flat, tree = jax.tree.flatten_with_path(nn.unbox(boxed))
    for (path, leaf), spec in zip(flat, tree.flatten_up_to(_specs(boxed)), strict=True):
        for size, axis, divides in _axes(leaf, spec, mesh):
            if not divides:
                found.setdefault((size, axis), []).append(
                    jax.tree_util.keystr(path, simple=True, separator=".")
                )
    return [
        f"{size:,} does not divide over config.mesh.{axis}={mesh.shape[axis]}: its devices all "
        f"hold the whole of {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for (size, axis), names in found.items()
    ]


def _specs(boxed):
    return nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)


def _axes(leaf, spec: PartitionSpec, mesh: Mesh) -> list[tuple[int, str | None, bool]]:
    """Return of each dimension: its size, the mesh axis that it asks for, whether that divides."""
    names = tuple(spec) + (None,) * (len(leaf.shape) - len(spec))
    return [
        (size, name, name is None or size % mesh.shape[name] == 0)
        for size, name in zip(leaf.shape, names, strict=True)
    ]


def local_rows(
    mesh: Mesh, rows: int, here: Collection[jax.Device] | None = None
) -> tuple[Range, ...]:
    """Return the rows of a batch that this process's devices hold, or the devices `here`: sorted
    ranges with gaps between them.

    Raises: ConfigError where the rows do not divide into the shards of the batch.
    """
    ranges: list[Range] = []
    for (begin, end), _ in _local_shards(mesh, rows, here):
        if ranges and ranges[-1][1] == begin:
            begin = ranges.pop()[0]
        ranges.append((begin, end))
    return tuple(ranges)


def counted_rows(mesh: Mesh, rows: int, here: Collection[jax.Device] | None = None) -> np.ndarray:
    """Return which of `local_rows` this process counts, bool: over all processes, every row of the
    batch once.
    """
    shards = _local_shards(mesh, rows, here)
    return np.concatenate([np.full(end - begin, first) for (begin, end), first in shards])


def _local_shards(
    mesh: Mesh, rows: int, here: Collection[jax.Device] | None
) -> list[tuple[Range, bool]]:
    """Return the held shards in order, each with whether its first copy is held.

    Neighbours in a mesh need not be neighbours in the batch: on v5e:16x16 the four chips of a host
    hold the shards 0, 1, 16 and 17.
    """
    shards = num_batch_shards(mesh)
    if rows % shards:
        raise ConfigError(
            f"a stream of {rows} rows does not divide over {shards} shards of the batch (dcn x "
            f"data x fsdp): set its rows to a multiple of {shards}"
        )
    mine = set(mesh.local_devices if here is None else here)
    mine = mine or set(mesh.devices.flat)  # compiling for devices that are not here
    size = rows // shards
    copies = mesh.devices.reshape(shards, -1)  # the axes of the batch are the outer ones
    return [
        ((n * size, n * size + size), copies[n, 0] in mine)
        for n in range(shards)
        if not mine.isdisjoint(copies[n])
    ]


def put_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, rows: int, local: Sequence[Range] = ()
) -> dict[str, jax.Array]:
    """Put one stream's fields on the devices. This process holds the rows `local` of them, one
    range after the other, or all.
    """
    sharding = batch_sharding(mesh)

    def put(field: np.ndarray) -> jax.Array:
        def part(index):
            lo, hi, _ = index[0].indices(rows)
            at = _position(lo, local or ((0, rows),))
            return field[at : at + hi - lo]

        return jax.make_array_from_callback((rows, *field.shape[1:]), sharding, part)

    return {name: put(field) for name, field in batch.items()}


def _position(row: int, local: Sequence[Range]) -> int:
    """Return where a row lies among the rows `local`."""
    before = 0
    for begin, end in local:
        if begin <= row < end:
            return before + row - begin
        before += end - begin
    raise AssertionError(f"row {row} is not held: {local}")
