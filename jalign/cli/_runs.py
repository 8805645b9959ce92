"""What the commands that train share: their flags, JAX's set-up, and one run from its config."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.errors import ConfigError, UserError


def parse_run(fv: flags.FlagValues, command: str, argv: list[str]) -> None:
    """Add the flags of a run and parse the arguments. Raises: UserError (exit code 2)."""
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run: made where it is new, resumed where it is not",
        flag_values=fv,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "start JAX's multi-controller runtime (JALIGN_COORDINATOR, "
        "JALIGN_NUM_PROCESSES, JALIGN_PROCESS_ID, or what the scheduler sets)",
        flag_values=fv,
    )
    flags.DEFINE_string(
        "skip_batches",
        "",
        "batches to leave out from now on, such as 1200-1250,1300: those that diverged.json or a "
        "look at the log calls bad; the workdir remembers them",
        flag_values=fv,
    )
    parse(fv, command, argv, config=True)
    if not fv.workdir:
        raise ConfigError("--workdir is missing: type --workdir=runs/NAME")


def set_up_jax(distributed: bool = False) -> None:
    """Keep compiled programs between runs; start the runtime of several processes."""
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
        Path.home() / ".cache" / "jalign" / "compiled"
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    if distributed:
        from jalign.train.processes import find_place, start

        start(find_place())
        if jax.process_count() > 1 and jax.default_backend() == "cpu":
            # Process 0 would find its programs there; the others, whose keys differ, compile.
            # On CPUs, loaded and compiled programs differ in the order of their collectives.
            jax.config.update("jax_enable_compilation_cache", False)


def train_in(workdir: Path, cfg: Any, skip_batches: str = "") -> int:
    """Train the run that a `RunConfig` describes; return the exit code."""
    began = time.time()
    import jax

    from jalign.data.records import DamagedColumns, ManifestError
    from jalign.train.lock import WorkdirLock
    from jalign.train.loop import train
    from jalign.train.run import make_run
    from jalign.train.skipped import parse_ranges

    ranges = parse_ranges(skip_batches)
    if Path(cfg.data).is_file():
        raise ConfigError(
            f"config.data={cfg.data} is a file; need a folder that jalign prepare made: type "
            "jalign prepare --corpus=FORMAT,... --output=DIR, and then --config.data=DIR"
        )
    with _telling_of_memory():
        try:
            run = make_run(cfg, workdir=workdir)
        except DamagedColumns:
            raise
        except ManifestError as error:  # config.data names no prepared folder
            raise ConfigError(str(error)) from error
        with WorkdirLock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
            return train(run, workdir, skip_batches=ranges, began=began)


@contextlib.contextmanager
def _telling_of_memory() -> Iterator[None]:
    """Turn a device's lack of memory into an error of the user: a restart would meet it again.

    Of several processes, one that alone lacks it ends with exit code 2, and the others by the loss
    of it.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # A CPU that computes in the background says INTERNAL: … Out of memory allocating ….
        if not re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE):
            raise
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the run does not fit into the memory of its devices. {first[:300]}\nType "
            "--config.accumulate=N to compute a step in N parts, a smaller --config.streams.NAME."
            "rows or row_length, or --config=FILE.py:small for a small model where the config has "
            "one. 'jalign plan' says what fits on TPUs and GPUs."
        ) from error
