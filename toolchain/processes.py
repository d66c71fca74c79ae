"""Processes of this machine as /proc shows them. Those of other users, and those that have just ended, are
passed over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process. `started` is its start in clock ticks after boot; with the id it names one process."""

    pid: int
    started: int
    command: str


def under(folder: Path) -> list[Process]:
    """Processes whose working directory or executable lies in `folder`, except this one and its ancestors."""
    real = Path(os.path.realpath(folder))
    return [process for pid in _others() if _lies_in(pid, real) and (process := describe(pid)) is not None]


def marked(variable: str, value: str) -> list[Process]:
    """Processes started with the environment variable set to `value`, except this one and its ancestors."""
    wanted = f"{variable}={value}".encode()
    return [
        process
        for pid in _others()
        if wanted in _read(pid, "environ").split(b"\0") and (process := describe(pid)) is not None
    ]


def describe(pid: int) -> Process | None:
    """The process with this id, or None when it is gone or a zombie."""
    try:
        # After the name, which may hold anything and ends at the last ")": state, parent … start time (22).
        rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if rest[0] in "ZX":
        return None
    # The program's name only: arguments are not ours to print.
    name = os.path.basename(_read(pid, "cmdline").split(b"\0")[0].decode(errors="replace"))
    return Process(pid, int(rest[19]), name or _read(pid, "comm").decode(errors="replace").strip())


def end(processes: Iterable[Process], patience: float = 10.0) -> list[Process]:
    """Ask the processes to end, kill those alive after `patience` seconds, and return any that still are."""
    alive = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in alive:
            # Stopped processes do not act on a request to end until they are continued.
            _signal(process, number)
            _signal(process, signal.SIGCONT)
        until = time.monotonic() + patience
        while (
            alive := [process for process in alive if describe(process.pid) == process]
        ) and time.monotonic() < until:
            time.sleep(0.05)
        if not alive:
            break
    return alive


def _signal(process: Process, number: signal.Signals) -> None:
    # The start time guards against an id that was given to another process meanwhile.
    now = describe(process.pid)
    if now is not None and now.started == process.started:
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def _others() -> list[int]:
    """All process ids but this one's and its ancestors'."""
    lineage = {os.getpid()}
    pid = os.getppid()
    while pid > 1 and pid not in lineage:
        lineage.add(pid)
        pid = _parent(pid)
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in lineage)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _lies_in(pid: int, folder: Path) -> bool:
    for link in ("cwd", "exe"):
        try:
            target = os.readlink(f"/proc/{pid}/{link}").removesuffix(" (deleted)")
        except OSError:
            continue
        if Path(target).is_relative_to(folder):
            return True
    return False


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
