"""The history of leadership: Patroni's changes of the timeline and wmsctl's own operations as one list.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wmsctl.clients.patroni import HistoryEntry
from wmsctl.clients.postgres import lsn_text
from wmsctl.journal import Operation

NEAR_S = 5.0
"""A change of the timeline so close to the time of an operation of ours is its work."""


@dataclass(frozen=True)
class Event:
    """One line of the history."""

    at: str
    """UTC ISO 8601, empty when Patroni did not note it."""
    kind: str
    """switchover, promote, rejoin, or automatic: Patroni by itself."""
    result: str
    old_leader: str
    leader: str
    timeline: int | None
    operator: str
    operation: str
    write_gap_ms: float | None
    """As far as wmsctl measured it: the stall of a switchover, the time to the first proven write of a
    promotion.
    """
    note: str = ""


def merge(entries: Sequence[HistoryEntry], operations: Sequence[Operation], limit: int = 0) -> list[Event]:
    """Newest first; `limit` 0 means all.

    An operation takes the timeline change that it caused with it: the one to its timeline, if the journal has
    that, else the one within its time. Changes that no operation explains are Patroni's own.
    """
    events: list[Event] = []
    taken: set[int] = set()
    for op in operations:
        own = _own(op, entries)
        if own is not None:
            taken.add(own)
        events.append(_operation(op, entries[own] if own is not None else None))
    before = ""
    for index, entry in enumerate(entries):
        if index not in taken:
            events.append(
                Event(
                    at=_utc(entry.at),
                    kind="automatic",
                    result="done",
                    old_leader=before,
                    leader=entry.new_leader,
                    timeline=entry.timeline + 1,
                    operator="Patroni",
                    operation="",
                    write_gap_ms=None,
                    note=f"from {lsn_text(entry.lsn)}",
                )
            )
        before = entry.new_leader
    events.sort(key=lambda event: (event.at, event.timeline or 0), reverse=True)
    return events[:limit] if limit else events


def _own(op: Operation, entries: Sequence[HistoryEntry]) -> int | None:
    if op.kind.endswith("rejoin"):
        return None
    made = op.detail.get("timeline")
    if isinstance(made, int) and op.result == "done":
        return next((i for i, entry in enumerate(entries) if entry.timeline + 1 == made), None)
    begin = _moment(op.started)
    end = _moment(op.finished) if op.finished else None
    if begin is None or end is None or op.result not in ("done", "failed"):
        return None
    for index, entry in enumerate(entries):
        moment = _moment(entry.at)
        if moment is not None and begin <= moment <= end + NEAR_S:
            return index
    return None


def _operation(op: Operation, change: HistoryEntry | None) -> Event:
    plan: dict[str, Any] = op.plan if isinstance(op.plan, dict) else {}
    detail = op.detail
    timeline = detail.get("timeline") or (change.timeline + 1 if change else None)
    kind = op.kind.rpartition(".")[2]
    return Event(
        at=op.started,
        kind=kind,
        result=op.result or "unfinished",
        old_leader=str(plan.get("leader" if kind == "switchover" else "dead") or plan.get("node") or ""),
        leader=str(detail.get("leader") or (change.new_leader if change else "")),
        timeline=timeline,
        operator=op.operator,
        operation=op.id,
        write_gap_ms=detail.get("write_stall") or detail.get("write_proven"),
        note=str(detail.get("reason", "")),
    )


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _utc(text: str) -> str:
    """Patroni writes local time with its offset; the list is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
