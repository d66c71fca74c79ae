"""Commands on nodes: a program run where a server's files are, as the user that the servers run as.

On the local target a node is a folder of this machine: the program's working directory is a process's folder, so it
belongs to the node and dies with it. It also dies with wmsctl: nothing goes on that nobody waits for.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from wmsctl.errors import Refused, Unreachable, Usage
from wmsctl.hosts import POWER_OFF, LocalPower
from wmsctl.inventory import Inventory

SETPRIV = "/usr/bin/setpriv"
UNDER = ("/bin/sh", "-c", '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"', "sh")
"""Runs a command as a child of $1. Who dies before setpriv has asked for a signal at his death gives none: then the
command has another parent already, and does not begin."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LocalShell:
    """Runs programs on nodes of the local target. Raises Usage for a platform that is elsewhere."""

    def __init__(self, inventory: Inventory) -> None:
        self._power = LocalPower(inventory)

    def folder(self, node: str, process: str) -> str:
        """Where the files of a process are on its node. Raises Usage when it has none."""
        path = self._power.folder(node) / process
        if not path.is_dir():
            raise Usage(
                f"{node} has no process {process}: {path} is missing", hint="bring the platform up (make up)"
            )
        return str(path)

    def available(self, node: str) -> bool:
        """Whether the node's power is on."""
        return not (self._power.folder(node) / POWER_OFF).exists()

    def start(self, node: str, process: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start `command` on `node`, in the folder of `process`; its two outputs are pipes, and it has no input.

        The caller waits for it, in the thread that called this. Raises Unreachable when the node is off, Refused when
        this user may not act for the servers' one.
        """
        folder = Path(self.folder(node, process))
        if not self.available(node):
            raise Unreachable(f"the node {node} is off", hint=f"power it on: wmsctl node power-on {node}")
        owner = folder.stat()
        become = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
        if os.geteuid() == owner.st_uid:
            become = []
        elif os.geteuid() != 0:
            raise Refused(
                f"this user may not run {command[0]} on {node}",
                hint="run wmsctl as root or as the user who runs the platform's servers",
            )
        return subprocess.Popen(
            [SETPRIV, "--pdeathsig=TERM", *become, "--", *UNDER, str(os.getpid()), *command],
            cwd=folder,
            # Backups are named by their time: everywhere that of UTC.
            env={
                "PATH": PATH,
                "LANG": "C.UTF-8",
                "TZ": "UTC",
                "HOME": str(folder),
                "WMS_NODE": node,
                "WMS_PROCESS": f"{node}/{process}",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            umask=0o077,
        )
