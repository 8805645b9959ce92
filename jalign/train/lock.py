"""Let one job at a time write into a workdir.

A POSIX record lock on `workdir/lock`: it holds between hosts on NFS (version 4) and Lustre, ends
with its process however that ends, and is not inherited by loader workers. The file says who. (Such
a lock also ends when its own process closes the file elsewhere: nobody else in a run opens it.)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from jalign.errors import ConfigError

LOCK_FILE = "lock"
BUSY = (errno.EACCES, errno.EAGAIN)
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class WorkdirLock:
    """Hold a workdir's lock; `held` is False where the file system has no locks."""

    def __init__(self, workdir: Path, wait_s: float = 5.0) -> None:
        """Prepare; a former job that is about to end gets `wait_s` for that."""
        self.path, self.wait_s, self.held = workdir / LOCK_FILE, wait_s, False

    def __enter__(self) -> WorkdirLock:
        """Take the lock. Raises: ConfigError naming the job that has it, or where nothing can be
        written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot write into --workdir={self.path.parent}: {error.strerror}; name a folder "
                "that this user may write"
            ) from error
        until = time.monotonic() + self.wait_s
        while (taken := _take(self._file, fcntl.LOCK_EX)) is False:
            if time.monotonic() > until:
                self._file.close()
                raise ConfigError(
                    f"{self.path.parent} is in use by {describe(read_owner(self.path))}: wait "
                    "until it ends, stop it, or use another --workdir"
                )
            time.sleep(0.2)
        self.held = taken is True
        if not self.held:
            return self
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self._file.truncate(0)
        self._file.write(json.dumps(owner) + "\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go; the file stays, as removing it would let two jobs lock two files of one name."""
        if self.held:
            self._file.truncate(0)
        self._file.close()


def lock_state(workdir: Path) -> dict[str, Any]:
    """Say how a workdir's lock stands: `state` is "free", "held" (with `owner`) or "unsupported".

    Nothing is written. Takes a shared lock for a moment, which a starting job waits out.
    """
    path = workdir / LOCK_FILE
    try:
        with open(path, encoding="utf-8") as file:
            taken = _take(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return {"state": "free"}
    if taken is None:
        return {"state": "unsupported"}
    return {"state": "free"} if taken else {"state": "held", "owner": read_owner(path)}


def read_owner(path: Path) -> dict[str, Any]:
    """Read who wrote a lock file; {} where it does not say."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def describe(owner: dict[str, Any]) -> str:
    """Name the owner of a lock."""
    if not {"host", "pid", "since"} <= owner.keys():
        return "another job"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
    return f"process {owner['pid']} on {owner['host']}, since {since}"


def _take(file: Any, kind: int) -> bool | None:
    """Try a lock: True taken, False another has it, None no locks here."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True
