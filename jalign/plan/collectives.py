"""List what the chips of a compiled program say to each other: operation, mesh axes, bytes.

In: the program and the mesh that it was compiled for. Out: collectives, summed up by operation,
axes and what they are for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jalign.plan.hlo import Instruction, Program

OPERATIONS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip

_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, ?device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind in a step. `axes`: the mesh axes that they span; `group`: chips that
    take part in one; `leaves`: they leave the slice of TPUs, or the node of GPUs; `count`: how
    many run; `payload`: bytes of all, the full array of each; `wire`: bytes that a chip sends, in
    one ring of the whole group; `largest`: payload of the largest.
    """

    operation: str
    axes: tuple[str, ...]
    group: int
    leaves: bool
    count: int
    payload: int
    wire: float
    largest: int
    example: str


def list_collectives(
    program: Program, mesh: Mapping[str, int], island: int = 0
) -> list[Collective]:
    """Return the collectives of one run of the program, those with most bytes on the wire first.

    `mesh`: sizes by axis, in order; the program's devices are numbered through it. `island`: how
    many neighbours in this order form a slice, or a node (0: all).
    """
    found: dict[tuple, list] = {}
    for instruction, computation, times, _ in program.walk():
        operation = instruction.opcode.removesuffix("-start")
        if operation == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            operation = "reduce-scatter"  # as the TPU compiler writes it: a fusion with a slice
        if operation not in OPERATIONS or (instruction.is_chained and not computation.starts_chain):
            continue
        groups = _groups(instruction, math.prod(mesh.values()))
        axes, group = _axes(groups, mesh), groups.shape[1]
        if group < 2:
            continue
        payload = _payload(instruction, operation, group)
        islands = groups // (island or math.prod(mesh.values()))
        leaves = bool((islands != islands[:, :1]).any())
        found.setdefault((operation, axes, group, leaves), []).append((times, payload, instruction))
    collectives = [
        Collective(
            *key,
            sum(times for times, *_ in uses),
            sum(times * payload for times, payload, _ in uses),
            sum(times * _wire(key[0], key[2], payload) for times, payload, _ in uses),
            max(payload for _, payload, _ in uses),
            max(uses, key=lambda use: use[0] * use[1])[2].op_name,
        )
        for key, uses in found.items()
    ]
    return sorted(collectives, key=lambda c: -c.wire)


def _payload(instruction: Instruction, operation: str, group: int) -> int:
    """Return the bytes of the whole array that is gathered, summed up or moved."""
    shapes = instruction.shapes
    if instruction.opcode.endswith("-start") and len(shapes) > 1:
        # (operands, results, …): the results are as many as the operands
        num = len(instruction.operands)
        shapes = shapes[num : 2 * num] if operation != "all-reduce" else shapes[:num]
    size = sum(shape.bytes for shape in shapes)
    return size * group if instruction.opcode.startswith("reduce-scatter") else size


def _wire(operation: str, group: int, payload: int) -> float:
    share = (group - 1) / group
    match operation:
        case "all-reduce":
            return 2 * share * payload
        case "collective-permute" | "collective-broadcast":
            return float(payload)
    return share * payload


def _groups(instruction: Instruction, num: int) -> np.ndarray:
    """Return the groups of devices, one a row."""
    if instruction.opcode.startswith("collective-permute"):
        text = instruction.attribute("source_target_pairs")
        return _matrix(text)
    named = _NAMED.search(instruction.rest)
    if named:
        return _named_groups(*named.groups())
    text = instruction.attribute("replica_groups")
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        shape = tuple(map(int, iota[1].split(",")))
        return _iota(iota[2], iota[3]).reshape(shape)
    return _matrix(text) if re.search(r"\d", text) else np.arange(num)[None]


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Number an array of `sizes`, its axes then in another order."""
    shape = tuple(map(int, sizes.split(",")))
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(tuple(map(int, order.split(",")))) if order else numbers


def _named_groups(sizes: str, ids: str | None, order: str | None, axes: str) -> np.ndarray:
    """Read `mesh['a'=4,'b'=4], device_ids=([4,4]T(1,0)) {'b'}`: groups that differ in b alone; an
    axis `'a':(2)2` is a part of a: of size 2, with 2 parts before it.
    """
    names = dict(re.findall(r"'([^']+)'=(\d+)", sizes))
    numbers = (_iota(ids, order) if ids else np.arange(math.prod(map(int, names.values())))).ravel()
    shape: list[int] = []
    varying: list[int] = []
    parts = {
        name: (int(before or 1), int(size or names[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    }
    for name, size in names.items():
        before, inside = parts.get(name, (1, 1))
        shape += [before, inside, int(size) // (before * inside)]
        varying += [len(shape) - 2] if name in parts else []
    fixed = [axis for axis in range(len(shape)) if axis not in varying]
    group = math.prod(shape[axis] for axis in varying)
    return numbers.reshape(shape).transpose(fixed + varying).reshape(-1, group)


def _matrix(text: str) -> np.ndarray:
    rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,\s]+)\}", text)]
    return np.array(rows)


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the axes along which the members of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())), axis=-1)
    differ = (places != places[:, :1]).any(axis=(0, 1))
    return tuple(name for name, varies in zip(mesh, differ, strict=True) if varies)
