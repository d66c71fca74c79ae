"""A dead postmaster counts as dead, also before its exit status was collected.

The postmaster's parent is the machine's (or the container's) first process. Where that collects exit codes late,
Patroni 4.1 takes the zombie for a running server that does not answer and tries to talk to it, for seconds. A zombie
executes nothing any more; what may still run are its children, and Patroni looks for those by themselves.
"""

from __future__ import annotations

import time
from typing import Any

LOOK_S = 0.01
"""How often to look whether a postmaster that was told to stop has ended."""


def bury() -> None:
    """Apply this to the Patroni of this process.

    Raises RuntimeError when this Patroni no longer has what is changed here (then the pin in requirements.lock has
    moved and this file must be looked at again).
    """
    import psutil
    from patroni.postgresql.postmaster import PostmasterProcess

    if not issubclass(PostmasterProcess, psutil.Process) or not hasattr(
        PostmasterProcess, "_is_postmaster_process"
    ):
        raise RuntimeError("this version of Patroni looks for its server elsewhere; see agent/zombies.py")
    known = PostmasterProcess._is_postmaster_process

    def is_zombie(process: Any) -> bool:
        try:
            return bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def is_running(process: Any) -> bool:
        return psutil.Process.is_running(process) and not is_zombie(process)

    def is_postmaster_process(process: Any) -> bool:
        return not is_zombie(process) and bool(known(process))

    def wait(process: Any, timeout: float | None = None) -> None:
        """Until it executes nothing any more; nobody asks for its exit code."""
        end = None if timeout is None else time.monotonic() + timeout
        while is_running(process):
            if end is not None and time.monotonic() >= end:
                raise psutil.TimeoutExpired(timeout, pid=process.pid)
            time.sleep(LOOK_S)

    PostmasterProcess.is_running = is_running
    PostmasterProcess.wait = wait
    PostmasterProcess._is_postmaster_process = is_postmaster_process
