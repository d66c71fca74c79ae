"""Wakes a callback the moment the postmaster dies."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

WAKES_S = (0.0, 0.15, 0.3, 0.5, 0.8, 1.2)
"""When to wake Patroni after the death. Once is not enough: while the postmaster's children are still ending, Patroni
takes the server for one that does not answer, and would sleep until its next turn."""

LOOK_S = 0.25
"""How often to look for a new postmaster while there is none."""


def postmaster_pid(data_dir: str) -> int:
    """First line of postmaster.pid in `data_dir`; 0 when there is none or it is not a number."""
    try:
        return int(Path(data_dir, "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0


class DeathWatch(threading.Thread):
    """Waits on the postmaster's pidfd and calls `wake` when it ends, for one postmaster after another."""

    def __init__(self, data_dir: str, wake: Callable[[], None]) -> None:
        super().__init__(name="death-watch", daemon=True)
        self._data_dir = data_dir
        self._wake = wake

    def run(self) -> None:
        """Never returns; ends with the process."""
        told = 0
        while True:
            pid = postmaster_pid(self._data_dir)
            # A death is told once: a zombie, and the pid file of it, may stay for a while.
            if pid > 0 and pid != told and self._dies(pid):
                told = pid
                self._wake_until_noticed()
            time.sleep(LOOK_S)

    def _dies(self, pid: int) -> bool:
        """Wait until `pid` ends: True. False when it is not there, or the pid file names another by now: a file that
        was left by a crash of the machine may name anybody's process."""
        while True:
            ended = wait_for_exit(pid, LOOK_S)
            if ended is not None:
                return ended
            if postmaster_pid(self._data_dir) != pid:
                return False

    def _wake_until_noticed(self) -> None:
        died = time.monotonic()
        for moment in WAKES_S:
            time.sleep(max(0.0, died + moment - time.monotonic()))
            self._wake()


def wait_for_exit(pid: int, seconds: float | None = None) -> bool | None:
    """Block until process `pid` ends: True; False at once when there is no such process, None after `seconds`."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return False
    try:
        ended, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    return True if ended else None
