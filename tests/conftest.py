"""Set JAX up for tests before anything imports it: CPU, 8 simulated devices, a compile cache."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
XLA_FLAGS = {
    "xla_force_host_platform_device_count": 8,
    # Most of the tests' time is LLVM's: without its optimisations programs compile in half of it.
    "xla_backend_optimization_level": 0,
}


def cache_folder() -> Path:
    """Return a folder for compiled programs, one per kind of processor: foreign code may crash."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    name = hashlib.sha256((platform.machine() + flags).encode()).hexdigest()[:12]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jalign" / f"jax-{name}"


def set_up_jax() -> None:
    """Set the environment that JAX reads when it is imported; values given from outside win."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in XLA_FLAGS.items():
        if name not in flags:
            flags += f" --{name}={value}"
    os.environ["XLA_FLAGS"] = flags.strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may load anything from a hub


set_up_jax()
# The same cases at every run, and no test fails for being slow on a busy machine.
hypothesis.settings.register_profile("jalign", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jalign")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real corpora that lies beside a developer's checkout, or skip."""
    places = [
        os.environ.get("JALIGN_SHARED_DATA"),
        ROOT.parent / "shared/data",
        ROOT / "shared/data",
    ]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip(
        "no real corpora here: put them in ../shared/data or name them: JALIGN_SHARED_DATA=DIR"
    )
