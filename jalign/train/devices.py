"""Say what the machine can do: peak FLOP/s for MFU, memory in use."""

from __future__ import annotations

import time

import jax
import numpy as np
import psutil

# bf16 dense peak of one device, from the vendors' data sheets, by the start of `device_kind`.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def peak_flops() -> tuple[float, str]:
    """Return the peak FLOP/s of all devices and where the number comes from; 0 where it is not
    known.

    A CPU's peak is its own float32 matrix product, measured here in a tenth of a second: simulated
    devices share it.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return (
            _sgemm_rate() * jax.process_count(),
            "this CPU's float32 matrix product, measured at start",
        )
    for kind, peak in PEAK_FLOPS.items():
        if device.device_kind.startswith(kind):
            return peak * jax.device_count(), f"{jax.device_count()} x {kind}, bf16 data sheet"
    return 0.0, f"unknown device {device.device_kind!r}"


def _sgemm_rate(size: int = 1024, rounds: int = 5) -> float:
    a = np.ones((size, size), np.float32)
    a @ a
    best = min(_seconds(lambda: a @ a) for _ in range(rounds))
    return 2 * size**3 / best


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memory_mib() -> float:
    """Return the memory in use, in MiB: peak of the fullest local device, or of this process on a
    CPU.
    """
    stats = [d.memory_stats() for d in jax.local_devices()]
    used = [s.get("peak_bytes_in_use", s.get("bytes_in_use", 0)) for s in stats if s]
    return (max(used) if used else psutil.Process().memory_info().rss) / 2**20
