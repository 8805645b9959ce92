"""Measure the memory of a train step that contrasts a whole batch, over the size of the batch.

LaBSE's loss on packed pairs, forward, backward and update, float32: all pairs of the batch at once,
and in microbatches of one size, whose losses must agree. Every run is a process of its own. Memory
twice: what the compiler plans beside inputs and outputs, and what the process's peak grew by over
inputs and parameters.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys

from benchmarks import race

PAIRS_PER_ROW = 8
PIECES = 14  # a side, with two special tokens: 8 pairs fill a row of 256
LENGTH = 256
VARIANTS = ("whole", "microbatches")


def _peak_bytes() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def make_batch(rows: int, vocab: int) -> dict:
    """Make packed pairs of random ids, the same for every variant."""
    import numpy as np

    unit = np.arange(LENGTH) // (PIECES + 2)
    place = np.arange(LENGTH) % (PIECES + 2)
    content = (place > 0) & (place <= PIECES)
    ids = np.random.default_rng(0).integers(4, vocab, (rows, LENGTH))
    ids = np.where(place == 0, 0, np.where(place > PIECES, 2, ids))
    fields = {
        "ids": ids,
        "example": np.broadcast_to(unit // 2 + 1, ids.shape),
        "side": np.broadcast_to(np.where(content, unit % 2 + 1, 0), ids.shape),
        "position": np.broadcast_to(place, ids.shape),
    }
    return {name: values.astype(np.int32) for name, values in fields.items()}


def run_variant(name: str, args: argparse.Namespace) -> None:
    """Compile the step of one variant, run it once, print its loss and memory as JSON."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    from jalign.encoders import bert
    from jalign.objectives import labse
    from jalign.train.step import StepConfig, make_train_step
    from jalign.types import Encoder, TokenIds, TrainState

    pairs = args.pairs[0]
    shape = dict(hidden=args.hidden, layers=args.layers, heads=args.hidden // 64)
    cfg = bert.Config(
        vocab_size=args.vocab, mlp=4 * args.hidden, dropout=0.0, attention_dropout=0.0, **shape
    )
    module = bert.make(cfg)
    parts = pairs // args.microbatch if name == "microbatches" else 1
    encoder = Encoder(
        module, TokenIds(3, (0, 1, 2, 3)), max_unit={"pair": PIECES + 2}, accumulate=parts
    )
    objective = labse.make(labse.Config(tau=0.05, max_pairs=PAIRS_PER_ROW), encoder)
    make_params = jax.jit(lambda key: {"encoder": nn.unbox(bert.init_params(module, key))})
    params = make_params(jax.random.key(0))
    optimizer = optax.adamw(1e-4)
    state = TrainState(jnp.int32(0), params, optimizer.init(params), {"labse": {}})
    cfg_step = StepConfig({"labse": lambda step: jnp.float32(1.0)}, accumulate=parts)
    step = make_train_step({"labse": objective}, optimizer, cfg_step)
    batch = jax.device_put({"pair": make_batch(pairs // PAIRS_PER_ROW, args.vocab)})
    key = jax.random.key(1)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, key).compile()
    before = _peak_bytes()
    watch = race.Stopwatch()
    found = []

    def once():
        found.append(jax.block_until_ready(compiled(state, batch, key)))

    watch.time(pairs, once)
    out = found[0][1]
    loss = out.losses["labse"]
    watch.finish(
        loss=float(loss.total / loss.count),
        grad_norm=float(out.grad_norm),
        planned_mb=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        rss_mb=max(_peak_bytes() - before, 0) / 1e6,
    )


def turn(name: str, pairs: int, args: argparse.Namespace) -> dict:
    """Run one variant on one batch size in a process of its own."""
    command = ["-m", "benchmarks.contrast_memory", "--variant", name, "--pairs", str(pairs)]
    for flag in ("hidden", "layers", "vocab", "microbatch"):
        command += [f"--{flag}", str(getattr(args, flag))]
    return race.run_turn(race.Competitor(name, tuple(command)))


def table(results: dict) -> str:
    """Write the results as a Markdown table."""
    lines = [
        "| pairs | | microbatches | planned MB | process MB | seconds | CPU seconds | loss |",
        "| ---: | --- " + "| ---: " * 6 + "|",
    ]
    for pairs, found in results.items():
        for name, r in found.items():
            if "error" in r:
                lines.append(f"| {pairs:,} | {name} | failed: {r['error']} |" + " |" * 5)
                continue
            step = r["steps"][0]
            cells = [f"{pairs:,}", name, str(r["parts"]), f"{r['planned_mb']:,.0f}"]
            cells += [f"{r['rss_mb']:,.0f}", f"{step['seconds']:.1f}", f"{step['cpu']:.1f}"]
            lines.append("| " + " | ".join([*cells, f"{r['loss']:.6f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run every variant on every size, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--microbatch", type=int, default=128, help="pairs of a microbatch")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--most", type=int, default=4096, help="largest batch to run whole")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        run_variant(args.variant, args)
        return
    results: dict[int, dict] = {}
    for pairs in args.pairs:
        results[pairs] = {}
        for name in VARIANTS if pairs <= args.most else VARIANTS[1:]:
            parts = pairs // args.microbatch if name == "microbatches" else 1
            results[pairs][name] = turn(name, pairs, args) | {"parts": parts}
            sys.stderr.write(f"{pairs} {name}: {json.dumps(results[pairs][name])[:200]}\n")
    sys.stdout.write(table(results) + "\n")
    settings = {n: getattr(args, n) for n in ("pairs", "microbatch", "hidden", "layers", "vocab")}
    path = race.write_json("contrast_memory", settings, results)
    sys.stdout.write(f"\nwritten to {path.relative_to(race.ROOT)}\n")


if __name__ == "__main__":
    main()
