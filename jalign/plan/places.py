"""Say where the members of a collective's group lie: how many on one island, on how many islands,
and along which axes of its torus.

An island is a slice of TPUs or a node of GPUs: fast links join its chips, a slower network joins
the islands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from jalign.plan.topology import CHIPS, parse_topology
from jalign.train import mesh as mesh_lib


@dataclass(frozen=True)
class Spread:
    """Where a group's members lie. `members`: of one island; `islands`: how many; `axes`: those of
    the torus along which the members of one island differ (GPUs: 0, their switch).
    """

    members: int
    islands: int
    axes: frozenset[int]


@dataclass(frozen=True)
class Places:
    """Where the chips of a mesh lie, in the mesh's order. `mesh`: sizes by axis; `island`: its
    number; `coordinates`: on its torus, one row a chip.
    """

    mesh: Mapping[str, int]
    island: np.ndarray
    coordinates: np.ndarray

    def spread(self, axes: Sequence[str]) -> Spread:
        """Return the spread of the groups that differ along mesh axes.

        Where the groups are not alike: the most members of an island, the fewest islands of those
        groups that have several, so that the bytes that follow are never too many.
        """
        parts = [self._by_island(group) for group in self._groups(axes)]
        differ = [
            self.coordinates[chips] != self.coordinates[chips[0]]
            for group in parts
            for chips in group
        ]
        return Spread(
            max(len(chips) for group in parts for chips in group),
            min((len(group) for group in parts if len(group) > 1), default=1),
            frozenset(np.flatnonzero(np.concatenate(differ).any(axis=0)).tolist()),
        )

    def _groups(self, axes: Sequence[str]) -> np.ndarray:
        """Return the groups of chips that differ along mesh axes alone, one a row."""
        numbers = np.arange(len(self.island)).reshape(tuple(self.mesh.values()))
        varying = [list(self.mesh).index(name) for name in axes]
        last = range(numbers.ndim - len(varying), numbers.ndim)
        size = math.prod(self.mesh[name] for name in axes)
        return np.moveaxis(numbers, varying, last).reshape(-1, size)

    def _by_island(self, group: np.ndarray) -> list[np.ndarray]:
        islands = self.island[group]
        return [group[islands == island] for island in np.unique(islands)]


def places_of(mesh: Mapping[str, int], devices: Sequence[Any], island: int) -> Places:
    """Return the places of a mesh's devices, given in its order; `island` neighbours form one."""
    numbers = np.arange(len(devices))
    if devices[0].platform == "tpu":
        coordinates = np.array([device.coords for device in devices])
    else:  # each reaches each through one switch
        coordinates = (numbers % island)[:, None]
    return Places(dict(mesh), numbers // island, coordinates)


def imagined_places(topology: str, slices: int, mesh: Mapping[str, int]) -> Places:
    """Return the places of a mesh on a named topology, without asking its compiler.

    For plans that are stored. Raises: ConfigError as `parse_topology` and `make_mesh` do.
    """
    kind, sizes = parse_topology(topology)
    if CHIPS[kind].platform != "tpu":
        return places_of(mesh, [_Device()] * math.prod(sizes), sizes[0])
    devices = [
        _Device("tpu", _KINDS.get(kind, ""), (x, y, z), number)
        for number in range(slices)
        for z, y, x in product(*(range(n) for n in reversed((*sizes, 1)[:3])))
    ]
    arranged = mesh_lib.arrange(devices, tuple(mesh.values()))
    return places_of(mesh, arranged.ravel(), math.prod(sizes))


# Names by which JAX lays a mesh out in its own way on small slices.
_KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


@dataclass(frozen=True)
class _Device:
    """What JAX asks of a device to lay out a mesh."""

    platform: str = "gpu"
    device_kind: str = ""
    coords: tuple[int, ...] = ()
    slice_index: int = 0
    core_on_chip: int = 0
