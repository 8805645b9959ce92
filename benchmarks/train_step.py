"""Compare an optimiser step of ours with PyTorch's on the same sentence pairs: tokens per second.

    python -m benchmarks.train_step --vocab 64000 --rounds 3
    python -m benchmarks.train_step --vocab 250002 --rounds 3

Same architecture, masking rate, dropout, AdamW, clipping and sentences for all; padding is never
counted. Gradient accumulation serves where a whole step does not fit memory or where it helps the
competitor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass

from benchmarks import bitext, race

OURS = "ours, packed"


@dataclass(frozen=True)
class Settings:
    """What all competitors share. The model is XLM-R's shape, 384 wide and 6 deep."""

    vocab: int = 64_000
    hidden: int = 384
    layers: int = 6
    heads: int = 6
    mlp: int = 1536
    max_positions: int = 258
    dropout: float = 0.1
    rate: float = 0.15
    rows: int = 8
    length: int = 256
    max_pair: int = 128
    num_steps: int = 4
    threads: int = 2
    seed: int = 0
    unroll: bool = True
    data: tuple[str, ...] = ()
    tokenizer: str = ""

    def steps_of_pairs(self) -> list[bitext.Step]:
        """Load the sentences of every step."""
        pairs = bitext.load_pairs(
            list(self.data), self.tokenizer or None, self.vocab, self.max_pair
        )
        return bitext.make_steps(pairs, self.rows, self.length, self.num_steps)


def worker_settings() -> tuple[Settings, argparse.Namespace]:
    """Parse a competitor's command line: the settings as JSON, and what is its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--model", choices=("stock", "tuned"), default="tuned")
    parser.add_argument("--form", choices=("128", "longest", "sorted", "packed"), default="packed")
    parser.add_argument("--micro", type=int, default=0, help="pairs per microbatch; 0: all")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    return Settings(**json.loads(args.settings)), args


def competitors(settings: Settings, *, with_compile: bool) -> list[race.Competitor]:
    """List ours and the others; the stock ones go in microbatches that fit memory."""
    shared = ("--settings", json.dumps(dataclasses.asdict(settings)))

    def torch(name: str, model: str, form: str, *more: str) -> race.Competitor:
        args = ("-m", "benchmarks.step_torch", *shared, "--model", model, "--form", form, *more)
        return race.Competitor(name, args)

    stock = ("--micro", "16" if settings.vocab > 100_000 else "32")
    found = [
        race.Competitor(OURS, ("-m", "benchmarks.step_jax", *shared)),
        torch("stock HF, padded to 128", "stock", "128", *stock, "--steps", "1"),
        torch("stock HF, padded to longest", "stock", "longest", *stock, "--steps", "2"),
        torch("tuned PyTorch, padded to longest", "tuned", "longest", "--micro", "0"),
        torch("tuned PyTorch, longest of 32", "tuned", "longest", "--micro", "32"),
        torch("tuned PyTorch, sorted, longest of 32", "tuned", "sorted", "--micro", "32"),
        torch("tuned PyTorch, packed", "tuned", "packed"),
    ]
    if with_compile:
        found += [
            torch(
                "stock HF compiled, padded to 128",
                "stock",
                "128",
                *stock,
                "--steps",
                "1",
                "--compile",
            ),
            torch(
                "tuned PyTorch compiled, longest of 32",
                "tuned",
                "longest",
                "--micro",
                "32",
                "--compile",
            ),
            torch("tuned PyTorch compiled, packed", "tuned", "packed", "--compile"),
        ]
    return found


def main() -> None:
    """Run the race and write its table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only names with one of these, by commas")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument(
        "--data", nargs="*", default=[], help="TSV files of pairs (default: see bitext.py)"
    )
    parser.add_argument("--name", default="", help="name of the JSON file")
    for field in ("vocab", "num_steps", "threads", "rows", "length"):
        parser.add_argument(f"--{field}", type=int, default=getattr(Settings, field))
    parser.add_argument("--dropout", type=float, default=Settings.dropout)
    args = parser.parse_args()
    shared = {
        f.name: getattr(args, f.name) for f in dataclasses.fields(Settings) if hasattr(args, f.name)
    }
    settings = Settings(**{**shared, "data": tuple(args.data)})
    entrants = competitors(settings, with_compile=args.compile) + race.gemm_competitors()
    entrants = [c for c in entrants if any(part in c.name for part in args.only.split(","))]
    race.use_cores(settings.threads)
    results = race.run_race(entrants, args.rounds)
    name = args.name or f"train_step_{settings.vocab}"
    path = race.write_result(name, dataclasses.asdict(settings) | {"rounds": args.rounds}, results)
    reference = OURS if OURS in results and results[OURS]["rate"] else None
    sys.stdout.write(race.table(results, "real tokens/s", reference) + f"\n\nwritten to {path}\n")


if __name__ == "__main__":
    main()
