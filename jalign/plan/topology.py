"""Name the devices of a machine that is not here, with what its data sheet promises.

`v5e:16x16`, `v5p:4x4x4` and `v6e:8x8` are slices of TPUs by the chips along each axis; `h100:8x2`
and `h200:8x2` are GPUs of a node x nodes. The compiler itself knows these devices; the figures
below serve the estimate of time only.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from packaging.requirements import Requirement

from jalign.errors import ConfigError
from jalign.plan import gpu
from jalign.plugin import did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """What one chip can do, by its data sheet; all rates per second and chip, bytes one way.

    `hbm`: bytes that a program may use. `axis`: over the links of one axis of a torus, both ways
    together (TPU), or to the other GPUs of its node. `outside`: over the network of the data
    centre. `wraps`: from how many chips on an axis are joined to a ring.
    """

    name: str
    platform: str
    flops: float
    hbm: int
    hbm_bandwidth: float
    axis: float
    outside: float
    wraps: int = 1


# Peak in bf16, dense. Sources: Google Cloud's pages of each TPU version (FLOP/s, HBM, interconnect)
# and "How to scale your model" (Austin et al. 2025, part 2: bytes per second and link, and of the
# network per chip); NVIDIA's data sheets of H100 SXM and H200 (NVLink 4: 450 GB/s one way) with one
# 400 Gb/s adapter per GPU, as in their DGX systems. TPU compilers keep a part of the HBM: what
# they said when a program was too large.
CHIPS = {
    "v4": Chip("TPU v4", "tpu", 275e12, 32 * GIB, 1228e9, 90e9, 6.25e9, 4),
    "v5e": Chip("TPU v5e", "tpu", 197e12, int(15.75 * GIB), 819e9, 90e9, 3.125e9, 16),
    "v5p": Chip("TPU v5p", "tpu", 459e12, int(95.74 * GIB), 2765e9, 180e9, 6.25e9, 4),
    "v6e": Chip("TPU v6e", "tpu", 918e12, int(31.25 * GIB), 1640e9, 180e9, 12.5e9, 16),
    "h100": Chip("NVIDIA H100 SXM", "gpu", 989e12, gpu.memory("h100"), 3350e9, 450e9, 50e9),
    "h200": Chip("NVIDIA H200 SXM", "gpu", 989e12, gpu.memory("h200"), 4800e9, 450e9, 50e9),
}


@dataclass(frozen=True)
class Topology:
    """Devices to compile for. `sizes`: chips along each axis, or GPUs of a node and nodes; `notes`:
    what is to be said about their compiler.
    """

    name: str
    chip: Chip
    sizes: tuple[int, ...]
    slices: int
    devices: Sequence[jax.Device]
    notes: Sequence[str] = ()


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Split `v5e:16x16` into ("v5e", (16, 16)). Raises: ConfigError that says what to type."""
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        hint = did_you_mean(kind, list(CHIPS))
        raise ConfigError(
            f"--topology={name}: no chip {kind!r}.{hint} Use {', '.join(CHIPS)}, as in v5e:16x16, "
            "v5p:4x4x4 or h100:8x2"
        )
    axes = {"v5e": 2, "v6e": 2, "v4": 3, "v5p": 3}.get(kind, 2)
    meaning = "chips along each axis" if CHIPS[kind].platform == "tpu" else "GPUs of a node x nodes"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") != axes - 1:
        example = f"{kind}:" + ("4x4x4" if axes == 3 else "8x2" if kind[0] == "h" else "4x4")
        raise ConfigError(f"--topology={name}: need {axes} sizes, {meaning}, such as {example}")
    return kind, tuple(map(int, shape.split("x")))


def open_topology(name: str, slices: int = 1) -> Topology:
    """Ask the compiler of a platform that is not here for its devices.

    Raises: ConfigError for a name that it does not know, and where it is not installed.
    """
    kind, sizes = parse_topology(name)
    chip = CHIPS[kind]
    if slices < 1 or (slices > 1 and chip.platform != "tpu"):
        raise ConfigError(
            f"--slices={slices}: slices are of TPUs, joined by the data centre's network; nodes of "
            "GPUs are the second size of the topology"
        )
    open_devices = _tpu_devices if chip.platform == "tpu" else gpu.open_devices
    devices = open_devices(kind, sizes, slices)
    notes = tpu_compiler_notes() if chip.platform == "tpu" else ()
    return Topology(name, chip, sizes, slices, devices, notes)


def tpu_compiler_notes() -> tuple[str, ...]:
    """Say where the compiler for TPUs is not that of this jax: another one plans other numbers."""
    wanted = [Requirement(line) for line in importlib.metadata.requires("jax") or ()]
    asked = next((r for r in wanted if r.name == "libtpu"), None)
    found = importlib.metadata.version("libtpu")
    if asked is None or asked.specifier.contains(found):
        return ()
    return (f"libtpu {found} is installed, and jax {jax.__version__} asks for {asked.specifier}",)


def axis_rates(chip: Chip, sizes: Sequence[int]) -> tuple[float, ...]:
    """Return the bytes a second and chip over each axis of the torus; for GPUs, of their switch.

    Half where an axis is no ring: the chips at its ends have one link.
    """
    if chip.platform != "tpu":
        return (chip.axis,)
    # Three axes are joined to rings where the slice consists of whole cubes.
    shortest = [min(sizes)] * 3 if len(sizes) == 3 else sizes
    return tuple(chip.axis / (1 if size >= chip.wraps else 2) for size in shortest)


def _tpu_devices(kind: str, sizes: tuple[int, ...], slices: int) -> Sequence[jax.Device]:
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "compiling for TPUs needs their compiler, which is not installed: pip install "
            "'jax[tpu]' (or libtpu of the version that this jax asks for)"
        ) from error
    from jax.experimental import topologies

    # It asks the cloud's metadata service who it is, which off the cloud takes a minute to fail.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    name = f"{kind}:{'x'.join(map(str, sizes))}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--topology={name}: the TPU compiler refuses it ({str(error).splitlines()[0]}). Use "
            "multiples of a host's chips (2x2 for v5e and v6e, 2x2x1 for v5p), or one chip"
        ) from error
