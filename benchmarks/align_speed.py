"""Compare word alignment of ours with simalign and awesome-align: sentence pairs per second.

    python -m benchmarks.align_speed --size base --pairs 300 --rounds 2
    python -m benchmarks.align_speed --size small --pairs 1000 --rounds 2
    python -m benchmarks.align_speed --size small --memory

Real sentence pairs in several scripts, shuffled, segmented at spaces (Chinese, Japanese and the
like into characters); one random BERT with a WordPiece tokenizer, which all three can open: base is
12 x 768, read after layer 8, small 6 x 384 after layer 4. simalign is its own class, one pair per
call as it offers; awesome-align its own `word_align` on batches of 32. Before anything is timed all
align some pairs and must find the same links; the links of the timed passes are compared too. Where
links differ, the states must nearly tie there. Each part is a process; its pass is timed with
everything loaded and compiled, and ours once more from the start of Python.

The forward's arithmetic counts real tokens only, special ones too, up to the layer, 2 FLOPs per
multiplication and addition; the share is that over the time, in terms of a large float32 product
in JAX that takes turns with the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import align_pairs, bitext, race
from benchmarks.align_pairs import SHAPES

DATA = [str(bitext.SHARED / "bitext" / "*.tsv.gz")] if bitext.SHARED.is_dir() else []
BATCH = 32
MEMORY_PAIRS = (1_000, 10_000, 100_000)
# A process that aligns and then says, as its last line, how much memory it took at most.
PEAK = """
import resource, sys
from jalign.cli.main import main
code = main(sys.argv[1:])
scale = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
sys.exit(code)
"""

# A part aligns the pairs of a file into a file of links: load(folder, layer, method) -> align.
Align = Callable[[Path, Path], None]


# ---- the parts


def ours(folder: Path, layer: int, method: str) -> Align:
    """Do what `jalign align --method=M --layer=K --output=F` does."""
    import jalign
    from jalign.cli import align as command
    from jalign.cli._pairs import Bitext, scan
    from jalign.inference.align import Aligner, choose

    model = jalign.load(folder)
    aligner = Aligner(model, choose(model.cfg.layers, {}, layer=layer, method=method))

    def align(source: Path, output: Path) -> None:
        lines = Bitext((str(source),), "triple_bar")
        work = command.Input(lines, False, "word", False, notice=False)
        command.align_file(aligner, work, scan(lines, False), output)

    return align


def simalign(folder: Path, layer: int, method: str) -> Align:
    """Call simalign's class, one pair per call."""
    from simalign import SentenceAligner

    name, kind = {"itermax": ("itermax", "i"), "argmax": ("inter", "a")}[method]
    aligner = SentenceAligner(
        str(folder), token_type="bpe", matching_methods=kind, device=torch_device(), layer=layer
    )

    def align(source: Path, output: Path) -> None:
        with source.open(encoding="utf-8") as lines, output.open("w") as file:
            for line in lines:
                links = aligner.get_word_aligns(*line.split(" ||| "))[name]
                file.write(" ".join(f"{i}-{j}" for i, j in links) + "\n")

    return align


def awesome(folder: Path, layer: int, method: str) -> Align:
    """Call what awesome-align's command calls, on its default batch."""
    import torch
    from awesome_align import modeling, run_align

    config = run_align.BertConfig.from_pretrained(str(folder))
    tokenizer = run_align.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    model = run_align.BertForMaskedLM.from_pretrained(str(folder), config=config)
    modeling.PAD_ID = tokenizer.pad_token_id
    modeling.CLS_ID, modeling.SEP_ID = tokenizer.cls_token_id, tokenizer.sep_token_id

    def align(source: Path, output: Path) -> None:
        # no workers: its default of 4 would share the cores with the forward
        args = argparse.Namespace(
            data_file=str(source), output_file=str(output), output_prob_file=None,
            output_word_file=None, num_workers=0, batch_size=BATCH, align_layer=layer,
            extraction=method, softmax_threshold=0.001, device=torch.device(torch_device()),
        )  # fmt: skip
        run_align.word_align(args, model, tokenizer)

    return align


def torch_device() -> str:
    """Return where PyTorch computes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


OURS = "jalign align"
GEMM = "sgemm jax (FLOP/s)"
PARTS = {
    **{f"{OURS}, {m}": (ours, m) for m in ("itermax", "argmax", "softmax")},
    **{f"simalign, {m}": (simalign, m) for m in ("itermax", "argmax")},
    "awesome-align, softmax": (awesome, "softmax"),
}


def links_file(folder: Path, name: str, source: Path) -> Path:
    """Return where a part writes the links of a source."""
    return folder / f"{source.stem}.{name.replace(', ', '_').replace(' ', '_')}.links"


def run_part(name: str, folder: Path, source: Path, args: argparse.Namespace) -> None:
    """Be one part: load, warm up, align all pairs against the clock; print the times."""
    load, method = PARTS[name]
    whole, warm = race.Stopwatch(), race.Stopwatch()
    num = len(source.read_text(encoding="utf-8").splitlines())
    output, few = links_file(folder, name, source), folder / "check.txt"
    if load is not ours and args.threads:
        import torch

        torch.set_num_threads(args.threads)
    align = None

    def from_nothing() -> None:
        nonlocal align
        align = load(folder, SHAPES[args.size][0], method)
        # ours compiles every shape that it meets, theirs need only be woken up
        align(source if load is ours else few, output if load is ours else folder / "few.links")

    whole.time(num, from_nothing)
    if args.timed:
        warm.time(num, lambda: align(source, output))
    elif load is not ours:
        align(source, output)
    warm.finish(whole=whole.steps if load is ours else [])


def run_gemm(seconds: float = 2.0) -> None:
    """Be the machine's measure: a large float32 product, as exact as ours."""
    import jax
    import jax.numpy as jnp

    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n))
    dot = jax.jit(lambda a, b: jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST))
    dot(a, a).block_until_ready()
    watch, end = race.Stopwatch(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        watch.time(2 * n**3, lambda: dot(a, a).block_until_ready())
    watch.finish()


# ---- are the links equal


def read_links(path: Path) -> list[set[tuple[int, ...]]]:
    """Read Pharaoh lines."""
    lines = path.read_text().split("\n")[:-1]
    return [{tuple(map(int, x.split("-"))) for x in line.split()} for line in lines]


def check_links(folder: Path, source: Path, size: str, names: list[str]) -> dict[str, int]:
    """Return in how many pairs each peer's links differ from ours at a near tie; refuse others."""
    pairs = [line.split(" ||| ") for line in source.read_text(encoding="utf-8").splitlines()]
    ties = {}
    for name in names:
        load, method = PARTS[name]
        if load is ours:
            continue
        both = [read_links(links_file(folder, n, source)) for n in (f"{OURS}, {method}", name)]
        if not len(pairs) == len(both[0]) == len(both[1]):
            raise SystemExit(f"{name}: {len(pairs)} pairs, links of {[len(x) for x in both]}")
        unequal = [i for i, (a, b) in enumerate(zip(*both, strict=True)) if a != b]
        tied = align_pairs.near_ties(folder, SHAPES[size][0], method, [pairs[i] for i in unequal])
        if not all(tied):
            at = unequal[tied.index(False)]
            raise SystemExit(f"{name}: other links of pair {at + 1}: {pairs[at]}, and no tie")
        ties[name] = len(unequal)
    return ties


# ---- the race


def run_turn(name: str, folder: Path, source: Path, args: argparse.Namespace, *flags: str) -> dict:
    """Run a part in a process of its own."""
    shared = ("--size", args.size, "--threads", str(args.threads))
    where = ("--folder", str(folder), "--source", str(source))
    command = ("-m", "benchmarks.align_speed", "--part", name, *where, *shared, *flags)
    return race.run_turn(race.Competitor(name, command))


def check_all(folder: Path, args: argparse.Namespace, names: list[str]) -> dict[str, int]:
    """Let all parts align the pairs of check.txt and compare their links."""
    for name in names:
        turn = run_turn(name, folder, folder / "check.txt", args)
        if "error" in turn:
            raise SystemExit(f"{name}: {turn['error']}")
    return check_links(folder, folder / "check.txt", args.size, names)


def race_all(folder: Path, args: argparse.Namespace, names: list[str]) -> tuple[dict, dict]:
    """Run everyone in turn; return the results of the warm passes, and ours from the start."""

    def take(name: str) -> dict:
        return run_turn(name, folder, folder / "pairs.txt", args, "--timed")

    turns = race.take_turns((*names, GEMM), args.rounds, take)
    ours = {name: runs for name, runs in turns.items() if name.startswith(OURS)}
    return race.joined(turns), race.joined(ours, "whole")


def show(warm: dict, whole: dict, flops_per_pair: float) -> None:
    """Print a table per method, and ours as a share of what the arithmetic allows."""
    for method in dict.fromkeys(PARTS[name][1] for name in warm if name in PARTS):
        mine = f"{OURS}, {method}"
        chosen = {name: r for name, r in warm.items() if PARTS.get(name, (0, 0))[1] == method}
        sys.stdout.write("\n" + race.table(chosen, "pairs/s", mine) + "\n")
        rate, gemm = warm[mine]["rate"], warm[GEMM]["rate"]
        if rate and gemm:
            share = warm[mine]["share"] = rate * flops_per_pair / gemm
            sys.stdout.write(f"\n{mine}: {share:.3f} of what the arithmetic allows")
        if whole[mine]["rate"]:
            sys.stdout.write(f"; {whole[mine]['rate']:,.1f} pairs/s from the start of Python\n")
    sys.stdout.write("\n" + race.table({GEMM: warm[GEMM]}, "FLOP/s") + "\n")


def run_race(folder: Path, args: argparse.Namespace) -> None:
    """Check, race, compare, print and write."""
    names = [n for n in PARTS if any(x in n for x in args.only.split(","))]
    names = [n for n in PARTS if n in names or n in [f"{OURS}, {PARTS[m][1]}" for m in names]]
    pairs = align_pairs.read_pairs(args.data, args.pairs * 5 // 4 + 50)
    align_pairs.save_model(folder, args.size, pairs)
    good = align_pairs.agreeing(folder, pairs)
    left_out, pairs = len(pairs) - len(good), good[: args.pairs]
    align_pairs.write_pairs(folder / "pairs.txt", pairs)
    align_pairs.write_pairs(folder / "check.txt", pairs[: args.check])
    checked = check_all(folder, args, names)
    sys.stderr.write(f"links of {len(pairs[: args.check])} pairs are equal; ties: {checked}\n")
    warm, whole = race_all(folder, args, names)
    raced = [name for name in names if "error" not in warm[name]]
    ties = check_links(folder, folder / "pairs.txt", args.size, raced)
    tokens, flops = align_pairs.forward_flops(folder, args.size, pairs)
    sys.stdout.write(
        f"{len(pairs):,} pairs, {tokens:,} tokens; of {left_out + len(good):,} read {left_out:,} "
        f"left out, where tokenizers disagree; pairs with other links, all at a tie: {ties}\n"
    )
    show(warm, whole, flops / len(pairs))
    settings = {"size": args.size, "pairs": len(pairs), "tokens": tokens, "flops": flops,
                "rounds": args.rounds, "threads": args.threads, "ties": ties}  # fmt: skip
    results = {**warm, **{f"{name}, from the start of Python": r for name, r in whole.items()}}
    path = race.write_result(args.name or f"align_{args.size}", settings, results)
    sys.stdout.write(f"\nwritten to {path}\n")


# ---- memory


def run_memory(folder: Path, args: argparse.Namespace) -> None:
    """Print the peak memory of `jalign align` on more and more pairs."""
    numbers = args.memory_pairs
    pairs = align_pairs.read_pairs(args.data, max(numbers))
    align_pairs.save_model(folder, args.size, pairs[:5000])
    results = {}
    for num in numbers:
        source = folder / f"{num}.txt"
        align_pairs.write_pairs(source, pairs[:num])
        flags = [f"--input={source}", f"--output={folder / 'links'}", "--pretokenized"]
        begin, command = time.perf_counter(), [f"--model={folder}", *flags]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "align", *command],
            cwd=race.ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        seconds, peak_gib = time.perf_counter() - begin, int(done.stdout.split()[-1]) / 2**30
        results[f"{num} pairs"] = {"peak_gib": peak_gib, "seconds": seconds}
        sys.stdout.write(f"{num:,} pairs: peak {peak_gib:.3f} GiB, {seconds:.0f} s\n")
    settings = {"size": args.size, "threads": args.threads}
    path = race.write_result(args.name or f"align_memory_{args.size}", settings, results)
    sys.stdout.write(f"\nwritten to {path}\n")


def main() -> None:
    """Race, or measure memory, and write tables and JSON; or be one part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--check", type=int, default=64, help="pairs to compare before the race")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores for everyone; 0: all")
    parser.add_argument("--data", nargs="*", default=DATA, help="TSV files of bitext")
    parser.add_argument("--only", default="", help="parts with one of these names, by commas")
    parser.add_argument("--memory", action="store_true", help="peak memory of the command instead")
    parser.add_argument("--memory-pairs", type=int, nargs="*", default=MEMORY_PAIRS)
    parser.add_argument("--name", default="", help="name of the JSON file")
    parser.add_argument("--part", choices=(*PARTS, GEMM), help="be this one, as the race says")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--timed", action="store_true")
    args = parser.parse_args()
    if args.part:
        run_gemm() if args.part == GEMM else run_part(args.part, args.folder, args.source, args)
        return
    race.use_cores(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        (run_memory if args.memory else run_race)(Path(folder), args)


if __name__ == "__main__":
    main()
