"""Let the processes of a job meet over plain TCP at the coordinator's address, without JAX.

What JAX's runtime cannot say when it hangs: who came, who did not, and why the coordinator cannot
be reached. Process 0 is the hub; messages are JSON lines. The port is JAX's own: `close_door` frees
it while those who came stay connected.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from typing import Any

from jalign.errors import UserError
from jalign.train.processes import Place

NUM_PINGS = 5
LONGEST_LINE = 1 << 22  # bytes; whoever else knocks at the port is sent away
GRACE_S = 10.0  # how much longer than the hub the others wait for its answer


class Unreachable(UserError):
    """Stop because the hub cannot be reached, or went away."""


class Hub:
    """Gather one value per process and round, and answer all alike."""

    def __init__(self, port: int, num_processes: int, timeout_s: float) -> None:
        """Listen on all addresses. Raises: Unreachable where the port is taken."""
        self.num_processes, self.timeout_s = num_processes, timeout_s
        self._changed = threading.Condition()
        self._values: dict[int, dict[int, Any]] = {}
        self._ends: dict[int, float] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._owners: dict[int, list[str]] = {}  # host and process id, and a token of the meeting
        self._lost: set[int] = set()
        self._guests = 0
        self._problems: list[str] = []
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            self._listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise Unreachable(
                f"process 0 cannot listen on port {port} of {socket.gethostname()}: "
                f"{error.strerror}; another job or a former one has it"
            ) from error
        self._listener.settimeout(0.2)  # closing does not wake a thread that waits in accept
        self._open = True
        self._door = threading.Thread(target=self._accept, daemon=True)
        self._door.start()

    def close_door(self) -> None:
        """Let nobody else in and free the port."""
        self._open = False
        self._door.join()

    def drain(self) -> None:
        """Wait until all have read their answer and left, or for a few seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._guests == 0, timeout=GRACE_S / 2)

    def _accept(self) -> None:
        with self._listener:
            while self._open:
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                connection.settimeout(None)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one process until it goes."""
        process = None
        self._count(1)
        try:
            with connection, connection.makefile("rw", encoding="utf-8") as stream:
                while line := stream.readline(LONGEST_LINE):
                    message = json.loads(line)
                    if "ping" in message:
                        answer: dict[str, Any] = {"time": time.time()}
                    else:
                        number = int(message["process"])
                        fault = self._check(number, message["who"], message["num_processes"])
                        process = process if fault else number
                        answer = self._gather(number, message["round"], message["value"], fault)
                    stream.write(json.dumps(answer) + "\n")
                    stream.flush()
        except (OSError, ValueError, KeyError, TypeError):
            pass  # somebody else knocked, or the connection broke: below
        if process is not None:
            self._lost.add(process)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._guests += change
            self._changed.notify_all()

    def _check(self, process: int, who: list[str], num_processes: int) -> str:
        with self._changed:
            first = self._owners.setdefault(process, who)
        if first != who:
            return f"two processes say that they are number {process}: {first[0]} and {who[0]}"
        if num_processes != self.num_processes or not 0 <= process < num_processes:
            return (
                f"process {process} ({who[0]}) counts {num_processes} processes, "
                f"process 0 {self.num_processes}"
            )
        return ""

    def _gather(self, process: int, number: int, value: Any, fault: str) -> dict[str, Any]:
        """Wait until all that live have given their value, or until time is up."""
        with self._changed:
            end = self._ends.setdefault(number, time.monotonic() + self.timeout_s)
            values = self._values.setdefault(number, {})
            if fault:
                self._problems.append(fault)
            elif number not in self._answers:
                values[process] = value
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._problems
                    or number in self._answers
                    or len(values.keys() | self._lost) == self.num_processes
                ),
                timeout=max(0.0, end - time.monotonic()),
            )
            if number not in self._answers:
                lost = sorted(self._lost - values.keys())
                answer = {"values": dict(values), "lost": lost, "problems": self._problems}
                self._answers[number] = answer
            return self._answers[number]


class Meeting:
    """One process's side of the meeting."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        """Open the hub if this is process 0; connect to it, retrying until time is up.

        Raises: Unreachable, saying why.
        """
        self.place, self.timeout_s, self._round = place, timeout_s, 0
        self._who = [f"{socket.gethostname()}, pid {os.getpid()}", secrets.token_hex(8)]
        self.lost: list[int] = []  # came, and ended before the last gathering
        self.problems: list[str] = []
        self.hub: Hub | None = None
        if place.process_id == 0:
            self.hub = Hub(place.address[1], place.num_processes, timeout_s)
        try:
            self._socket = self._connect()
            self._socket.settimeout(timeout_s + GRACE_S)
            self._stream = self._socket.makefile("rw", encoding="utf-8")
            self.skew_s, self.round_trip_s = self._compare_clocks()
        except UserError:
            self.close_door()
            raise

    def gather(self, value: Any) -> dict[int, Any]:
        """Exchange one JSON value per process; return those of the processes that gave one in time.

        Every process gets the same. Raises: Unreachable where the hub went away.
        """
        answer = self._ask(
            {
                "process": self.place.process_id,
                "who": self._who,
                "num_processes": self.place.num_processes,
                "round": self._round,
                "value": value,
            }
        )
        self._round += 1
        self.lost, self.problems = answer["lost"], answer["problems"]
        return {int(number): value for number, value in sorted(answer["values"].items())}

    def close_door(self) -> None:
        """Free the coordinator's port; those who came stay connected."""
        if self.hub:
            self.hub.close_door()

    def close(self) -> None:
        """Leave; the hub after all others."""
        self.close_door()
        with contextlib.suppress(OSError):  # a message that was never sent
            self._stream.close()
        self._socket.close()
        if self.hub:
            self.hub.drain()

    def _connect(self) -> socket.socket:
        end = time.monotonic() + self.timeout_s
        while True:
            try:
                left = end - time.monotonic()
                return socket.create_connection(self.place.address, timeout=max(0.1, min(5, left)))
            except OSError as error:
                if time.monotonic() + 0.2 > end:
                    raise Unreachable(self._why(error)) from error
                time.sleep(0.2)

    def _why(self, error: OSError) -> str:
        host, port = self.place.address
        what = f"process {self.place.process_id} ({socket.gethostname()}) cannot reach the "
        what += f"coordinator {self.place.coordinator} within {self.timeout_s:g} s: "
        if isinstance(error, socket.gaierror):
            return what + f"the name {host!r} does not resolve here ({error.strerror})"
        if isinstance(error, ConnectionRefusedError):
            return what + (
                f"{host} refuses port {port}, so process 0 is missing or runs on another host"
            )
        if isinstance(error, TimeoutError):
            return what + (
                f"no answer from {host} on port {port}: the host is down, or a firewall is between"
            )
        return what + str(error.strerror or error)

    def _compare_clocks(self) -> tuple[float, float]:
        """Return how far this clock is ahead of the hub's, and the round trip that bounds the
        error, of the quickest of a few questions.
        """
        readings = []
        for _ in range(NUM_PINGS):
            begin, began = time.time(), time.monotonic()
            theirs = self._ask({"ping": 1})["time"]
            trip = time.monotonic() - began
            readings.append((trip, begin + trip / 2 - theirs))
        trip, skew = min(readings)
        return skew, trip

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()
            return json.loads(self._stream.readline())
        except (OSError, ValueError) as error:  # ValueError: an empty or broken line
            raise Unreachable(
                f"process 0 at {self.place.coordinator} went away or is no jalign doctor "
                f"({error}); look at its output"
            ) from error
