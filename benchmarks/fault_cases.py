"""Say how one injected fault ended."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.fault_runs import Bench, Run


class Case(NamedTuple):
    """One fault: `lost` steps had to be done again; `saving`: it struck while a save was written;
    `injected=False` says that it could not be tried here.
    """

    what: str
    survived: bool
    lost: int | None = None
    wrong: bool = False
    note: str = ""
    injected: bool = True
    saving: bool = False


def judge(
    bench: Bench, what: str, run: Run, *, lost: int | None = None, rtol: float = 0.0,
    reference: dict | None = None, also: bool = True, note: str = "",
) -> Case:  # fmt: skip
    """Judge a run that should have ended well; `also` is what else must hold."""
    code = run.finish()
    wrong = code == 0 and bench.is_wrong(run.workdir, rtol, reference)
    whole = bench.is_whole(run.workdir)
    good = code == 0 and whole and not wrong and also
    if not good:
        last = run.said().strip().splitlines()[-1:] or [""]
        note += f" exit code {code}, whole {whole}, as expected {also}: {last[0][:200]} ({run.log})"
    return Case(what, good, lost, wrong, note.strip())


def judge_refusal(what: str, run: Run, codes: tuple[int, ...], words: str) -> Case:
    """Judge a run that should have refused to go on, and said why."""
    code = run.finish()
    said = words in run.said()
    note = f"exit code {code}" + ("" if said else f", without {words!r} ({run.log})")
    return Case(what, code in codes and said, wrong=code == 0, note=note)
