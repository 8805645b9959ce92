"""Fine-tune an encoder on labelled files, with one or several seeds; resumes by itself.

In: a config whose `init` names the encoder and whose streams name the labelled files. Out:
`--workdir` as of `jalign pretrain`, with `--seeds` one for each seed below it (seed0, seed1, …),
then results.jsonl with means and a table on standard output. Run the same command again after any
interruption: what is finished is not done again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import read_config
from jalign.cli._runs import parse_run, set_up_jax, train_in
from jalign.cli._scores import final_lines, gather, table
from jalign.errors import ConfigError, Diverged


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    flags.DEFINE_list(
        "seeds", [], "a run for each, such as 0,1,2 (config.seed alone)", flag_values=fv
    )
    parse_run(fv, "finetune", argv)
    seeds = read_seeds(fv.seeds)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.train.run_config import RunConfig

    cfg, workdir = read_config(fv, RunConfig), Path(fv.workdir)
    if not cfg.labelled:
        raise ConfigError(
            "no stream of this config has labelled files: set config.streams.task.task.files, or "
            "type jalign pretrain"
        )
    if seeds and (workdir / "checkpoints").is_dir():
        raise ConfigError(
            f"{workdir} holds a run of its own: name another --workdir for --seeds, or type the "
            "command without --seeds to go on with that run"
        )
    set_up_jax(fv.distributed)
    places = {seed: workdir / f"seed{seed}" for seed in seeds} or {cfg.seed: workdir}
    for seed, place in places.items():
        code = _train_seed(dataclasses.replace(cfg, seed=seed), place, fv.skip_batches)
        if code:
            return code
    best = cfg.evaluate.best
    scores = gather({seed: final_lines(place, best) for seed, place in places.items()})
    if _is_first():
        if seeds:
            _write(workdir / "results.jsonl", scores)
        sys.stdout.write(table(scores) + "\n" + _legend(places, scores))
    return 0


def read_seeds(given: list[str]) -> list[int]:
    """Read `--seeds`. Raises: ConfigError."""
    if not all(seed.isdigit() for seed in given):
        raise ConfigError(f"--seeds={','.join(given)}: need numbers, such as --seeds=0,1,2")
    seeds = [int(seed) for seed in given]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(given)}: a seed stands there twice")
    return seeds


def _train_seed(cfg: Any, workdir: Path, skip_batches: str) -> int:
    try:
        return train_in(workdir, cfg, skip_batches)
    except Diverged as error:
        raise Diverged(f"seed {cfg.seed} in {workdir}: {error}") from error


def _is_first() -> bool:
    import jax

    return jax.process_index() == 0


def _legend(places: dict[int, Path], scores: list) -> str:
    if not scores:
        return "no scores: set config.test, or config.evaluate\n"
    if len(places) == 1:
        return f"per cent; {next(iter(places.values()))}/results.jsonl\n"
    folder = next(iter(places.values())).parent
    return f"per cent, mean ± standard deviation of {len(places)} seeds; {folder}/results.jsonl\n"


def _write(path: Path, scores: list) -> None:
    text = "".join(json.dumps(score.line(), ensure_ascii=False) + "\n" for score in scores)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
