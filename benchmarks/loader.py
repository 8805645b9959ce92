"""Compare what one process's loader delivers with what the train step consumes: tokens per second.

    python -m benchmarks.loader --config configs/quickstart.py --rounds 3

Both parts use the data and the streams of the config (by default the quickstart's: run
`bash launch/quickstart.sh` first, or `jalign prepare` into the folder that `--data` names). The
loader is timed from its first batch on, window planning included; real tokens only.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from benchmarks import race

LOADER, STEP = "loader, one process", "train step"


def read_run_config(path: str, data: str):
    """Build the run's dataclass from a config file, as `jalign pretrain` does."""
    from jalign import config
    from jalign.train.run import RunConfig

    spec = importlib.util.spec_from_file_location("bench_config", race.ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = module.get_config().to_dict()
    return config.build(RunConfig, {**values, "data": data or values["data"]})


def time_loader(run, num_steps: int) -> None:
    """Time `num_steps` batches of every stream, in blocks of ten."""
    from jalign.data.pipeline import load_batches, real_tokens, total_slots

    batches = load_batches(run.source, 0)
    watch, slots, tokens = race.Stopwatch(), 0, 0
    for _ in range(max(1, num_steps // 10)):
        block: list = []
        watch.time(0, lambda block=block: block.extend(next(batches) for _ in range(10)))
        work = sum(map(real_tokens, block))
        watch.steps[-1]["work"] = work
        tokens, slots = tokens + work, slots + sum(map(total_slots, block))
    watch.finish(fill=tokens / slots)


def time_step(run, num_steps: int) -> None:
    """Time the jitted step on ready batches."""
    import jax

    from jalign.data.pipeline import load_batches, real_tokens

    batches, state, key = load_batches(run.source, 0), run.init_state(), jax.random.key(0)
    watch = race.Stopwatch()

    def one(batch) -> None:
        nonlocal state
        state, _ = run.step(state, run.put(batch), key)
        jax.block_until_ready(state)

    one(next(batches))
    for _ in range(num_steps):
        batch = next(batches)
        watch.time(real_tokens(batch), lambda batch=batch: one(batch))
    watch.finish()


def main() -> None:
    """Run the race, or one part of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--data", default="", help="prepared dataset; default: the config's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_steps", type=int, default=200)
    parser.add_argument("--part", choices=("loader", "step"), help="run one part, in this process")
    args = parser.parse_args()
    if args.part:
        from jalign.train.run import make_run

        run = make_run(read_run_config(args.config, args.data))
        (time_loader if args.part == "loader" else time_step)(run, args.num_steps)
        return
    shared = ("-m", "benchmarks.loader", "--config", args.config, "--data", args.data)
    entrants = [
        race.Competitor(LOADER, (*shared, "--part", "loader", "--num_steps", str(args.num_steps))),
        race.Competitor(STEP, (*shared, "--part", "step", "--num_steps", "4")),
        *race.gemm_competitors(),
    ]
    results = race.run_race(entrants, args.rounds)
    settings = {"config": Path(args.config).name, "rounds": args.rounds}
    path = race.write_result("loader", settings, results)
    sys.stdout.write(race.table(results, "real tokens/s", LOADER) + f"\n\nwritten to {path}\n")


if __name__ == "__main__":
    main()
