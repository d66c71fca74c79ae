"""Patroni's maintenance mode: it goes on watching, but neither fails over nor starts or stops PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wmsctl.errors import Failed, Usage

if TYPE_CHECKING:
    from wmsctl.clients.patroni import Patroni


def parse(state: str) -> bool | None:
    """What the operator wants: True on, False off, None only to see. Raises Usage for another word."""
    known = {"on": True, "off": False, "show": None}
    if state not in known:
        raise Usage(f"maintenance: found {state!r}; allowed: {', '.join(known)}")
    return known[state]


def word(on: bool) -> str:
    """on or off."""
    return "on" if on else "off"


def turn(cluster: Patroni, on: bool) -> None:
    """Store the mode; the members follow at their next turn (loop_wait). Safe to repeat.

    Raises Unreachable when no member answers, Failed when the store does not say so afterwards.
    """
    if cluster.paused() == on:
        return
    cluster.ask(lambda member: member.patch_config({"pause": True if on else None}))
    if cluster.paused() != on:
        raise Failed(
            f"maintenance mode did not become {word(on)}: somebody else changed it",
            hint="look: wmsctl failover maintenance",
        )
