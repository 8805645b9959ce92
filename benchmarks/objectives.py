"""Time a training step with each objective of the project against MLM + TLM on the same rows.

    python -m benchmarks.objectives --data data/quickstart --vocab 64000 --rounds 5

In: a folder of `jalign prepare` with pairs. Every entry below is a whole step (forward, backward,
AdamW) on the same rows of text and of pairs as its reference; steps of all entries take turns, A B
C A B C, in one process, and a ratio is the median of those of the turns. What an objective costs
beyond its passes through the encoder is seen against an entry that makes the same passes with
hardly a loss ("mlm + tlm, N more"). A new objective is a line of ENTRIES.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks import race
from jalign import config
from jalign.cli._memory import use_huge_pages
from jalign.data.id_pairs import single_pairs, write_id_pairs
from jalign.data.records import read_manifest
from jalign.train import mesh as mesh_lib
from jalign.train.run import Run, make_run
from jalign.train.run_config import RunConfig

REFERENCE = "mlm + tlm"
DICTIONARY = "DICTIONARY"  # stands for the file of the benchmark's dictionary


@dataclass(frozen=True)
class Entry:
    """Objectives, and changes of the stream "pair"; a stream no objective reads is left out.
    `against`: the entry it is compared with.
    """

    objectives: Mapping[str, Mapping[str, Any]]
    pair: Mapping[str, Any] = field(default_factory=dict)
    against: str = REFERENCE


def passes(num: int, stream: str) -> dict[str, dict[str, Any]]:
    """Return objectives that pass a stream through the encoder and predict a word in a hundred."""
    return {f"pass{i}": dict(kind="mlm", stream=stream, rate=0.01) for i in range(num)}


def beside(objective: str, **entries: Any) -> Entry:
    """Return MLM, TLM and an objective on separate pairs, against one more pass through them."""
    return Entry(MLM | TLM | {objective: entries}, against=ONE_MORE)


MLM, TLM = {"mlm": {}}, {"tlm": {}}
ONE_MORE, TWO_MORE = (f"{REFERENCE}, {what}" for what in ("1 more (separate)", "2 more (joint)"))
AMBER = dict(stream="pair", sentences="separate", similarity="scaled_dot")
ALIGN = {"align_mlm": dict(weight=10.0, dictionary=DICTIONARY)}
DICT = dict(dictionary=DICTIONARY)
ENTRIES = {
    REFERENCE: Entry(MLM | TLM),
    "mlm + tlm + align_mlm": Entry(MLM | TLM | ALIGN),
    "dict_mlm + tlm": Entry({"dict_mlm": DICT} | TLM),
    "mlm + tlm (halves)": Entry(MLM | {"tlm": dict(form="halves")}, dict(layout="separate")),
    "mlm + xlm_align": Entry(MLM | {"xlm_align": {}}),
    "mlm + adjust (wordot)": Entry(
        MLM | {"adjust": dict(distance="wordot", drift_side="src")}, dict(layout="separate")
    ),
    "mlm": Entry(MLM),
    "mlm + align_mlm": Entry(MLM | ALIGN, against="mlm"),
    "dict_mlm": Entry({"dict_mlm": DICT}, against="mlm"),
    ONE_MORE: Entry(MLM | TLM | passes(1, "separate")),
    TWO_MORE: Entry(MLM | TLM | passes(2, "pair")),
    "+ amber (words)": Entry(MLM | TLM | {"amber": AMBER | dict(losses=("wa",))}, against=TWO_MORE),
    "+ amber (sentences)": beside("amber", **AMBER, losses=("sa",)),
    "+ labse": beside("labse", stream="separate", tau=0.05, margin=0.3),
    "+ dap": beside("dap", stream="separate", tau=0.05),
    "+ veco2 (sentences)": beside("veco2", stream="separate", losses=("s2s",)),
    "+ infoxlm": beside("infoxlm", stream="separate", queue=4096),
}
STREAM_OF = {"mlm": "mono", "dict_mlm": "mono", "align_mlm": None}  # the others: see streams_read


def streams_read(name: str, entries: Mapping[str, Any]) -> set[str | None]:
    """Return the streams that an objective of an entry reads."""
    if "losses" in entries and "sentences" in entries:  # amber
        places = {"wa": entries["stream"], "sa": entries["sentences"]}
        return {places[loss] for loss in entries["losses"]}
    return {entries.get("stream", STREAM_OF.get(name, "pair"))}


def entries_of(args: argparse.Namespace, entry: Entry, dictionary: str) -> dict[str, Any]:
    """Return the config of an entry's run."""
    shape = dict(
        vocab_size=args.vocab, hidden=args.hidden, layers=args.layers, heads=args.hidden // 64,
        mlp=4 * args.hidden, dropout=0.1, attention_dropout=0.1, unroll=0,
    )  # fmt: skip
    size = dict(rows=args.rows, row_length=args.length, max_unit=min(128, args.length))
    streams = {"mono": dict(layout="single", **size), "pair": dict(layout="joint", **size)}
    half = min(64, args.length // 2)  # infoxlm joins sentences two by two
    streams["separate"] = dict(layout="separate", **size | dict(max_unit=half))
    streams["pair"] |= entry.pair
    if any(o.get("form") == "halves" for o in entry.objectives.values()):
        streams["pair"]["max_unit"] = 0
    read = set().union(*(streams_read(*objective) for objective in entry.objectives.items()))
    objectives = {
        name: {k: dictionary if v == DICTIONARY else v for k, v in entries.items()}
        for name, entries in entry.objectives.items()
    }
    if "xlm_align" in objectives:
        objectives["xlm_align"] = dict(layer=max(1, args.layers * 2 // 3))
    if "infoxlm" in objectives:
        objectives["infoxlm"]["layer"] = max(1, args.layers * 2 // 3)
    return dict(
        data=args.data, steps=1000, encoder=shape, objectives=objectives,
        streams={name: stream for name, stream in streams.items() if name in read},
        optimizer=dict(lr=1e-4, warmup_steps=10),
    )  # fmt: skip


def write_dictionary(args: argparse.Namespace, path: Path) -> None:
    """Write a dictionary of random ids: time depends on its size only."""
    manifest, rng = read_manifest(args.data), np.random.default_rng(0)
    langs = tuple(manifest.languages[:2])
    ids = rng.permutation(np.arange(4, args.vocab))[: 2 * args.pairs].reshape(-1, 2)
    train = np.ones(len(ids), bool)
    pairs = single_pairs(ids, train, langs=langs, tokenizer_sha256=manifest.tokenizer_sha256)
    write_id_pairs(path, pairs)


def stepper(run: Run) -> tuple[Callable[[int], None], Callable[[int], int]]:
    """Compile a run's step; return what takes step i, and what counts its real tokens."""
    rules = nn.logical_axis_rules(mesh_lib.RULES)
    with jax.set_mesh(run.mesh), rules:
        state = run.init_state()
        batches = [run.put(run.source[i]) for i in range(4)]
        compiled = run.step.lower(state, batches[0], jax.random.key(0)).compile()
    tokens = [sum(int((b["example"] > 0).sum()) for b in batch.values()) for batch in batches]

    def take(i: int) -> None:
        nonlocal state
        state, out = compiled(state, batches[i % 4], jax.random.key(0))
        jax.block_until_ready((state, out))

    return take, lambda i: tokens[i % 4]


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the results as Markdown."""
    lines = ["| objectives | real tokens/s | step time / that of | CPU time / that of | |",
             "| --- | ---: | ---: | ---: | --- |"]  # fmt: skip
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['rate']:,.0f} | {r['ratio']:.3f} | {r['ratio_cpu']:.3f} | "
            f"{r['against']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Take the steps and write table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder of jalign prepare, with pairs")
    parser.add_argument("--only", default="", help="only entries with one of these, by commas")
    parser.add_argument("--name", default="objectives", help="name of the JSON file")
    usual = dict(vocab=64_000, hidden=384, layers=6, rows=8, length=256, rounds=5, pairs=16_000)
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    chosen = {n: e for n, e in ENTRIES.items() if any(p in n for p in args.only.split(","))}
    for _ in range(2):  # what they are compared with, and what that is compared with
        chosen = {e.against: ENTRIES[e.against] for e in chosen.values()} | chosen
    steppers = {}
    with tempfile.TemporaryDirectory() as folder:
        dictionary = Path(folder) / "dictionary.npz"
        write_dictionary(args, dictionary)
        for name, entry in chosen.items():
            made = make_run(config.build(RunConfig, entries_of(args, entry, str(dictionary))))
            steppers[name] = stepper(made)
            sys.stderr.write(f"compiled {name}\n")
    watches = {name: race.Stopwatch() for name in steppers}
    for turn in range(args.rounds + 1):
        for name, (take, tokens) in steppers.items():
            if turn == 0:
                take(0)  # the first step warms up
            else:
                watches[name].time(tokens(turn), lambda take=take, turn=turn: take(turn))
        sys.stderr.write(f"round {turn}/{args.rounds}\n")
    results = {}
    for name, watch in watches.items():
        other = watches[chosen[name].against].steps
        results[name] = {
            "rate": race.rate(watch.steps)["rate"],
            "against": chosen[name].against,
            "samples": watch.steps,
        } | {
            key: statistics.median(
                mine[unit] / theirs[unit] for mine, theirs in zip(watch.steps, other, strict=True)
            )
            for key, unit in (("ratio", "seconds"), ("ratio_cpu", "cpu"))
        }
    path = race.write_result(args.name, vars(args), results)
    sys.stdout.write(table(results) + f"\n\nwritten to {path}\n")


if __name__ == "__main__":
    use_huge_pages("benchmarks.objectives")  # as runs have it
    main()
