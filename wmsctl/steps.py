"""The steps of an operation: journalled, shown, and the one place where a test can make wmsctl die.

`WMSCTL_DIE_AT=<step>` kills this process (SIGKILL) after the journal says that the step has begun and before
it does anything; `WMSCTL_DIE_AT=<step>:after` when its work is done and the journal does not say so yet.
These are the two moments that a crash can leave behind. It is a hook for tests and rehearsals; nobody sets it
by accident.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wmsctl.errors import WmsctlError
from wmsctl.journal import Record

HOOK = "WMSCTL_DIE_AT"


class Steps:
    """Runs the steps of one operation."""

    def __init__(self, record: Record, progress: Callable[[str], None]) -> None:
        self.record = record
        self.progress = progress

    @contextmanager
    def step(self, name: str, message: str = "", **detail: Any) -> Iterator[dict[str, Any]]:
        """Journal the body as step `name`; facts put into the dict it is given go into the journal."""
        if message:
            self.progress(message)
        with self.record.step(name, **detail) as facts:
            moment(name)
            yield facts
            moment(f"{name}:after")

    @contextmanager
    def certain(self, name: str, message: str = "", **detail: Any) -> Iterator[dict[str, Any]]:
        """Like `step`, for a body that has to run even when the journal cannot be written (RESUME on a full
        disk).
        """
        if message:
            self.progress(message)
        facts: dict[str, Any] = {}
        journal = self.record.step(name, **detail)
        try:
            facts = journal.__enter__()
            opened = True
        except WmsctlError as trouble:
            self.progress(f"warning: {trouble.message}")
            opened = False
        moment(name)
        try:
            yield facts
        except BaseException as error:
            if opened:
                journal.__exit__(type(error), error, error.__traceback__)
            raise
        moment(f"{name}:after")
        if opened:
            try:
                journal.__exit__(None, None, None)
            except WmsctlError as trouble:
                self.progress(f"warning: {trouble.message}")


def moment(name: str) -> None:
    """A moment inside a long step at which a test may have this process die, such as `export:2`."""
    if os.environ.get(HOOK) == name:
        os.kill(os.getpid(), signal.SIGKILL)
