"""Faults that end processes: signals at any moment, lost processes, other numbers of them."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks import fault_inside
from benchmarks.fault_cases import Case, judge, judge_refusal
from benchmarks.fault_runs import EVERY, PACE_S, STEPS, Bench, Run, last_step

EVALUATE = f"--config.evaluate.every={EVERY}"


def saving(workdir: Path, inside: str = "") -> bool:
    """Say whether a save is under way, and has come as far as a file of that name."""
    try:
        found = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
        return any(not inside or any(path.glob(inside)) for path in found)
    except FileNotFoundError:  # it got its name meanwhile
        return False


def new_step(workdir: Path) -> Callable[[], bool]:
    """Return whether a step has got its name since now."""
    folder = workdir / "checkpoints"

    def steps() -> set[str]:
        return {p.name for p in folder.glob("*") if p.name.isdigit()}

    before = steps()
    return lambda: bool(steps() - before)


def moments(workdir: Path, rng: random.Random) -> dict[str, Callable[[Run], bool]]:
    """Name the kinds of moments of a run; each waits for one, and says whether it came."""

    def compiled(run: Run) -> bool:
        return run.wait_for(lambda: "compiled the step" in run.said())

    def later(run: Run) -> bool:
        if not compiled(run):
            return False
        until = time.monotonic() + rng.uniform(0, 1.5 * EVERY * PACE_S)
        return run.wait_for(lambda: time.monotonic() > until)

    def starting(run: Run) -> bool:
        until = time.monotonic() + rng.uniform(0, 3)
        return run.wait_for(lambda: time.monotonic() > until)

    def at_save(name: str) -> Callable[[Run], bool]:
        return lambda run: run.wait_for(lambda: saving(workdir, name))

    return {
        "while starting": starting,
        "while training": later,
        "save begun": at_save(""),
        "save writing arrays": at_save("state*/**/d/*"),
        "save writing hashes": at_save("hashes.json"),
        "save just finished": lambda run: run.wait_for(new_step(workdir)),
        "while training, again": later,
    }


def sigkill(bench: Bench) -> Iterator[Case]:
    """Kill a run again and again until it has ended; then another, until there were enough."""
    rng, wanted, done, tries = random.Random(0), 7 if bench.quick else 50, 0, 0
    while done < wanted:
        workdir, killed = bench.new("sigkill"), []
        while done < wanted:
            kinds = moments(workdir, rng)
            kind = list(kinds)[tries % len(kinds)]
            tries += 1
            run = bench.start(workdir)
            if not kinds[kind](run):
                break  # it has ended before that moment
            time.sleep(rng.uniform(0, 0.01))
            run.send(signal.SIGKILL)
            if run.finish() != -signal.SIGKILL:
                break
            killed.append((kind, last_step(workdir), saving(workdir), run))
            done += 1
        if killed:
            yield from _resumed(bench, workdir, killed)


def _resumed(bench: Bench, workdir: Path, killed: list) -> Iterator[Case]:
    """Let a run that was killed end, and judge every kill by what came of it.

    At most the interval is lost; where a save was still written, the steps since it began as well,
    which are no more than another interval: the next save waits for it.
    """
    last = bench.start(workdir)
    whole = judge(bench, "", last)
    for (kind, reached, writing, _), (*_, after) in pairwise([*killed, (last,)]):
        # A run that was killed before it said where it goes on lost nothing of its own.
        at = after.resumed_at() if "stream pair" in after.said() else reached
        lost = max(reached - at, 0)
        note = f"at step {reached}, went on at {at}" + ", a save was being written" * writing
        good = whole.survived and lost <= EVERY * (1 + writing)
        note += f" {whole.note}"
        yield Case(f"SIGKILL {kind}", good, lost, whole.wrong, note.strip(), saving=writing)


def sigterm(bench: Bench) -> Iterator[Case]:
    """Ask a run to stop, in each of its phases."""
    for name, wait, flags, inside in (
        ("compile", lambda r: "stream pair" in r.said(), (), None),
        ("train", lambda r: last_step(r.workdir) >= 30, (), None),
        ("evaluation", lambda r: last_step(r.workdir) >= EVERY, (EVALUATE,), None),
        ("data wait", lambda r: last_step(r.workdir) >= 38, (), fault_inside.slow_batch),
        ("save", lambda r: saving(r.workdir), (), None),
        ("train, twice", lambda r: last_step(r.workdir) >= 30, (), None),
    ):
        run = bench.start(bench.new("sigterm"), *flags, inside=inside)
        run.wait_for(lambda run=run, wait=wait: wait(run))
        run.send(signal.SIGTERM)
        if "twice" in name:
            time.sleep(0.05)
            run.send(signal.SIGTERM)
        code, reached = run.finish(), last_step(run.workdir)
        after = bench.start(run.workdir, *flags)
        after.finish()
        lost = reached - after.resumed_at()
        right = code == 143 and lost == 0
        yield judge(bench, f"SIGTERM in {name}", after, lost=lost, also=right, note=f"code {code}")


def _finish_all(runs: list[Run]) -> list[int]:
    return [run.finish(600) for run in runs]


def sigterm_one_of_two(bench: Bench) -> Iterator[Case]:
    """Ask one of two processes to stop: both save and end."""
    for who in (0, 1):
        workdir = bench.new("one_of_two")
        runs = bench.start_many(2, workdir)
        runs[0].wait_for(lambda w=workdir: last_step(w) >= 30)
        runs[who].send(signal.SIGTERM)
        codes, reached = _finish_all(runs), last_step(workdir)
        again = bench.start_many(2, workdir)
        _finish_all(again)
        lost = reached - again[0].resumed_at()
        right = codes == [143, 143] and lost == 0
        what = f"SIGTERM to process {who} of 2"
        yield judge(bench, what, again[0], lost=lost, rtol=1e-5, also=right, note=f"codes {codes}")


def one_of_two_lost(bench: Bench) -> Iterator[Case]:
    """Kill or stop one of two processes: the other notices, and both start again."""
    for who, number in ((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)):
        workdir = bench.new("lost")
        runs = bench.start_many(2, workdir, "--config.hang_s=20")
        runs[0].wait_for(lambda w=workdir: last_step(w) >= 30)
        runs[who].send(number)
        code, reached = runs[1 - who].finish(200), last_step(workdir)
        runs[who].send(signal.SIGKILL)  # as launchers do with what is left
        runs[who].finish()
        again = bench.start_many(2, workdir)
        _finish_all(again)
        lost = reached - again[0].resumed_at()
        what = f"{number.name} to process {who} of 2"
        note = f"the other ended with {code}"
        yield judge(bench, what, again[0], lost=lost, rtol=1e-5, also=code != 0, note=note)


def _chain(
    bench: Bench, what: str, start: Callable[[Path, int], list[Run]], sizes: tuple, number: int
) -> Case:
    """Run a part of the way on each size, ended by a signal; judge the last."""
    workdir, lost, codes, reached = bench.new("chain"), 0, [], 0
    for i, size in enumerate(sizes):
        runs = start(workdir, size)
        if i < len(sizes) - 1:
            goal = (i + 1) * STEPS // len(sizes)
            runs[0].wait_for(lambda goal=goal: last_step(workdir) >= goal)
            for run in runs if number == signal.SIGKILL else runs[:1]:
                run.send(number)
        codes.append({run.finish(600) for run in runs})
        lost = max(lost, reached - runs[0].resumed_at())
        reached = last_step(workdir)
    ended = {-number} if number == signal.SIGKILL else {128 + number}
    right = codes == [ended] * (len(sizes) - 1) + [{0}] and (number == signal.SIGKILL or not lost)
    return judge(bench, what, runs[0], lost=lost, rtol=1e-5, also=right, note=f"codes {codes}")


def devices(bench: Bench) -> Iterator[Case]:
    """Go on with other numbers of devices."""

    def start(workdir: Path, num: int) -> list[Run]:
        return [bench.start(workdir, devices=num)]

    yield _chain(bench, "8 -> 4 -> 1 -> 8 devices", start, (8, 4, 1, 8), signal.SIGTERM)


def processes(bench: Bench) -> Iterator[Case]:
    """Go on with other numbers of processes, of two devices each, stopped or killed."""

    def start(workdir: Path, num: int) -> list[Run]:
        return bench.start_many(num, workdir) if num > 1 else [bench.start(workdir)]

    for number in (signal.SIGTERM, signal.SIGKILL):
        what = f"1 -> 2 -> 4 processes, {number.name} between"
        yield _chain(bench, what, start, (1, 2, 4), number)


def two_jobs(bench: Bench) -> Iterator[Case]:
    """Start a second job on the same workdir."""
    first = bench.start(bench.new("two_jobs"), pace_s=0.15)
    first.wait_for(lambda: last_step(first.workdir) >= 2)
    yield judge_refusal("the second job", bench.start(first.workdir), (2,), "is in use by process")
    yield judge(bench, "the first job", first)
