"""Faults of files: every file of a checkpoint, prepared data, the compilation cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.fault_cases import Case, judge, judge_refusal
from benchmarks.fault_runs import EVERY, Bench, Run, last_step


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"flipped": flip, "truncated": truncate, "deleted": os.remove}


def files_below(folder: Path) -> list[Path]:
    """List all files that have content, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def half_done(bench: Bench) -> Path:
    """Return the workdir of a run that was killed with the checkpoints of steps 25, 50 and 75."""
    workdir = bench.new("half_done")
    run = bench.start(workdir)
    run.wait_for(lambda: (workdir / "checkpoints" / str(3 * EVERY)).is_dir())
    run.send(signal.SIGKILL)
    run.finish()
    return workdir


def checkpoint_files(bench: Bench) -> Iterator[Case]:
    """Damage each file of the newest checkpoint in each way."""
    base, newest = half_done(bench), f"checkpoints/{3 * EVERY}"
    reached = last_step(base)
    names = [p.relative_to(base) for p in files_below(base / newest)]
    for name in names[:: 6 if bench.quick else 1]:
        for how, damage in DAMAGE.items():
            workdir = bench.copy(base, "files")
            damage(workdir / name)
            run = bench.start(workdir, pace_s=0)
            run.finish()
            at = run.resumed_at()
            note = f"went on at {at}"
            lost = reached - at
            yield judge(bench, f"{name.relative_to(newest)} {how}", run, lost=lost, note=note)
            shutil.rmtree(workdir)


def _swap(data: Path) -> None:
    """Put the columns of one source in the place of another's."""
    pair = data / "columns/pair"
    shutil.rmtree(pair / "en-de/train")
    shutil.copytree(pair / "en-ru/train", pair / "en-de/train")


def _edit_manifest(data: Path) -> None:
    """Change a count of the manifest."""
    path = data / "manifest.json"
    content = json.loads(path.read_text())
    content["sources"][0]["splits"]["train"]["count"] += 1
    path.write_text(json.dumps(content))


def data(bench: Bench) -> Iterator[Case]:
    """Damage the prepared data of a run that is to go on, then put it back."""
    base, column = half_done(bench), "columns/pair/en-de/train/src.ids.npy"
    faults: dict[str, tuple[Callable[[Path], object], str]] = {
        "shard flipped": (lambda d: flip(d / column), "holds other bytes"),
        "shard truncated": (lambda d: truncate(d / column), "bytes of"),
        "foreign shard": (_swap, "it holds something else"),
        "manifest changed": (_edit_manifest, "was changed by hand"),
        "tokenizer missing": (lambda d: shutil.rmtree(d / "tokenizer"), "tokenizer"),
    }
    for name, (fault, words) in faults.items():
        workdir, copied = bench.copy(base, "data"), bench.root / f"data_{name.replace(' ', '_')}"
        shutil.copytree(bench.data, copied)
        fault(copied)
        flag = f"--config.data={copied}"  # the path is no part of what a run must agree with
        yield judge_refusal(name, bench.start(workdir, flag), (2, 3), words)
        again = bench.start(workdir, pace_s=0)
        yield judge(bench, f"{name}, then put back", again)
    workdir, copied = bench.copy(base, "data"), bench.root / "data_missing"
    shutil.copytree(bench.data, copied)
    os.remove(copied / column)
    run = bench.start(workdir, f"--config.data={copied}", pace_s=0)
    yield judge(bench, "shard missing (rebuilt from the records)", run)


def cache_everything() -> None:
    """Keep programs that compile in no time too."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compile_cache(bench: Bench) -> Iterator[Case]:
    """Damage every file of the compilation cache."""

    def start(name: str, cache: Path) -> Run:
        env = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        return bench.start(bench.new(name), env=env, inside=cache_everything, pace_s=0)

    base = bench.root / "cache"
    start("cache", base).finish()
    num = len(files_below(base))
    for how, damage in DAMAGE.items():
        cache = bench.root / f"cache_{how}"
        shutil.copytree(base, cache)
        for path in files_below(cache):
            damage(path)
        run = start(f"cache_{how}", cache)
        yield judge(bench, f"compilation cache {how}", run, also=num > 0, note=f"{num} files")
