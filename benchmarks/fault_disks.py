"""Faults of disks: full, read-only, slow; a folder that cannot be written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fault_inside
from benchmarks.fault_cases import Case, judge
from benchmarks.fault_runs import EVERY, Bench, last_step

SIZE = "6m"
NO_MOUNT = "mounting a small disk needs root"


@contextlib.contextmanager
def disk(folder: Path, *options: str) -> Iterator[bool]:
    """Mount a small disk in memory at a folder; False where this user may not."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={SIZE}", *options]), "tmpfs"]
    done = subprocess.run([*command, str(folder)], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder to its last byte."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0")
    return path


def disk_full(bench: Bench) -> Iterator[Case]:
    """Fill the disk before a save, or between saves, and make room once the run has said so."""
    for what, every, words in (
        ("at a save", EVERY, "could not be written"),
        ("at the log", 1000, "records are kept until there is room"),
    ):
        with disk(bench.new("disk")) as there:
            folder = bench.root / f"{bench.count:03d}_disk"
            if not there:
                yield Case(f"disk full {what}", False, note=NO_MOUNT, injected=False)
                continue
            flag = f"--config.checkpoint_every={every}"
            run = bench.start(folder / "run", flag, pace_s=0.1)
            run.wait_for(lambda run=run: last_step(run.workdir) >= 30)
            filler = fill(folder)
            run.wait_for(lambda run=run, words=words: words in run.said())
            filler.unlink()
            run.finish()
            words_said = words in run.said()
            yield judge(bench, f"disk full {what}", run, lost=0, also=words_said)


def export(bench: Bench) -> Iterator[Case]:
    """Fill the disk during an export; then export again with room."""
    base = bench.new("exported")
    bench.start(base, pace_s=0).finish()
    with disk(bench.new("disk")) as there:
        folder = bench.root / f"{bench.count:03d}_disk"
        if not there:
            yield Case("disk full at export", False, note=NO_MOUNT, injected=False)
            return
        argv = ["export", f"--input={base}", f"--output={folder / 'model'}"]
        filler = fill(folder)
        run = bench.fork(folder / "export", argv, {})
        code, half = run.finish(), (folder / "model").exists()
        filler.unlink()
        again = bench.fork(folder / "export", argv, {})
        whole = again.finish() == 0 and (folder / "model/config.json").exists()
        good = code not in (0, None) and not half and "No space" in run.said() and whole
        note = f"exit code {code}, then {again.code}; half a folder there: {half}"
        yield Case("disk full at export", good, wrong=code == 0, note=note)


def read_only(bench: Bench) -> Iterator[Case]:
    """Make the folder of checkpoints read-only during a save, and writable again."""
    run = bench.start(bench.new("read_only"), pace_s=0.1)
    run.wait_for(lambda: last_step(run.workdir) >= 30)
    with disk(run.workdir / "checkpoints", "ro") as there:
        if not there:
            run.finish()
            yield Case("checkpoints read-only", False, note=NO_MOUNT, injected=False)
            return
        run.wait_for(lambda: "could not be written" in run.said())
    run.finish()
    said = "could not be written" in run.said()
    yield judge(bench, "checkpoints read-only", run, lost=0, also=said)


def slow_storage(bench: Bench) -> Iterator[Case]:
    """Let saves take longer than the interval between them."""
    run = bench.start(bench.new("slow_storage"), inside=fault_inside.slow_storage)
    yield judge(bench, "saves slower than their interval", run, lost=0)


def tensorboard(bench: Bench) -> Iterator[Case]:
    """Put a file where the TensorBoard folder should be."""
    workdir = bench.new("tensorboard")
    workdir.mkdir()
    (workdir / "tensorboard").write_text("in the way")
    run = bench.start(workdir, pace_s=0)
    run.finish()
    said = run.said().count("goes on without") == 1 and os.path.isfile(workdir / "tensorboard")
    yield judge(bench, "TensorBoard folder unwritable", run, lost=0, also=said)
