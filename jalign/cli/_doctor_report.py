"""Judge what `jalign doctor` found, and write it as a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jalign.cli._doctor_probes import OPTIONAL
from jalign.train.lock import describe

Reports = Mapping[int, Mapping[str, Any]]

MAX_SKEW_S = 1.0  # file times and logs of the hosts no longer compare
LOW_GIB = 10.0  # XLM-R base with Adam: 3.3 GB per checkpoint, and three are kept
SLOW_MIB_S = 50.0


class Finding(NamedTuple):
    """One thing to say: `wrong` makes the exit code 2."""

    wrong: bool
    text: str


def who(reports: Reports, numbers: Sequence[int]) -> str:
    """Name processes with their hosts: "0 (node1), 3 (node2)"."""
    named = [f"{n} ({reports[n]['host']})" if n in reports else str(n) for n in numbers]
    shown = named if len(named) <= 12 else [*named[:12], f"... {len(named) - 12} more"]
    return ", ".join(shown)


def judge(reports: Reports, num_processes: int, timeout_s: float) -> list[Finding]:
    """Say what is wrong or worth knowing, missing processes first; `num_processes` are expected."""
    found = _missing(reports, num_processes, timeout_s)
    found += _versions(reports) + _clocks(reports) + _workdirs(reports)
    found += _devices(reports) + _machines(reports)
    return sorted(found, key=lambda f: not f.wrong)


def _missing(reports: Reports, num_processes: int, timeout_s: float) -> list[Finding]:
    absent = [n for n in range(num_processes) if n not in reports]
    if not absent:
        return []
    one = len(absent) == 1
    return [
        Finding(
            True,
            f"process{'' if one else 'es'} {who({}, absent)} of {num_processes} "
            f"{'is' if one else 'are'} missing after {timeout_s:g} s; here: "
            f"{who(reports, sorted(reports))}. Look at the output of the missing: it was not "
            "started, still sets itself up (--timeout), or cannot reach the coordinator",
        )
    ]


def _grouped(reports: Reports, key: Any) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for number, report in reports.items():
        groups.setdefault(key(report), []).append(number)
    return groups


def _versions(reports: Reports) -> list[Finding]:
    found = []
    for package in next(iter(reports.values()))["versions"]:
        groups = _grouped(reports, lambda r, name=package: r["versions"].get(name))
        if len(groups) > 1:
            said = "; ".join(f"{v or 'none'} on {who(reports, ns)}" for v, ns in groups.items())
            found.append(Finding(True, f"{package} differs: {said}. Install the same everywhere"))
        elif None in groups and package not in OPTIONAL:
            found.append(Finding(True, f"{package} is not installed"))
    return found


def _clocks(reports: Reports) -> list[Finding]:
    return [
        Finding(
            True,
            f"the clock of process {who(reports, [n])} is {abs(r['skew_s']):.1f} s "
            f"{'ahead of' if r['skew_s'] > 0 else 'behind'} process 0's: start its time service "
            "(chrony, ntp)",
        )
        for n, r in reports.items()
        if abs(r.get("skew_s", 0)) - r.get("round_trip_s", 0) / 2 > MAX_SKEW_S
    ]


def _workdirs(reports: Reports) -> list[Finding]:
    found, locks = [], []
    for number, report in reports.items():
        disk, name = report.get("workdir"), who(reports, [number])
        if not disk:
            continue
        if "fault" in disk:
            what = "has no room left" if disk.get("full") else "cannot be written"
            text = f"process {name}: --workdir {what}: {disk['fault']}"
            found.append(Finding(True, text))
            continue
        if report.get("sees_workdir") is False:
            text = f"process {name} sees another {disk['base']} than process 0: all processes "
            text += "write their part of a checkpoint there, so --workdir must be on shared storage"
            found.append(Finding(True, text))
        if disk["free_gib"] < LOW_GIB:
            text = f"process {name}: {disk['free_gib']:.1f} GiB free in {disk['base']}"
            text += "; a checkpoint takes what jalign plan calls parameters and optimiser, of all "
            found.append(
                Finding(False, text + "devices together, and config.keep of them are kept")
            )
        if disk["write_mib_s"] < SLOW_MIB_S:
            text = f"process {name} writes {disk['write_mib_s']:.0f} MiB/s into {disk['base']}"
            found.append(Finding(False, text + ": saves take long, and the run waits at its end"))
        if disk["lock"]["state"] != "free" and disk["lock"] not in locks:
            locks.append(disk["lock"])  # all processes see the same one
            found.append(_lock(disk))
    return found


def _lock(disk: Mapping[str, Any]) -> Finding:
    if disk["lock"]["state"] == "unsupported":
        return Finding(
            False,
            f"the file system of {disk['path']} has no locks: nothing keeps two jobs from one "
            "workdir",
        )
    owner = describe(disk["lock"]["owner"])
    return Finding(True, f"{disk['path']} is in use by {owner}: wait or stop it")


def _devices(reports: Reports) -> list[Finding]:
    found = []
    for number, report in reports.items():
        devices, name = report.get("devices"), who(reports, [number])
        if devices is None:
            continue
        if "error" in devices:
            found.append(Finding(True, f"process {name}: {devices['error']}"))
        elif not devices["sum_right"]:
            found.append(Finding(True, f"process {name}: a sum over all devices came out wrong"))
        elif devices["platform"] == "cpu" and "JAX_PLATFORMS" not in report["environment"]:
            for kind, count in report["device_files"].items():
                text = f"process {name} has {count} {kind} device file(s), and JAX uses the CPU: "
                text += "pip install 'jax[tpu]', 'jax[cuda12]' or 'jax[cuda13]'"
                found.append(Finding(True, text))
    good = {n: r for n, r in reports.items() if "error" not in (r.get("devices") or {"error": 1})}
    groups = _grouped(good, lambda r: (r["devices"]["local"], r["devices"]["kind"]))
    if len(groups) > 1:
        said = "; ".join(f"{n} x {kind} in {who(good, ns)}" for (n, kind), ns in groups.items())
        found.append(Finding(True, f"the processes have unequal devices: {said}"))
    return found


def _machines(reports: Reports) -> list[Finding]:
    """Note what slows or hangs a run without being wrong."""
    found = []
    proxied = [n for n, r in reports.items() if r["proxies"] and "skew_s" in r]
    if proxied:
        names = ", ".join(sorted({p for n in proxied for p in reports[n]["proxies"]}))
        text = f"{names} set for process {who(reports, proxied)}: if the start hangs, unset them "
        found.append(Finding(False, text + "or list the coordinator's host in no_proxy"))
    on_cpu = [n for n, r in reports.items() if (r.get("devices") or {}).get("platform") == "cpu"]
    never = [n for n in on_cpu if reports[n]["huge_pages"] == "never"]
    if never:
        text = f"the kernel gives process {who(reports, never)} no huge pages: training on the CPU "
        found.append(Finding(False, text + "is slower (transparent_hugepage/enabled: madvise)"))
    other = [n for n in on_cpu if reports[n]["libc"] != "glibc"]
    if other:
        text = f"process {who(reports, other)} has no glibc, whose allocator is set to huge pages "
        found.append(Finding(False, text + "in training: about a third of the speed on a CPU"))
    return found


def table(reports: Reports, title: str, findings: Sequence[Finding]) -> str:
    """Write everything for a reader."""
    first = next(iter(reports.values()))
    versions = ", ".join(f"{n} {v}" for n, v in first["versions"].items() if v)
    lines = [title, f"versions: {versions}", f"system: {_system(first)}"]
    lines += [f"{name}={value}" for name, value in first["environment"].items()]
    rows = [("process", "host", "pid", "devices", "clock", "workdir")]
    rows += [_row(n, r) for n, r in reports.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows), ""]
    lines += [f"{'WRONG' if f.wrong else 'note'}: {f.text}" for f in findings]
    if not any(f.wrong for f in findings):
        lines.append("all is well")
    return "\n".join(lines) + "\n"


def _system(report: Mapping[str, Any]) -> str:
    tunables = "GLIBC_TUNABLES" in report["environment"]
    allocator = "as GLIBC_TUNABLES says" if tunables else "set by jalign pretrain itself"
    if report["libc"] != "glibc":
        allocator = "left alone (no glibc)"
    return (
        f"{report['platform']}, {report['cores']} cores, {report['memory_free_gib']} of "
        f"{report['memory_gib']} GiB of memory free, huge pages {report['huge_pages']}, allocator "
        + allocator
    )


def _row(number: int, report: Mapping[str, Any]) -> tuple[str, ...]:
    devices, disk = report.get("devices"), report.get("workdir")
    if not devices:
        on = "not started"
    elif "error" in devices:
        on = "no answer"
    else:
        on = f"{devices['local']} of {devices['all']} x {devices['kind']}"
        on += f", start {devices['start_s']:.1f} s, sum {devices['sum_s']:.1f} s"
    clock = (
        f"{1000 * report['skew_s']:+.0f} ms" if "skew_s" in report else time.strftime("%H:%M:%S")
    )
    if not disk:
        place = "not given"
    elif "fault" in disk:
        place = disk["fault"]
    else:
        place = f"{disk['free_gib']:.0f} GiB free, {disk['write_mib_s']:.0f} MiB/s, lock "
        place += disk["lock"]["state"]
    return (str(number), report["host"], str(report["pid"]), on, clock, place)
