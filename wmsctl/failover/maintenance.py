"""Patroni's maintenance mode: it goes on watching, but neither fails over nor starts or stops PostgreSQL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wmsctl.errors import Failed, Usage

if TYPE_CHECKING:
    from wmsctl.clients.patroni import Patroni
    from wmsctl.deadline import Deadline

LOOK_S = 0.1


def parse(state: str) -> bool | None:
    """What the operator wants: True on, False off, None only to see. Raises Usage for another word."""
    known = {"on": True, "off": False, "show": None}
    if state not in known:
        raise Usage(f"maintenance: found {state!r}; allowed: {', '.join(known)}")
    return known[state]


def word(on: bool) -> str:
    """on or off."""
    return "on" if on else "off"


def turn(cluster: Patroni, on: bool, deadline: Deadline) -> None:
    """Store the mode and wait until the members say so, which they do at their next turn. Safe to repeat.

    Raises Unreachable when no member answers, Failed when the mode is another one at the deadline.
    """
    if cluster.paused() == on:
        return
    cluster.ask(lambda member: member.patch_config({"pause": True if on else None}))
    while cluster.paused() != on:
        if deadline.expired:
            raise Failed(
                f"maintenance mode did not become {word(on)}: somebody else changed it, or the members do not follow",
                hint="look: wmsctl failover maintenance",
            )
        time.sleep(LOOK_S)
