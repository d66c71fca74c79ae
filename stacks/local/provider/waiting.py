"""Waits: each has a deadline and ends at once when Pulumi is interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from stacks.local.provider.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")

interrupted = threading.Event()
"""Set when the engine asks the provider to stop."""


def pause(seconds: float) -> None:
    """Sleep. Raises Cancelled when Pulumi was interrupted before or meanwhile."""
    if interrupted.wait(max(0.0, seconds)):
        raise Cancelled


def until(
    check: Callable[[], T | None], *, seconds: float, what: str, do: str = "", interval: float = 0.1
) -> T:
    """Call `check` every `interval` seconds until it returns something other than None or False, and return
    that.

    Raises DeadlineExceeded ("`what` did not happen within …") after `seconds`; `check` is called at least
    once.
    """
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found is not None and found is not False:
            return found
        if time.monotonic() >= end:
            raise DeadlineExceeded(f"{what} did not happen within {seconds:g} s", do)
        pause(min(interval, max(0.0, end - time.monotonic())))
