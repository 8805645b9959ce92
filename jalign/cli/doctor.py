"""Say what is installed, which devices and processes see each other, and why a start hangs.

`--distributed`: start it in place of `jalign pretrain`, once per process, and process 0 tells what
all of them found. `--workdir`: room, write speed, lock, and whether all processes share it. Exit
code 0 where nothing is wrong, 2 where something is.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.errors import UserError


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    from jalign.cli._doctor_probes import probe_machine, probe_workdir

    report = probe_machine()
    if fv.workdir:
        report["workdir"] = probe_workdir(Path(fv.workdir), fv.write_mib)
    if fv.distributed:
        return _meet(fv, report)
    report["devices"] = _devices_within(fv.timeout)
    code = _say(fv, {0: report}, 1, "jalign doctor: one process", [])
    return _leave(code, report)


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run to look at", flag_values=fv)
    flags.DEFINE_bool(
        "distributed",
        False,
        "meet the other processes as jalign pretrain --distributed would",
        flag_values=fv,
    )
    flags.DEFINE_float(
        "timeout", 60.0, "seconds for processes to come and devices to answer", 1, flag_values=fv
    )
    flags.DEFINE_integer("write_mib", 64, "MiB to write for the speed", 1, flag_values=fv)
    flags.DEFINE_bool("json", False, "write JSON instead of a table", flag_values=fv)
    parse(fv, "doctor", argv)
    return fv


def _meet(fv: flags.FlagValues, report: dict[str, Any]) -> int:
    """Look at all processes together; process 0 tells."""
    from jalign.train.processes import find_place
    from jalign.train.rendezvous import Meeting

    place = find_place(timeout_s=int(fv.timeout))
    title = (
        f"jalign doctor: {place.num_processes} processes, coordinator {place.coordinator} "
        f"({place.scheduler})"
    )
    meeting, reports, problems = None, {place.process_id: report}, []
    try:
        meeting = Meeting(place, fv.timeout)
        report["skew_s"], report["round_trip_s"] = meeting.skew_s, meeting.round_trip_s
        reports = _gather(meeting, fv, place, report)
        problems = meeting.problems
    except UserError as error:
        problems = [str(error)]
    # process 0 tells for all; where it could not be reached, each shows itself
    quiet = place.process_id != 0 and len(reports) > 1
    code = _say(fv, reports, place.num_processes, title, problems, quiet=quiet)
    if meeting:
        meeting.close()
    return _leave(code, report)


def _gather(meeting: Any, fv: flags.FlagValues, place: Any, report: dict) -> dict[int, Any]:
    """Exchange reports, then start the devices if all are there, and exchange what came of it."""
    from jalign.cli._doctor_probes import marker, sees_marker

    disk = report.get("workdir", {})
    token = secrets.token_hex(8)
    own = Path(disk["base"]) if place.process_id == 0 and "write_mib_s" in disk else None
    with marker(own, token):
        reports = meeting.gather(report | {"token": token if own else ""})
        meeting.close_door()
        if meeting.problems or len(reports) < place.num_processes:
            return reports
        if disk and reports[0]["token"]:
            report["sees_workdir"] = sees_marker(reports[0]["workdir"]["base"], reports[0]["token"])
        report["devices"] = _devices_within(fv.timeout, place)
        latest = meeting.gather(report)
    for number, before in reports.items():  # who came and fell silent keeps its first report
        silent = "it ended" if number in meeting.lost else f"silent for {fv.timeout:g} s"
        failed = {"error": f"{silent} while JAX's runtime started"}
        reports[number] = latest.get(number, before | {"devices": failed})
    return reports


def _devices_within(timeout_s: float, place: Any = None) -> dict[str, Any]:
    """Start the devices, of all processes where there is a `place`; {"error": ...} if that fails
    or takes longer than `timeout_s`.
    """
    from jalign.cli._doctor_probes import probe_devices
    from jalign.train.processes import start

    def work() -> dict[str, Any]:
        if place:
            start(place, timeout_s=2 * int(timeout_s) + 60)  # ours is the first to give up
        return probe_devices()

    return _within(timeout_s, work)


@contextlib.contextmanager
def _only_stderr() -> Iterator[None]:
    """Send standard output to stderr meanwhile: Gloo writes there, and it is for our answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _within(timeout_s: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "error": f"JAX's devices did not answer within {timeout_s:g} s; a process that holds them "
        "(another run?) or a network that the processes do not share can be the cause"
    }

    def run() -> None:
        nonlocal result
        try:
            result = work()
        except Exception as error:
            result = {"error": f"JAX failed to start its devices: {type(error).__name__}: {error}"}

    thread = threading.Thread(target=run, daemon=True)
    with _only_stderr():
        thread.start()
        thread.join(timeout_s)
    return dict(result, hangs=True) if thread.is_alive() else result


def _say(
    fv: flags.FlagValues,
    reports: dict[int, Any],
    num_processes: int,
    title: str,
    problems: list[str],
    *,
    quiet: bool = False,
) -> int:
    """Write the table or JSON, and return the exit code; who is quiet only says what is wrong."""
    from jalign.cli._doctor_report import Finding, judge, table

    # a problem ends the meeting early: who is not here by then is not missing
    findings = [Finding(True, text) for text in dict.fromkeys(problems)]
    findings += judge(reports, 0 if problems else num_processes, fv.timeout)
    code = 2 if any(f.wrong for f in findings) else 0
    if quiet:
        sys.stderr.writelines(f"jalign: {f.text}\n" for f in findings if f.wrong)
    elif fv.json:
        content = {
            "ok": code == 0,
            "title": title,
            "processes": reports,
            "findings": [f._asdict() for f in findings],
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.write(table(reports, title, findings))
    sys.stdout.flush()
    return code


def _leave(code: int, report: dict[str, Any]) -> int:
    """Return the exit code; where JAX's runtime hangs, end at once: its clean-up would hang too."""
    if (report.get("devices") or {}).get("hangs"):
        sys.stderr.flush()
        os._exit(code)
    return code
