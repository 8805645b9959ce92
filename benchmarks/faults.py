"""Inject faults into real runs and count what survives: signals, full disks, flipped bytes.

    python -m benchmarks.faults                     # all: about half an hour on two quiet cores
    python -m benchmarks.faults --quick --only sigkill,files
    python -m benchmarks.faults --only goodput      # half an hour, apart from the others

A run survives when it, or the same command started again, ends with every step logged and every
loss equal to that of an undisturbed run (bit for bit on the same devices, to 1e-5 on others); where
a fault cannot be mended by starting again (damaged data, a learning rate that diverges), when it
ends with the exit code and the words that say so. A silent wrong result is an end with exit code 0
and any other loss. Root may mount the small disks; elsewhere those faults are left out, and said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fault_disks, fault_files, fault_kills, fault_numbers, race
from benchmarks.fault_cases import Case
from benchmarks.fault_runs import EVERY, Bench, losses, preload, settings

FAULTS = {
    "sigkill": fault_kills.sigkill,
    "sigterm": fault_kills.sigterm,
    "sigterm_one_of_two": fault_kills.sigterm_one_of_two,
    "one_of_two_lost": fault_kills.one_of_two_lost,
    "devices": fault_kills.devices,
    "processes": fault_kills.processes,
    "two_jobs": fault_kills.two_jobs,
    "files": fault_files.checkpoint_files,
    "data": fault_files.data,
    "compile_cache": fault_files.compile_cache,
    "disk_full": fault_disks.disk_full,
    "export": fault_disks.export,
    "read_only": fault_disks.read_only,
    "slow_storage": fault_disks.slow_storage,
    "tensorboard": fault_disks.tensorboard,
    "nan": fault_numbers.nan,
    "lr_x_100": fault_numbers.lr_x_100,
    "loader": fault_numbers.loader,
    "goodput": fault_numbers.goodput,
}


def run_fault(bench: Bench, name: str) -> list[Case]:
    """Inject one kind of fault; a benchmark that fails is a fault not survived."""
    cases = []
    try:
        for case in FAULTS[name](bench):
            cases.append(case)
            mark = "ok  " if case.survived else "LOST"
            sys.stdout.write(f"  {mark} {case.what}: {case.note}\n")
            sys.stdout.flush()
    except Exception as error:
        traceback.print_exc()
        cases.append(Case("the benchmark itself", False, note=f"{type(error).__name__}: {error}"))
    return cases


def rows_of(results: dict[str, list[Case]]) -> Iterator[dict]:
    """Sum up each kind of fault."""
    for name, cases in results.items():
        injected = [c for c in cases if c.injected]
        lost = {
            saving: [c.lost for c in injected if c.lost is not None and c.saving == saving]
            for saving in (False, True)
        }
        yield {
            "fault": name,
            "injected": len(injected),
            "survived": sum(c.survived for c in injected),
            "most_steps_lost": max(lost[False], default=None),
            "most_steps_lost_while_saving": max(lost[True], default=None),
            "wrong": sum(c.wrong for c in injected),
            "left_out": [c.note for c in cases if not c.injected],
        }


def table(rows: list[dict]) -> str:
    """Write the matrix as a Markdown table."""
    lines = ["| fault | survived / injected | most steps lost | silent wrong results |",
             "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for r in rows:
        lost = "-" if r["most_steps_lost"] is None else r["most_steps_lost"]
        if r["most_steps_lost_while_saving"] is not None:
            lost = f"{lost}; {r['most_steps_lost_while_saving']} while a save was written"
        lines.append(
            f"| {r['fault']} | {r['survived']} / {r['injected']} | {lost} | {r['wrong']} |"
        )
    total = [sum(r[k] for r in rows) for k in ("survived", "injected", "wrong")]
    return "\n".join([*lines, f"| all | {total[0]} / {total[1]} | | {total[2]} |"])


def write_data(folder: Path) -> Path:
    """Write a small prepared dataset, in a process of its own: it leaves threads behind, with which
    this one could not fork.
    """
    if not folder.exists():
        code = "import sys; from tests.tiny import *; write_tiny_dataset(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=race.ROOT, check=True)
    return folder


def write_reference(bench: Bench) -> None:
    """Run the undisturbed run."""
    run = bench.start(bench.new("undisturbed"))
    if run.finish(1200) != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{run.said()[-3000:]}")
    bench.reference = losses(run.workdir)


def main() -> int:
    """Run the matrix, print it, and write it to results/faults.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help=f"some of {','.join(FAULTS)}")
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind")
    parser.add_argument("--folder", default="", help="where runs go; kept (default: deleted)")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else [n for n in FAULTS if n != "goodput"]
    if unknown := sorted(set(names) - set(FAULTS)):
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    preload()
    # No TemporaryDirectory: runs are forked from here, and would delete it as they end.
    root = Path(args.folder or tempfile.mkdtemp(prefix="faults_")).absolute()
    root.mkdir(parents=True, exist_ok=True)
    try:
        return run_matrix(root, names, args)
    finally:
        if not args.folder:
            shutil.rmtree(root, ignore_errors=True)


def run_matrix(root: Path, names: list[str], args: argparse.Namespace) -> int:
    """Inject the faults in a folder; return 0 if all were survived."""
    bench = Bench(root, write_data(root / "data"), args.quick)
    begin = time.monotonic()
    write_reference(bench)
    results = {}
    for name in names:
        sys.stdout.write(f"{name}\n")
        results[name] = run_fault(bench, name)
    rows = list(rows_of(results))
    said = f"checkpoint every {EVERY} steps; {time.monotonic() - begin:.0f} s"
    sys.stdout.write(f"\n{table(rows)}\n\n{said}\n")
    if not args.only or args.only == "goodput":
        race.RESULTS.mkdir(parents=True, exist_ok=True)
        kind = args.only or ("quick" if args.quick else "")
        name = f"faults_{kind}.json" if kind else "faults.json"
        cases = {n: [c._asdict() for c in found] for n, found in results.items()}
        content = {"settings": settings(bench), "rows": rows, "cases": cases}
        (race.RESULTS / name).write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(r["survived"] == r["injected"] and not r["wrong"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
