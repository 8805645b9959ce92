"""Pre-train an encoder from a config into a workdir; resumes by itself.

In: a prepared dataset and a config. Out: `--workdir` with checkpoints, metrics.jsonl,
results.jsonl, TensorBoard files. Run the same command again after any interruption.
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from jalign.cli._flags import define_config, parse, read_config
from jalign.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    define_config(fv)
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
    parse(fv, "pretrain", argv)
    if not fv.workdir:
        raise ConfigError("--workdir is missing: type --workdir=runs/NAME")
    # Heavy imports wait until the arguments are known to be good.
    import jax

    from jalign.data.records import ManifestError
    from jalign.train.loop import train
    from jalign.train.run import RunConfig, make_run

    run_config = read_config(fv, RunConfig)
    _set_up_jax(jax, fv.distributed)
    try:
        run = make_run(run_config, workdir=Path(fv.workdir))
    except ManifestError as error:
        raise ConfigError(str(error)) from error
    return train(run, Path(fv.workdir))


def _set_up_jax(jax, distributed: bool) -> None:
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
        Path.home() / ".cache" / "jalign" / "compiled"
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    if not distributed:
        return
    env = os.environ
    if "JALIGN_COORDINATOR" in env:
        jax.distributed.initialize(
            env["JALIGN_COORDINATOR"],
            int(env["JALIGN_NUM_PROCESSES"]),
            int(env["JALIGN_PROCESS_ID"]),
        )
    else:
        jax.distributed.initialize()
