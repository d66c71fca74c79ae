"""Whether this machine can run the platform. Each check says what it found and, when it fails, what to do."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain import apt, paths
from toolchain.facts import Facts, go_is_new_enough, observe
from toolchain.pins import Pins
from toolchain.plan import missing_packages, plan
from toolchain.versions import at_least

GIB = 1 << 30
MIB = 1 << 20
ST_NOEXEC = 8
"""statvfs flag of a filesystem on which nothing can be executed."""


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` is what to do; it is shown only when the check failed or warns."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    fatal: bool = True
    """Whether a failure means that the platform will not run; else it is a warning."""


def main(pins: Pins) -> int:
    """Print all checks. Returns 1 when one failed, else 0."""
    failed = 0
    for check in checks(pins, observe(pins)):
        word = "ok" if check.ok else ("FAIL" if check.fatal else "warn")
        print(f"{word:<5} {check.name}: {check.found}")
        if not check.ok:
            print(f"      -> {check.remedy}")
            failed += check.fatal
    print(f"{failed} failed" if failed else "This machine can run the platform.")
    return 1 if failed else 0


def checks(pins: Pins, facts: Facts) -> Iterator[Check]:
    """All checks, in the order in which they are best mended."""
    yield system(pins, Path("/etc/os-release"))
    yield packages(pins, facts)
    yield go(pins, facts)
    yield tools(pins, facts)
    yield policy()
    for name, folder in (("cache", facts.cache), ("platforms", paths.home())):
        yield disk(name, folder, pins.minimum.disk_gib)
    yield shared_memory(Path("/dev/shm"), pins.minimum.shm_mib)
    yield memory(meminfo(Path("/proc/meminfo").read_text()), pins.minimum.memory_gib)
    yield overcommit(
        Path("/proc/sys/vm/overcommit_memory").read_text(), meminfo(Path("/proc/meminfo").read_text())
    )
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE), pins.minimum.nofile)
    yield backlog(Path("/proc/sys/net/core/somaxconn").read_text())
    yield addresses(pins.network)
    yield ports(pins.ports)
    yield clock(paths.CHECKOUT / "requirements.lock", time.time())
    yield synchronised()


def system(pins: Pins, release: Path) -> Check:
    """Debian, and new enough."""
    values = dict(line.split("=", 1) for line in _text(release).splitlines() if "=" in line)
    name, version = values.get("ID", "unknown").strip('"'), values.get("VERSION_ID", "0").strip('"')
    good = name == "debian" and at_least(version, str(pins.minimum.debian))
    remedy = f"the platform is tried on Debian {pins.minimum.debian}; elsewhere packages have other names"
    return Check("system", good, f"{name} {version}", remedy, fatal=False)


def packages(pins: Pins, facts: Facts) -> Check:
    """The Debian packages."""
    names = [package.name for package in missing_packages(pins, facts)]
    if not names:
        return Check("packages", True, f"all {len(pins.packages)} installed")
    return Check("packages", False, f"missing: {', '.join(names)}", f"make setup, or: {apt.by_hand(names)}")


def go(pins: Pins, facts: Facts) -> Check:
    """Go, which only matters while a tool has still to be built."""
    found = f"{facts.go.version} at {facts.go.path}" if facts.go else "none on PATH"
    remedy = f"Go >= {pins.minimum.go} builds the tools that have no package: https://go.dev/doc/install"
    # Everything built already: an old Go is no failure today, only at the next change of a version.
    return Check("go", go_is_new_enough(facts.go, pins), found, remedy, fatal="versitygw" not in facts.tools)


def tools(pins: Pins, facts: Facts) -> Check:
    """The rest of what `install` makes."""
    todo = plan(pins, facts)
    missing = [step.action.value for step in todo.steps]
    if todo.empty:
        return Check("toolchain", True, f"complete in {facts.cache}")
    return Check(
        "toolchain",
        False,
        f"missing: {', '.join(missing) or 'see problems'}",
        "; ".join(("make setup", *todo.problems)),
    )


def policy() -> Check:
    """A policy that an interrupted installation left would keep the machine's own services from starting."""
    left = apt.forbids_for_us()
    remedy = (
        f"an installation was killed: rm {apt.POLICY} (or put {apt.POLICY}.wms-saved back under that name)"
    )
    return Check(
        "service policy",
        not left,
        "temporary one still in place" if left else "untouched",
        remedy,
        fatal=False,
    )


def disk(name: str, folder: Path, gib: int) -> Check:
    """Free space, and that programs may be executed there (servers are started by scripts in WMS_HOME)."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize / GIB
    variable = "WMS_CACHE" if name == "cache" else "WMS_HOME"
    if status.f_flag & ST_NOEXEC:
        return Check(
            f"disk ({name})", False, f"{existing} is mounted noexec", f"set {variable} to a folder elsewhere"
        )
    remedy = f"{gib} GiB are needed: free some, or set {variable} to a folder on a larger disk"
    return Check(f"disk ({name})", free >= gib, f"{free:.1f} GiB free at {existing}", remedy)


def shared_memory(folder: Path, mib: int) -> Check:
    """/dev/shm, 64 MiB by default in containers."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return Check("shared memory", False, f"{folder}: {error.strerror}", f"mount -t tmpfs tmpfs {folder}")
    free = status.f_bavail * status.f_frsize / MIB
    remedy = f"{mib} MiB are needed by parallel queries: mount -o remount,size=512m {folder}"
    return Check("shared memory", free >= mib, f"{free:.0f} MiB free at {folder}", remedy)


def meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    fields = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3}


def memory(info: dict[str, int], gib: int) -> Check:
    """Memory that programs can still get."""
    free = info.get("MemAvailable", 0) / GIB
    return Check(
        "memory", free >= gib, f"{free:.1f} GiB available", f"{gib} GiB are needed; end something large"
    )


def overcommit(mode: str, info: dict[str, int]) -> Check:
    """With strict accounting (2) Redis cannot fork to save once the limit is near; other modes do."""
    mode = mode.strip()
    left = (info.get("CommitLimit", 0) - info.get("Committed_AS", 0)) / GIB
    good = mode != "2" or left >= 4
    found = f"vm.overcommit_memory={mode}" + (f", {left:.1f} GiB left to commit" if mode == "2" else "")
    return Check("overcommit", good, found, "sysctl vm.overcommit_memory=0 (or raise vm.overcommit_ratio)")


def open_files(soft: int, hard: int, least: int) -> Check:
    """Open files for each process: HAProxy, PgBouncer and nginx need two for each connection."""
    enough = resource.RLIM_INFINITY in (soft,) or soft >= least
    can = hard == resource.RLIM_INFINITY or hard >= least
    how = (
        f"ulimit -n {least}"
        if can
        else f"as root: a line `* - nofile {least}` in /etc/security/limits.conf, then log in again"
    )
    return Check("open files", enough, f"limit {soft} (hard limit {hard})", f"{least} are needed; {how}")


def backlog(text: str) -> Check:
    """Connections waiting to be accepted; Redis and nginx ask for 511."""
    value = int(text.strip())
    return Check(
        "listen backlog",
        value >= 511,
        f"net.core.somaxconn={value}",
        "sysctl net.core.somaxconn=1024",
        fatal=False,
    )


def addresses(block: str) -> Check:
    """Every node has a loopback address of its own: all of 127/8 is local on Linux, unless narrowed."""
    for address in (f"{block}.1.1", f"{block}.2.1", f"{block}.9.1"):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind((address, 0))
        except OSError as error:
            return Check(
                "addresses", False, f"{address}: {error.strerror}", "ip address add 127.0.0.1/8 dev lo"
            )
    return Check("addresses", True, f"{block}.0.0/16 can be bound")


def ports(wanted: tuple[int, ...]) -> Check:
    """No foreign server holds one of the platform's ports on all addresses.

    Tried for real, on an address of 127/8 that no node has: only a listener on all addresses is in its way.
    """
    taken = [port for port in wanted if not _free("127.254.254.254", port)]
    remedy = (
        "stop the server that listens there on all addresses (ss -ltnp shows it; a Debian service: "
        "systemctl disable --now NAME), or give the platform other ports"
    )
    return Check(
        "ports",
        not taken,
        f"in use on all addresses: {taken}" if taken else f"all {len(wanted)} free",
        remedy,
    )


def _free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections in TIME_WAIT are no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def clock(witness: Path, now: float) -> Check:
    """A clock before the checkout's own files is wrong: certificates made by it would not be valid yet."""
    behind = witness.stat().st_mtime - now
    remedy = "set it: timedatectl set-ntp true, or: date -s"
    if behind > 60:
        return Check("clock", False, f"{behind / 3600:.1f} h before the files of the checkout", remedy)
    return Check("clock", True, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)), remedy)


def synchronised(ask: Callable[[], int] | None = None) -> Check:
    """Whether the kernel thinks that something keeps its clock right (TIME_ERROR = 5 means no)."""
    good = (ask or _clock_state)() != 5
    found = "kept by a time service" if good else "kept by nobody"
    return Check(
        "time service",
        good,
        found,
        "apt-get install systemd-timesyncd; leases and point-in-time recovery go by it",
        fatal=False,
    )


def _clock_state() -> int:
    # adjtimex with modes = 0 only reads; 512 bytes are more than struct timex has anywhere.
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
