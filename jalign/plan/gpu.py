"""Describe GPUs that are not here to their compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jalign.errors import ConfigError

# Bytes of memory that CUDA shows on each, and its bandwidth: the SXM modules.
_MEMORY = {
    "h100": (85_028_110_336, 3_352_320_000_000),
    "h200": (150_754_820_096, 4_814_000_000_000),
}
_NAMES = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
# A process takes this share of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says another.
_SHARE = 0.75
# GH100 as CUDA reports it (compute capability 9.0): limits of blocks, threads, registers, shared
# memory; 132 multiprocessors of 128 units at 1.98 GHz, 50 MiB of L2 cache.
_TARGET = """
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: {dnn[0]} minor: {dnn[1]} patch: {dnn[2]} }}
runtime_version {{ major: 12 minor: {cuda} patch: 0 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
}}
"""


def memory(kind: str) -> int:
    """Return the bytes of a GPU's memory that JAX takes unless it is told otherwise."""
    return int(_SHARE * _MEMORY[kind][0])


def set_flags() -> None:
    """Tell XLA where CUDA's assembler and libraries lie, before JAX starts.

    Without autotuning: there is no GPU to time on.
    """
    folder = _cuda_folder()
    flags = ["--xla_gpu_autotune_level=0"]
    if folder:
        flags.append(f"--xla_gpu_cuda_data_dir={folder}")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def _cuda_folder() -> Path | None:
    """Return the folder of ptxas and libdevice that the package nvidia-cuda-nvcc-cu12 has."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(p) / "cuda_nvcc" for p in (spec.submodule_search_locations if spec else ())]
    return next((p for p in places if p.is_dir()), None)


def open_devices(kind: str, sizes: tuple[int, ...], slices: int) -> Sequence[jax.Device]:
    """Return the GPUs of nodes that are not here. Raises: ConfigError that says what to install."""
    del slices
    if importlib.util.find_spec("jax_cuda12_plugin") is None or _cuda_folder() is None:
        raise ConfigError(
            "compiling for GPUs needs JAX's CUDA plugin and CUDA's own compiler, which are not "
            "installed: pip install 'jax[cuda12]' (no GPU is needed)"
        )
    from jax.experimental import topologies

    per_node, nodes = sizes
    memory_size, bandwidth = _MEMORY[kind]
    target = _TARGET.format(
        name=_NAMES[kind], dnn=_version("nvidia-cudnn-cu12", (9, 8, 0)),
        cuda=_version("nvidia-cuda-nvcc-cu12", (12, 6, 0))[1], bandwidth=bandwidth,
        memory=memory_size,
    )  # fmt: skip
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=target,
            topology=f"{nodes}x1x{per_node}",
        ).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the CUDA compiler refuses {kind}:{per_node}x{nodes} ({str(error).splitlines()[0]})"
        ) from error


def _version(package: str, default: tuple[int, int, int]) -> tuple[int, ...]:
    try:
        parts: Any = importlib.metadata.version(package).split(".")[:3]
    except importlib.metadata.PackageNotFoundError:
        return default
    return tuple(int(p) for p in parts)
