"""What must be true of this machine before anything is started: each finding says what, where and what to do."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from stacks.local.provider.procfs import folder_of, listener
from stacks.render import Process
from stacks.rules import listeners
from stacks.spec import Platform
from stacks.topology import nodes

NEEDED_BYTES = 2 * 1024**3
"""Four copies of a small database with their WAL, and logs."""

NEEDED_FILES = 4096
"""PgBouncer alone may hold 1000 clients and their servers."""


def problems(platform: Platform, processes: Sequence[Process], home: Path) -> list[str]:
    """Everything that would make the stack fail to start; empty when it can."""
    return [*_programs(processes), *_disk(home), *_files(), *_ports(platform, home)]


def _programs(processes: Sequence[Process]) -> list[str]:
    missing = sorted({p.command[0] for p in processes if not os.access(p.command[0], os.X_OK)})
    return [f"{path} is not installed; run: make setup" for path in missing]


def _disk(home: Path) -> list[str]:
    folder = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free >= NEEDED_BYTES:
        return []
    return [
        f"{folder}: {free // 1024**2} MiB free, {NEEDED_BYTES // 1024**2} MiB needed; free some, "
        "or set WMS_HOME to a folder on another disk"
    ]


def _files() -> list[str]:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= NEEDED_FILES:
        return []
    return [f"only {hard} open files allowed, {NEEDED_FILES} needed; raise it: ulimit -Hn {NEEDED_FILES}"]


def _ports(platform: Platform, home: Path) -> list[str]:
    found = []
    ports = listeners(platform)
    for node in nodes(platform):
        for key, port in ports.get(node.role, {}).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((node.address, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        found.append(f"{node.address}:{port} ({key}): {error.strerror}")
                        continue
                    holder = listener(node.address, port)
                    if holder and folder_of(holder.pid).startswith(f"{home}/nodes/"):
                        continue
                    found.append(
                        f"{node.address}:{port} ({key}) is taken by {holder or 'a process that is ending'}; "
                        "end it, or give the stack other addresses: "
                        "pulumi config set --path wms:overrides.network 127.<n>"
                    )
    return found
