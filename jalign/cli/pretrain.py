"""Pre-train an encoder from a config into a workdir; resumes by itself.

In: a prepared dataset and a config. Out: `--workdir` with checkpoints, metrics.jsonl,
results.jsonl, TensorBoard files. Run the same command again after any interruption.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from jalign.cli._flags import read_config
from jalign.cli._runs import parse_run, set_up_jax, train_in


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    parse_run(fv, "pretrain", argv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.train.run_config import RunConfig

    run_config = read_config(fv, RunConfig)
    set_up_jax(fv.distributed)
    return train_in(Path(fv.workdir), run_config, fv.skip_batches)
