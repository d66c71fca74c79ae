"""The operating system's processes, from /proc: which ones belong to a node, and signals that cannot hit a
stranger.

A process belongs to a node when its working directory lies below the node's folder, when its environment says
so (WMS_NODE=<node> and a HOME below that folder: a second witness, for PostgreSQL overwrites its environment
and others may change their directory), or when one of its ancestors belongs. A node's name alone never
counts: several platforms live on one machine, and each has a pg-1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class OsProcess:
    """A process; pid and start time (clock ticks since boot) together name it for ever."""

    pid: int
    parent: int
    start: int
    state: str
    """One letter of proc(5): R, S, D, T (stopped), Z…"""
    name: str
    process: str = ""
    """The supervised process that it is part of, as far as the working directory or WMS_PROCESS tells."""

    @property
    def stopped(self) -> bool:
        return self.state in ("T", "t")


def of_node(folder: Path, node: str) -> tuple[OsProcess, ...]:
    """The living processes of `node`, whose folder is `folder`, by pid. Zombies are dead and left out.

    What this user may not look into is judged by its ancestors only; see `opaque`.
    """
    table = {process.pid: process for process in _all()}
    exempt = _lineage(table)
    belonging: dict[int, str] = {}
    for pid in table:
        found = _claim(pid, str(folder), node)
        if found is not None and pid not in exempt:
            belonging[pid] = found
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    queue = list(belonging)
    while queue:
        pid = queue.pop()
        for child in children.get(pid, ()):
            if child not in belonging and child not in exempt:
                belonging[child] = belonging[pid]
                queue.append(child)
    return tuple(
        OsProcess(p.pid, p.parent, p.start, p.state, p.name, belonging[p.pid])
        for p in sorted(table.values(), key=lambda process: process.pid)
        if p.pid in belonging
    )


def opaque(uid: int) -> tuple[int, ...]:
    """Living processes of user `uid` that this user may not look into: any of them could belong to a node."""
    found = []
    for process in _all():
        base = PROC / str(process.pid)
        try:
            if base.stat().st_uid == uid:
                os.readlink(base / "cwd")
        except PermissionError:
            found.append(process.pid)
        except OSError:
            continue
    return tuple(found)


def alive(process: OsProcess) -> bool:
    """Whether this very process still lives."""
    current = _stat(process.pid)
    return current is not None and current.start == process.start


def send(processes: Iterable[OsProcess], number: signal.Signals) -> int:
    """Signal these very processes (never another one that got the same pid since); how many were reached.

    Raises PermissionError when the kernel forbids it.
    """
    reached = 0
    for process in processes:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            # The handle is opened first and compared second: from here on the pid cannot change hands
            # unnoticed.
            if alive(process):
                signal.pidfd_send_signal(handle, number)
                reached += 1
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
    return reached


def _all() -> Iterable[OsProcess]:
    for entry in os.listdir(PROC):
        if entry.isdigit():
            process = _stat(int(entry))
            if process is not None:
                yield process


def _stat(pid: int) -> OsProcess | None:
    """The process, None when there is none or only a zombie. A dead leader with living threads counts as
    alive.
    """
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may itself contain any character, so the last one counts.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    state, parent, threads, start = fields[0], int(fields[1]), int(fields[17]), int(fields[19])
    if state in ("Z", "X") and threads <= 1:
        return None
    return OsProcess(pid, parent, start, state, head.partition("(")[2])


def _lineage(table: dict[int, OsProcess]) -> set[int]:
    """This process and its ancestors: whoever asks is no part of a node, also with a shell that stands in its
    folder.
    """
    found = set()
    pid = os.getpid()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].parent
    return found


def _claim(pid: int, folder: str, node: str) -> str | None:
    """The supervised process's name (maybe empty) if this pid says itself that it belongs to the node, else
    None.
    """
    base = PROC / str(pid)
    try:
        cwd = os.readlink(base / "cwd").removesuffix(" (deleted)")
    except OSError:
        cwd = ""
    if _below(cwd, folder):
        return cwd[len(folder) + 1 :].partition("/")[0]
    try:
        words = (base / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    environ = dict(word.decode("utf-8", "replace").partition("=")[::2] for word in words)
    home = environ.get("HOME", "")
    if environ.get("WMS_NODE") != node or not home or not _below(os.path.realpath(home), folder):
        return None
    return environ.get("WMS_PROCESS", "").rpartition("/")[2]


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
