"""The circumstances of a run: the machine, the versions of what was measured, and the revision."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from bench.report import Machine

PROGRAMS = {
    "PostgreSQL": ("/usr/lib/postgresql/15/bin/postgres", "--version"),
    "etcd": ("/usr/bin/etcd", "--version"),
    "HAProxy": ("/usr/sbin/haproxy", "-v"),
    "PgBouncer": ("/usr/sbin/pgbouncer", "--version"),
    "Pulumi": ("pulumi", "version"),
}


def machine(path: str) -> Machine:
    """This machine; programs are looked up on `path`. A version that cannot be had is "unknown"."""
    versions = {name: _version(command, path) for name, command in PROGRAMS.items()}
    versions |= {"Patroni": version("patroni"), "Python": platform.python_version()}
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")),
        memory_mib=int(_first(r"MemTotal:\s*(\d+)", Path("/proc/meminfo"))) // 1024,
        kernel=platform.release(),
        versions=versions,
    )


def revision(root: Path) -> str:
    """The commit of the checkout, "+changes" after it when the tree differs; "unknown" without git."""
    try:
        head = _output(["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"], os.environ["PATH"])
        # The results are what a run changes itself.
        changed = ["git", "-C", str(root), "status", "--porcelain", "--", ".", ":!bench/results"]
        return f"{head}+changes" if _output(changed, os.environ["PATH"]) else head
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def busy_percent(seconds: float) -> float:
    """How busy all cores together are while the caller sleeps: what else the machine does."""
    before, started = _idle_s(), time.monotonic()
    time.sleep(seconds)
    spare = (_idle_s() - before) / (time.monotonic() - started) / (os.cpu_count() or 1)
    return round(max(0.0, 100 * (1 - spare)), 1)


def _idle_s() -> float:
    """Seconds that the cores have been idle, in sum."""
    return float(Path("/proc/uptime").read_text().split()[1])


def _version(command: tuple[str, ...], path: str) -> str:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)*", _output(list(command), path))
    except (OSError, subprocess.SubprocessError):
        found = None
    return found.group() if found else "unknown"


def _output(command: list[str], path: str) -> str:
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def _first(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text())
    return found.group(1).strip() if found else "0"
