"""Compile the full-size steps of all objectives for TPUs and GPUs that are not here; one table.

COMMAND  python -m benchmarks.plans --topology v5e:16x16 --shape xlmr-base   (no flags: all of it)
         python -m benchmarks.plans --weak                          (on 1, 4, 16, 64, 256 chips)
         python -m benchmarks.plans --estimate     (seconds and hours again of all that is stored)
TIME     minutes a step on two cores; what was compiled is kept in benchmarks/results/plans.json and
         not compiled again (--again does)

Needs the extras tpu and cuda12; neither data nor weights nor devices. A step is the config's own,
with its batch in rows per chip as ROWS says, splash or cuDNN attention (no attention dropout).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "plans.json"
TOPOLOGIES = {"v5e:16x16": dict(fsdp=16), "v5p:4x4x4": dict(fsdp=16), "h100:8x2": dict(fsdp=8)}
SHAPES = ("xlmr-base", "xlmr-large")
CONFIGS = (
    "xlmr_base", "align_mlm", "align_mlm:dict_mlm", "xlm_align", "amber", "veco2", "infoxlm",
    "labse", "dap", "adjust", "finetune_pos", "finetune_xnli", "finetune_xquad",
)  # fmt: skip
PAIRS = 50_000  # of the dictionary that stands for a real one
ROWS = {"xlmr-base": 16, "xlmr-large": 8}  # of each stream and chip; the config's ratio is kept
# Of one or two rows it predicts 120 or 216 words, and XLA for GPUs (jax 0.10.2) fails inside itself
# where it multiplies that many with the 146 words that are left of 250,002: no multiple of 16.
OTHER_ROWS = {("amber", "xlmr-large", "h100:8x2"): 32}
WEAK_ROWS = 8  # with which one chip has room
WEAK = ("v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")


def entries_of(
    name: str, topology: str, shape: str, rows: int, fsdp: int, dictionary: str
) -> dict[str, Any]:
    """Return the entries of a config, or `config:argument`, with a batch of `rows` per chip of its
    largest stream.
    """
    entries = config_of(name)
    for objective in entries["objectives"].values():
        if "dictionary" in objective:
            objective["dictionary"] = dictionary
        if "language_embeddings" in objective:  # XLM-R's shapes have none
            objective["language_embeddings"] = False
    chips = num_chips(topology)
    most = max(s["rows"] for s in entries["streams"].values())
    for stream in entries["streams"].values():
        stream["rows"] = chips * max(1, round(rows * stream["rows"] / most))
    entries["encoder"] |= dict(attention_dropout=0.0, remat=shape.endswith("large"))
    entries["mesh"] = dict(data=-1, fsdp=fsdp, tensor=1, dcn=1)
    entries["accumulate"] = 1
    return entries


def config_of(name: str) -> dict[str, Any]:
    """Return the entries of a config, or `config:argument`, as it stands."""
    sys.path.insert(0, str(ROOT / "configs"))
    module, _, argument = name.partition(":")
    get_config = importlib.import_module(module).get_config
    return (get_config(argument) if argument else get_config()).to_dict()


def compile_one(name: str, topology: str, shape: str, rows: int, fsdp: int) -> dict[str, Any]:
    """Compile one step in this process; return the plan as `jalign plan --json` has it."""
    from jalign.cli.plan import set_environment

    set_environment(topology)
    from jalign import config
    from jalign.errors import ConfigError
    from jalign.plan.report import to_json
    from jalign.plan.search import search
    from jalign.plan.topology import open_topology
    from jalign.train.run_config import RunConfig

    with tempfile.TemporaryDirectory() as scratch:
        dictionary = write_dictionary(Path(scratch) / "dictionary.npz")
        entries = entries_of(name, topology, shape, rows, fsdp, dictionary)
        try:
            opened = open_topology(topology)
            found = search(config.build(RunConfig, entries), opened, shape, budget=0)
        except ConfigError as error:
            return {"error": str(error)}
        return to_json(found, opened)


def write_dictionary(path: Path) -> str:
    """Write random pairs of words of one piece each, in the languages that a plan assumes."""
    from jalign.data.id_pairs import single_pairs, write_id_pairs

    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 250_000, (PAIRS, 2))
    pairs = single_pairs(ids, np.ones(PAIRS, bool), langs=("en", "fr"), tokenizer_sha256="")
    write_id_pairs(path, pairs)
    return str(path)


def in_process(*args: Any) -> dict[str, Any]:
    """Compile in a process of its own: the compilers keep what they took, and may crash."""
    code = "import json, sys; from benchmarks.plans import compile_one; "
    code += f"sys.stdout.write(json.dumps(compile_one(*{args!r})))"
    environment = os.environ | {"PYTHONPATH": str(ROOT) + ":" + os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        return {"error": f"exit {done.returncode}: {done.stderr[-300:]}"}
    return json.loads(done.stdout)


def estimated(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return a stored plan of a config with the times that follow today from what was compiled."""
    from jalign.plan.abstract import no_hours

    if "step" not in plan:
        return plan
    entries = config_of(name)
    steps, notes = entries.get("steps") or None, plan["notes"]
    note = no_hours(entries.get("epochs", 0.0))
    if steps is None and note not in notes:
        notes = [*notes, note]
    timed = {key: _timed(plan, plan[key], steps) for key in ("step", "largest") if plan[key]}
    suggestions = [_timed(plan, step, steps) for step in plan["suggestions"]]
    suggestions.sort(key=lambda step: -step["tokens_per_s"])
    return plan | timed | {"notes": notes, "suggestions": suggestions}


def _timed(plan: dict[str, Any], step: dict[str, Any], steps: int | None) -> dict[str, Any]:
    from jalign.plan.collectives import Collective
    from jalign.plan.estimate import bytes_sent, estimate
    from jalign.plan.places import imagined_places
    from jalign.plan.report import rates_of
    from jalign.plan.topology import CHIPS, axis_rates, parse_topology

    if "seconds" not in step:  # it did not fit: nothing was compiled
        return step | {"steps": steps}
    kind, sizes = parse_topology(plan["topology"])
    places = imagined_places(plan["topology"], plan["slices"], step["mesh"])
    fields = [field.name for field in dataclasses.fields(Collective)]
    sent = [bytes_sent(Collective(*(c[f] for f in fields)), places) for c in step["collectives"]]
    chip, flops = CHIPS[kind], sum(step["flops"].values())
    times = estimate(flops, step["hbm_bytes"], sent, chip, axis_rates(chip, sizes))
    collectives = [
        c | {"inside": s.inside, "outside": s.outside}
        for c, s in zip(step["collectives"], sent, strict=True)
    ]
    rates = rates_of(times, step["slots_per_step"], steps)
    return step | {"collectives": collectives, "steps": steps} | rates


def cells(args: argparse.Namespace) -> list[tuple]:
    """Return what to compile: (config, topology, shape, rows per chip, fsdp)."""
    if args.weak:
        return [("xlmr_base", t, "xlmr-base", WEAK_ROWS, min(4, num_chips(t))) for t in WEAK]
    shapes, topologies = args.shape or SHAPES, args.topology or TOPOLOGIES
    return [
        (
            name,
            topology,
            shape,
            OTHER_ROWS.get((name, shape, topology), ROWS[shape]),
            TOPOLOGIES[topology]["fsdp"],
        )
        for name in args.config or CONFIGS
        for shape in shapes
        for topology in topologies
    ]


def num_chips(topology: str) -> int:
    """Return the chips of `v5e:16x16`: 256."""
    return math.prod(int(size) for size in topology.partition(":")[2].split("x"))


def main() -> None:
    """Compile what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", action="append", choices=list(TOPOLOGIES))
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--config", action="append", choices=CONFIGS)
    parser.add_argument("--weak", action="store_true", help="the same step on 1 to 256 chips")
    parser.add_argument("--again", action="store_true", help="compile again what is stored")
    parser.add_argument("--show", action="store_true", help="print what is stored, compile nothing")
    parser.add_argument(
        "--estimate", action="store_true", help="work out all stored seconds again, compile nothing"
    )
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if args.estimate:
        known = {key: estimated(key.split()[0], plan) for key, plan in known.items()}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    for cell in cells(args):
        key = " ".join(map(str, cell))
        if not (args.show or args.estimate) and (args.again or "step" not in known.get(key, {})):
            known[key] = in_process(*cell)
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
            print(f"compiled {key}: {known[key].get('error', 'done')}", file=sys.stderr, flush=True)
    print("| step | rows per chip | state | in all, of | FLOPs, of analytic | sends | bound |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: |")
    for cell in cells(args):
        plan = known.get(" ".join(map(str, cell)))
        if plan:
            print("| " + " | ".join(table_row(cell, plan)) + " |")


def table_row(cell: tuple, plan: dict[str, Any]) -> list[str]:
    """Return a line of the table: sizes in GiB of one chip, FLOPs in T, what it sends in MiB."""
    name, topology, shape, *_ = cell
    title = f"{name} {shape} {topology}"
    if "step" not in plan:
        return [title, plan["error"][:80], "", "", "", "", ""]
    step, gib = plan["step"], 2**30
    state = sum(step["memory"].get(k, 0) for k in ("parameters", "optimiser", "auxiliary"))
    sends = ", ".join(
        f"{c['operation']} {'+'.join(c['axes'])} {c['wire'] / 2**20:,.0f}"
        for c in step["collectives"]
        if c["wire"] > 2**20
    )
    fits = "" if step["fits"] else " (does not fit)"
    flops = sum(step["flops"].values())
    return [
        title,
        " + ".join(map(str, step["rows_per_chip"].values())),
        f"{state / gib:.2f}",
        f"{step['memory_needed'] / gib:.2f} of {step['memory_available'] / gib:.2f}{fits}",
        f"{flops / 1e12:.2f} ({step['flops_ratio']:.2f})" if flops else "",
        sends or "nothing",
        step.get("seconds", {}).get("bound", ""),
    ]


if __name__ == "__main__":
    main()
