"""Whether this process wants traffic.

The database being away degrades every process at once, so it never makes one "not ready": a balancer would
empty itself, and restarts would turn a failover into an outage. Only what is wrong with this process alone
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["ready", "degraded", "draining"]


@dataclass(frozen=True, slots=True)
class Check:
    """The last look at a dependency: `schema` is the number of its last migration."""

    ok: bool
    detail: str = ""
    schema: int | None = None


UNSEEN = Check(False, "not seen yet")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state and the HTTP status that tells it."""

    state: State
    status: int


def verdict(checks: Mapping[str, Check], draining: bool) -> Verdict:
    """Draining answers 503, so that balancers look elsewhere; a missing dependency 200 and "degraded"."""
    if draining:
        return Verdict("draining", 503)
    if all(check.ok for check in checks.values()):
        return Verdict("ready", 200)
    return Verdict("degraded", 200)


def schema_check(found: int, needed: int) -> Check:
    """A database that answered, judged by its schema: older than `needed` cannot serve every call."""
    if found < needed:
        return Check(False, f"schema is at {found:04d}, this release needs {needed:04d}", found)
    return Check(True, schema=found)
