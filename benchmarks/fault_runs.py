"""Start real runs for the fault matrix, watch them, and compare what they logged.

Every run is a process of its own, forked from one that has imported the libraries (that saves the
seconds of importing, nothing else: JAX starts in the run), and it does what `jalign ARGS` does.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import race

CONFIG = Path(__file__).parent / "fault_config.py"
STEPS, EVERY = 100, 25  # as in fault_config.py
PACE_S = 0.02  # per batch: a step takes as long as that, so that a save takes a few steps


def preload() -> None:
    """Import what runs need, and check that nothing has started JAX's devices."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax._src.xla_bridge as bridge

    import jalign.cli.main
    import jalign.cli.pretrain
    import jalign.data.tfds_source
    import jalign.evals.heldout
    import jalign.objectives.tlm
    import jalign.train.convert
    import jalign.train.loop
    import jalign.train.run  # noqa: F401

    if bridge.backends_are_initialized():
        raise RuntimeError("importing jalign starts JAX's devices: runs cannot be forked")


@dataclass
class Run:
    """One process."""

    pid: int
    workdir: Path
    log: Path
    code: int | None = None

    def said(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ended(self) -> bool:
        """Look whether it has ended; negative codes are signals, as in subprocess."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 300) -> bool:
        """Wait until a condition holds; False where the run ends first."""
        until = time.monotonic() + timeout_s
        while not condition():
            if self.ended():
                return False
            if time.monotonic() > until:
                self.send(signal.SIGKILL)
                raise TimeoutError(
                    f"{self.workdir}: not within {timeout_s} s\n{self.said()[-1500:]}"
                )
            time.sleep(0.002)
        return True

    def finish(self, timeout_s: float = 300) -> int:
        """Wait until it ends; return its exit code."""
        self.wait_for(lambda: False, timeout_s)
        return self.code

    def resumed_at(self) -> int:
        """Return the step at which it went on, 0 for a new run."""
        found = re.search(r"(?:resuming|finished) at step (\d+)", self.said())
        return int(found[1]) if found else 0


def losses(workdir: Path) -> dict[int, float]:
    """Read the logged losses by step."""
    path, found = workdir / "metrics.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut short by a kill
            continue
        found[record["step"]] = record["loss"]
    return found


def last_step(workdir: Path) -> int:
    """Return the last step that was logged."""
    return max(losses(workdir), default=0)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@dataclass
class Bench:
    """Where runs live, and the undisturbed one that all are compared with."""

    root: Path
    data: Path
    quick: bool = False
    reference: dict[int, float] = field(default_factory=dict)
    count: int = 0

    def new(self, name: str) -> Path:
        """Return the path of a new workdir."""
        self.count += 1
        return self.root / f"{self.count:03d}_{name}"

    def start(
        self,
        workdir: Path,
        *flags: str,
        devices: int = 1,
        env: Mapping[str, str] | None = None,
        inside: Callable[[], None] | None = None,
        pace_s: float = PACE_S,
        data: Path | None = None,
    ) -> Run:
        """Start `jalign pretrain`; `inside` runs in the new process before anything else."""
        argv = [
            "pretrain",
            f"--config={CONFIG}:{data or self.data}",
            f"--workdir={workdir}",
            *flags,
        ]
        xla = f"--xla_force_host_platform_device_count={devices}"
        return self.fork(workdir, argv, {"XLA_FLAGS": xla, **(env or {})}, inside, pace_s)

    def fork(
        self,
        workdir: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        inside: Callable[[], None] | None = None,
        pace_s: float = 0.0,
    ) -> Run:
        """Start `jalign ARGV` in a process of its own."""
        self.count += 1
        log = self.root / "logs" / f"{self.count:03d}_{workdir.name}.log"
        log.parent.mkdir(exist_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return Run(pid, workdir, log)
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.environ.update(env)
            sys.argv = ["jalign", *argv]
            code = _run(argv, inside, pace_s)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def start_many(self, num: int, workdir: Path, *flags: str, devices: int = 2) -> list[Run]:
        """Start one job of `num` processes with so many devices each."""
        port = free_port()
        return [
            self.start(
                workdir,
                "--distributed",
                *flags,
                devices=devices,
                env={
                    "JALIGN_COORDINATOR": f"localhost:{port}",
                    "JALIGN_NUM_PROCESSES": str(num),
                    "JALIGN_PROCESS_ID": str(i),
                },
            )
            for i in range(num)
        ]

    def is_wrong(self, workdir: Path, rtol: float = 0.0, reference: dict | None = None) -> bool:
        """Say whether a run logged any other loss than the undisturbed one."""
        wanted = self.reference if reference is None else reference
        return any(
            abs(loss - wanted[step]) > rtol * abs(wanted[step])
            for step, loss in losses(workdir).items()
        )

    def is_whole(self, workdir: Path) -> bool:
        """Say whether every step of a run is logged."""
        return sorted(losses(workdir)) == list(range(1, STEPS + 1))

    def copy(self, base: Path, name: str) -> Path:
        """Copy a workdir."""
        workdir = self.new(name)
        shutil.copytree(base, workdir)
        return workdir


def _run(argv: Sequence[str], inside: Callable[[], None] | None, pace_s: float) -> int:
    """Do what `jalign ARGV` does, and end as a process does."""
    from jalign.cli.main import main
    from jalign.data.pipeline import BatchSource

    if pace_s:
        batch_of_step = BatchSource.__getitem__

        def paced(self, step):
            time.sleep(pace_s)
            return batch_of_step(self, step)

        BatchSource.__getitem__ = paced
    if inside:
        inside()
    try:
        code = main(list(argv))
    except Exception:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # JAX leaves the other processes in order
    return code


def settings(bench: Bench) -> dict:
    """Say what was run."""
    return {"steps": STEPS, "checkpoint_every": EVERY, "pace_s": PACE_S, "quick": bench.quick,
            "machine": race.machine_facts()}  # fmt: skip
