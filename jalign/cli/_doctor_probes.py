"""What `jalign doctor` looks at on one machine: versions, memory, the workdir, the devices."""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from jalign.train.lock import lock_state

PACKAGES = (
    "jalign",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "transformers",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)
OPTIONAL = {"jalign", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"}
# Device files of accelerators, which are there whether or not JAX can use them.
DEVICE_FILES = {"GPU": "/dev/nvidia[0-9]*", "TPU": "/dev/accel[0-9]*"}
WATCHED = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "CUDA_VISIBLE_DEVICES",
    "JAX_LOCAL_DEVICE_IDS",
    "GLIBC_TUNABLES",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def probe_machine(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Describe this process and its machine; starts no device."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(psutil.Process().cpu_affinity())
        if sys.platform == "linux"
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "libc": platform.libc_ver()[0],
        "huge_pages": _huge_pages(),
        "device_files": {n: len(glob.glob(p)) for n, p in DEVICE_FILES.items() if glob.glob(p)},
        "environment": {name: environ[name] for name in WATCHED if name in environ},
        # names only: the address of a proxy may hold a password
        "proxies": sorted({n.lower() for n in environ if n.lower() in PROXIES}),
        "no_proxy": environ.get("no_proxy") or environ.get("NO_PROXY") or "",
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _huge_pages() -> str:
    """Return the kernel's setting for transparent huge pages: always, madvise, never or unknown."""
    try:
        words = HUGE_PAGES.read_text().split()
    except OSError:
        return "unknown"
    return next((w.strip("[]") for w in words if w.startswith("[")), "unknown")


def probe_workdir(workdir: Path, write_mib: int) -> dict[str, Any]:
    """Describe a workdir's disk: room, write speed and lock; a folder that is not there yet is
    judged by the nearest one above it, and not made.
    """
    path = workdir.expanduser().absolute()
    base = next(p for p in (path, *path.parents) if p.exists())
    found: dict[str, Any] = {"path": str(path), "base": str(base), "exists": path.exists()}
    if not base.is_dir():
        return found | {"fault": f"{base} is no folder"}
    found["free_gib"] = round(shutil.disk_usage(base).free / 2**30, 2)
    found["free_files"] = os.statvfs(base).f_favail
    try:
        found["lock"] = lock_state(path)
        found["write_mib_s"] = round(_write_speed(base, write_mib), 1)
    except OSError as error:
        found["fault"] = f"{error.strerror} in {base}"
        found["full"] = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return found


def _write_speed(folder: Path, mib: int) -> float:
    """Write, sync and remove a file; return MiB per second."""
    path = folder / f".jalign-doctor-{socket.gethostname()}-{os.getpid()}"
    block = os.urandom(2**20)  # compressing file systems would flatter zeros
    try:
        with open(path, "wb", buffering=0) as file:
            begin = time.perf_counter()
            for _ in range(mib):
                file.write(block)
            os.fsync(file.fileno())
            return mib / (time.perf_counter() - begin)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def marker(base: Path | None, token: str):
    """Leave a file in a folder for the others to find, while inside."""
    path = base / f".jalign-doctor-{token}" if base else None
    try:
        if path:
            path.touch()
        yield
    finally:
        if path:
            path.unlink(missing_ok=True)


def sees_marker(base: str, token: str) -> bool:
    """Tell whether the file that another process left is here too."""
    return (Path(base) / f".jalign-doctor-{token}").exists()


def probe_devices() -> dict[str, Any]:
    """Start JAX's devices, add something up over all of them together, and describe them."""
    begin = time.perf_counter()
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    local, num = jax.local_devices(), jax.device_count()
    found = {
        "platform": local[0].platform,
        "kind": local[0].device_kind,
        "local": len(local),
        "all": num,
        "processes": jax.process_count(),
        "start_s": round(time.perf_counter() - begin, 2),
    }
    if stats := local[0].memory_stats():
        found["memory_gib"] = round(stats.get("bytes_limit", 0) / 2**30, 1)
    begin = time.perf_counter()
    mesh = jax.make_mesh((num,), ("all",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(x)) for x in ("all", None))
    numbers = np.arange(num, dtype=np.int32)
    parts = jax.make_array_from_callback((num,), split, lambda index: numbers[index])
    total = int(jax.jit(lambda x: jnp.sum(x, keepdims=True), out_shardings=whole)(parts)[0])
    found["sum_s"] = round(time.perf_counter() - begin, 2)
    found["sum_right"] = total == num * (num - 1) // 2
    return found
