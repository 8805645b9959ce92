"""Race the vocabulary loss: dense on all positions, dense on the masked ones, ours.

Loss and its gradients for hidden states, table and bias, float32, 384 wide. Of 4,096 positions 15 %
are masked; the masked variants get them gathered, with the room that `gather_cap` makes. Every turn
is a process of its own. Extra memory twice: what the compiler plans beside inputs and outputs, and
what the process's peak grew by over inputs, less the outputs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys

from benchmarks import race

VARIANTS = {
    "dense, all positions": ("dense", False),
    "dense, masked": ("dense", True),
    "ours, masked": ("chunked", True),
}
ALL, MASKED, OURS = VARIANTS
WIDTH, RATE = 384, 0.15


def _peak_bytes() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def compiled(method: str, num: int, vocab: int):
    """Return the compiled loss and gradients for `num` positions, of which some have weight 0."""
    import jax
    from jax import ShapeDtypeStruct as Shape

    from jalign.nn.vocab_loss import vocab_cross_entropy

    def total(h_ND, table_VD, bias_V, target_N, weight_N):
        nll_N, correct_N = vocab_cross_entropy(h_ND, table_VD, bias_V, target_N, method=method)
        return (nll_N * weight_N).sum(), (correct_N * weight_N).sum()

    shapes = (
        Shape((num, WIDTH), "float32"),
        Shape((vocab, WIDTH), "float32"),
        Shape((vocab,), "float32"),
        Shape((num,), "int32"),
        Shape((num,), "float32"),
    )
    return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True)).lower(*shapes).compile()


def run_variant(name: str, tokens: int, vocab: int, steps: int) -> None:
    """Compile one variant, run it `steps` times after the first, print memory and times."""
    import jax
    import numpy as np

    from jalign.nn.vocab_loss import gather_cap

    method, masked = VARIANTS[name]
    num = gather_cap(tokens, RATE) if masked else tokens
    rng = np.random.default_rng(0)
    wanted_N = np.arange(num) < round(tokens * RATE) if masked else rng.random(num) < RATE
    arrays = (
        rng.standard_normal((num, WIDTH), np.float32),
        rng.standard_normal((vocab, WIDTH), np.float32) * np.float32(0.02),
        np.zeros(vocab, np.float32),
        rng.integers(0, vocab, num, np.int32),
        wanted_N.astype(np.float32),
    )
    args = [jax.block_until_ready(jax.device_put(x)) for x in arrays]
    step = compiled(method, num, vocab)
    before = _peak_bytes()
    out = jax.block_until_ready(step(*args))
    rss = _peak_bytes() - before - sum(x.nbytes for x in jax.tree.leaves(out))
    del out
    watch = race.Stopwatch()
    for _ in range(steps):
        watch.time(1, lambda: jax.block_until_ready(step(*args)))
    planned = step.memory_analysis().temp_size_in_bytes
    watch.finish(positions=num, planned_mb=planned / 1e6, rss_mb=max(rss, 0) / 1e6)


def turn(name: str, args: argparse.Namespace, vocab: int) -> dict:
    """Run one variant in a process of its own."""
    command = ("-m", "benchmarks.loss_memory", "--variant", name, "--tokens", str(args.tokens))
    command += ("--vocab", str(vocab), "--steps", str(1 if name == ALL else args.steps))
    return race.run_turn(race.Competitor(name, command))


def summary(turns: list[dict]) -> dict:
    """Return medians over all turns: seconds, CPU seconds, extra memory."""
    errors = [t["error"] for t in turns if "error" in t]
    if errors:
        return {"error": errors[0]}
    steps = [s for t in turns for s in t["steps"]]
    facts = {key: statistics.median(t[key] for t in turns) for key in ("planned_mb", "rss_mb")}
    for key in ("seconds", "cpu"):
        facts[key] = statistics.median(s[key] for s in steps)
    facts["seconds_min"] = min(s["seconds"] for s in steps)
    facts["cpu_min"] = min(s["cpu"] for s in steps)
    return {"positions": turns[0]["positions"], **facts, "samples": steps}


def table(results: dict) -> str:
    """Write one vocabulary's results as a Markdown table with the two ratios of the criterion."""
    lines = [
        "| | positions | seconds | CPU seconds | time / dense masked | CPU / dense masked "
        "| planned MB | RSS MB | planned / dense all | RSS / dense all |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    for name, r in results.items():
        if "error" in r:
            lines.append(f"| {name} | failed: {r['error']} |" + " |" * 8)
            continue
        cells = [name, f"{r['positions']}", f"{r['seconds']:.2f}", f"{r['cpu']:.2f}"]
        for key, base in (("seconds", MASKED), ("cpu", MASKED)):
            cells.append(_ratio(r, results[base], key, "{:.2f}"))
        cells += [f"{r['planned_mb']:,.0f}", f"{r['rss_mb']:,.0f}"]
        cells += [_ratio(r, results[ALL], key, "{:.1%}") for key in ("planned_mb", "rss_mb")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(ours: dict, base: dict, key: str, form: str) -> str:
    return form.format(ours[key] / base[key]) if base.get(key) else ""


def main() -> None:
    """Run the rounds for each vocabulary, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocab", type=int, nargs="+", default=[64_000, 250_002])
    parser.add_argument("--steps", type=int, default=3, help="timed calls of each turn")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        run_variant(args.variant, args.tokens, args.vocab[0], args.steps)
        return
    results = {}
    for vocab in args.vocab:
        turns = {name: [] for name in VARIANTS}
        for number in range(args.rounds):
            for name in VARIANTS:
                turns[name].append(turn(name, args, vocab))
                seconds = [round(s["seconds"], 2) for s in turns[name][-1]["steps"]]
                note = turns[name][-1].get("error") or seconds
                sys.stderr.write(f"{vocab} round {number + 1}/{args.rounds} {name}: {note}\n")
        results[vocab] = {name: summary(found) for name, found in turns.items()}
        sys.stdout.write(f"\nvocabulary {vocab:,}\n\n{table(results[vocab])}\n")
    settings = {"tokens": args.tokens, "rounds": args.rounds, "rate": RATE, "width": WIDTH}
    path = race.write_json("loss_memory", settings, results)
    sys.stdout.write(f"\nwritten to {path.relative_to(race.ROOT)}\n")


if __name__ == "__main__":
    main()
