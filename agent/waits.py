"""Shorter fixed waits for Patroni.

Three waits of Patroni 4.1 dominate a planned switchover, though PostgreSQL stops and promotes in 0.3 s:

- it looks once a second whether PostgreSQL has stopped (`STOP_POLLING_INTERVAL`);
- when it has, it sleeps a second "to catch up" before it asks the replicas whether one has received everything;
- meanwhile the other replicas sleep two seconds before they look who leads now, so they follow the new primary late
  and commits wait for the quorum. The key they would miss wakes their next loop at once.

The first is a constant. The others only give replicas time: the question that follows it
(`is_failover_possible(cluster_lsn=…)`) is what protects the data, and it stays. When the answer is no because the
sleep was short, Patroni releases the lease later, after the complete shutdown: slower, never less safe.
"""

from __future__ import annotations

import sys
import time
from typing import Any

CATCH_UP_S = 0.05
"""Sleep before the replicas are asked; streaming over one network takes about a millisecond."""

_CALLERS = frozenset({"on_shutdown", "_on_shutdown", "process_unhealthy_cluster"})
"""Functions of patroni.ha whose sleep is shortened."""


class Clock:
    """Stands in for the module `time` inside patroni.ha: everything is passed on but the catch-up sleep."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep `seconds`, or CATCH_UP_S when the caller is one of the catch-up sleeps."""
        caller = sys._getframe(1).f_code.co_name
        time.sleep(min(seconds, CATCH_UP_S) if caller in _CALLERS else seconds)


def shorten(stop_poll_s: float) -> None:
    """Apply all to the Patroni of this process; `stop_poll_s` in seconds, 0.005 to 1.

    Raises ValueError when `stop_poll_s` is out of range, RuntimeError when this Patroni no longer has what is
    shortened here (then the pin in requirements.lock has moved and this file must be looked at again).
    """
    if not 0.005 <= stop_poll_s <= 1:
        raise ValueError(f"found {stop_poll_s * 1000:g} ms; allowed: 5 to 1000")
    import patroni.ha
    import patroni.postgresql

    if (
        not hasattr(patroni.postgresql, "STOP_POLLING_INTERVAL")
        or getattr(patroni.ha, "time", None) is not time
    ):
        raise RuntimeError("this version of Patroni keeps its waits elsewhere; see agent/waits.py")
    patroni.postgresql.STOP_POLLING_INTERVAL = stop_poll_s
    patroni.ha.time = Clock()
