"""Processes and listening sockets as /proc shows them (proc(5))."""

from __future__ import annotations

import ipaddress
import os
import signal
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stacks.local.provider.errors import ProviderError
from stacks.local.provider.waiting import pause


@dataclass(frozen=True)
class Task:
    """One process. `started` (clock ticks since boot) tells it from a later one with the same id."""

    pid: int
    started: int
    parent: int
    state: str
    terminal: int
    uid: int

    @property
    def alive(self) -> bool:
        """False for a zombie, which only waits for its parent."""
        return self.state not in "ZX"


def task(pid: int) -> Task | None:
    """The process `pid`, or None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses; what follows the last one is regular.
    fields = text[text.rindex(")") + 2 :].split()
    return Task(pid, int(fields[19]), int(fields[1]), fields[0], int(fields[4]), uid)


def tasks() -> Iterator[Task]:
    """All processes that are alive."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = task(int(name))
            if found and found.alive:
                yield found


def folder_of(pid: int) -> str:
    """The working directory, also when it was deleted; "" when it cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str]:
    """The environment at exec time; {} when it cannot be seen (PostgreSQL overwrites it)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            parts = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (part.decode(errors="replace").partition("=") for part in parts if b"=" in part)
    return {key: value for key, _, value in pairs}


def name_of(pid: int) -> str:
    """The program's name; arguments are left out because other people's may hold passwords."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def under(folder: str, uid: int) -> list[Task]:
    """Processes of user `uid` that work at or below `folder`.

    Left out are this process with its ancestors and what has a terminal: an operator's shell that happens to
    stand there is no server.
    """
    kin = set(ancestors(os.getpid()))
    found = []
    for each in tasks():
        if each.uid == uid and not each.terminal and each.pid not in kin:
            place = folder_of(each.pid)
            if place == folder or place.startswith(f"{folder}/"):
                found.append(each)
    return found


def ancestors(pid: int) -> Iterator[int]:
    """`pid` and all its ancestors."""
    while pid > 0:
        yield pid
        found = task(pid)
        pid = found.parent if found else 0


def still(each: Task) -> bool:
    """Whether that very process is still alive."""
    now = task(each.pid)
    return now is not None and now.started == each.started and now.alive


def send(each: Task, number: int) -> None:
    """Signal that very process; one that is gone is fine. Raises ProviderError without the permission."""
    if not still(each):
        return
    try:
        os.kill(each.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise ProviderError(
            f"process {each.pid} ({name_of(each.pid)}) belongs to another user and cannot be stopped",
            "Stop it, or run as root",
        ) from None


def end(victims: Iterable[Task], seconds: float, stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Stop processes: `stop_signal`, after `seconds` SIGKILL. A frozen one is thawed so that it can obey.

    PostgreSQL gets SIGINT instead of SIGTERM, which would make it wait for its clients (server shutdown modes
    in its manual). Raises ProviderError naming those that survive even SIGKILL for 10 seconds.
    """
    left = [each for each in victims if still(each)]
    for number, patience in ((stop_signal, seconds), (signal.SIGKILL, 10.0)):
        for each in left:
            fast = number == signal.SIGTERM and name_of(each.pid) == "postgres"
            send(each, signal.SIGINT if fast else number)
            send(each, signal.SIGCONT)
        limit = time.monotonic() + patience
        while left and time.monotonic() < limit:
            left = [each for each in left if still(each)]
            if left:
                pause(0.05)
        if not left:
            return
    names = ", ".join(f"{each.pid} ({name_of(each.pid)})" for each in left)
    raise ProviderError(
        f"processes survive SIGKILL: {names}", "They hang in the kernel: look at the disk they use"
    )


@dataclass(frozen=True)
class Holder:
    """Who listens. `pid` is 0 when the process cannot be seen."""

    pid: int
    program: str
    address: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})" if self.pid else "a process of another user"


def listener(address: str, port: int) -> Holder | None:
    """Who listens on TCP `address`:`port`, or on all addresses at that port; None when nobody does."""
    wanted = ipaddress.ip_address(address)
    for table, size in (("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            host, _, number = fields[1].partition(":")
            if fields[3] != "0A" or int(number, 16) != port:  # 0A is LISTEN
                continue
            bound = decoded(host, size)
            if bound == wanted or bound.is_unspecified:
                pid = owner_of_socket(fields[9])
                return Holder(pid, name_of(pid) if pid else "", str(bound))
    return None


def decoded(host: str, size: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of /proc/net/tcp: 32-bit words in host byte order, in hexadecimal."""
    words = struct.unpack(f">{size // 4}I", bytes.fromhex(host))
    return ipaddress.ip_address(struct.pack(f"={size // 4}I", *words))


def owner_of_socket(inode: str) -> int:
    """The process that has the socket `inode` open, or 0."""
    target = f"socket:[{inode}]"
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            for handle in os.scandir(f"/proc/{name}/fd"):
                if os.readlink(handle.path) == target:
                    return int(name)
        except OSError:
            continue
    return 0
