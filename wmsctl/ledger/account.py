"""The arithmetic of the ledger: pure functions from recorded outcomes and found rows to an account.

Times are seconds on the monotonic clock of the machine that wrote, unless said otherwise. An outcome that is
not known is neither success nor failure: it is looked up afterwards, and counted on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

Key = tuple[int, int]
"""(writer, seq)"""


class Kind(IntEnum):
    acknowledged = 0
    """The server said that it is committed."""
    failed = 1
    """The server said that it is not, or it was never sent."""
    unknown = 2
    """The connection was lost after sending, or the answer came with a warning that replication was not
    awaited.
    """
    skipped = 3
    """Its time came while the writer was still held up by an earlier one: never sent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one write."""

    writer: int
    seq: int
    scheduled: float
    sent: float
    done: float
    wall: float
    """`done` as seconds since the epoch."""
    kind: Kind
    timeline: int = 0
    """Of the WAL that the row was written to, by the server's answer; 0 without one."""
    error: str = ""
    """Class of the error: its SQLSTATE, or lost, timeout, connect, unconfirmed."""

    @property
    def key(self) -> Key:
        return self.writer, self.seq


@dataclass(frozen=True)
class Gap:
    """An interval without an acknowledged commit of any writer. `open` when the run ended before the next
    one.
    """

    seconds: float
    start: float
    end: float
    start_wall: float
    open: bool = False


@dataclass(frozen=True)
class Recovery:
    """What a fault did, from the moment it was injected."""

    fault_at: float
    gap_s: float | None
    """Length of the longest gap that reaches beyond the injection."""
    first_ack_s: float | None
    """From the injection to the end of that gap."""
    new_timeline_s: float | None
    """From the injection to the first acknowledged commit on a newer timeline than any before it; None
    without one.
    """
    timeline_before: int
    timeline_after: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the scheduled start to the acknowledgement."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Reconciled:
    """The recorded outcomes against the rows found."""

    lost: tuple[Key, ...]
    """Acknowledged, and not there."""
    unknown_present: int
    unknown_absent: int
    contradicted: tuple[Key, ...]
    """Reported as failed, and there all the same."""
    unaccounted: int
    """Rows of the run that no record tells of: written by a recorder that died before it noted them."""


@dataclass(frozen=True)
class Account:
    """The whole account of a run."""

    run: str
    seconds: float
    """From the first scheduled write to the last outcome."""
    scheduled: int
    acknowledged: int
    failed: int
    unknown: int
    skipped: int
    present: int | None = None
    """Rows found, None before the reconciliation."""
    lost: int | None = None
    lost_keys: tuple[Key, ...] = ()
    """The first of them, as (writer, seq)."""
    unknown_present: int | None = None
    unknown_absent: int | None = None
    contradicted: int | None = None
    unaccounted: int | None = None
    gap: Gap | None = None
    recovery: Recovery | None = None
    latency: Latency | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    """Class of error → count, over failed and unknown writes."""
    timelines: tuple[int, ...] = ()
    """Timelines of the acknowledged commits, in order of appearance."""
    achieved_rate: float = 0.0
    """Acknowledged commits per second."""
    trouble: str = ""
    """Why the reconciliation is missing, or what else went wrong."""

    @property
    def sound(self) -> bool:
        """Reconciled, and no acknowledged write is lost."""
        return self.lost == 0


SHOWN = 20
"""Lost keys that an account lists."""


def reconcile(outcomes: Iterable[Outcome], present: Mapping[Key, int] | set[Key]) -> Reconciled:
    """Compare the record with `present`, the keys of the rows found.

    lost = acknowledged - present. Nothing else counts as lost, and a row that is there makes no success of an
    outcome that was not acknowledged.
    """
    lost, contradicted, recorded = [], [], set()
    there = absent = 0
    for outcome in outcomes:
        key = outcome.key
        recorded.add(key)
        found = key in present
        if outcome.kind is Kind.acknowledged and not found:
            lost.append(key)
        elif outcome.kind is Kind.unknown:
            there, absent = (there + 1, absent) if found else (there, absent + 1)
        elif outcome.kind in (Kind.failed, Kind.skipped) and found:
            contradicted.append(key)
    unaccounted = sum(1 for key in present if key not in recorded)
    return Reconciled(tuple(lost), there, absent, tuple(contradicted), unaccounted)


def longest_gap(outcomes: Sequence[Outcome], start: float, end: float) -> Gap | None:
    """The longest interval between consecutive acknowledged commits of all writers within [start, end].

    The time before the first counts from `start`, the time after the last until `end` (then it is open): an
    outage at the edge of the run is an outage. None when nothing was acknowledged at all and the run had no
    length.
    """
    gaps = _gaps(outcomes, start, end)
    return max(gaps, key=lambda gap: gap.seconds) if gaps else None


def recovery(outcomes: Sequence[Outcome], fault_at: float, end: float) -> Recovery:
    """What happened from the injection of a fault at `fault_at` on.

    The gap is the longest one that ends after the injection; measured from its own start, which is the last
    commit before the outage. Writes acknowledged between the injection and the outage (the fault needs time
    to bite) do not shorten it.
    """
    acks = sorted((o for o in outcomes if o.kind is Kind.acknowledged), key=lambda o: o.done)
    before = max((o.timeline for o in acks if o.done < fault_at), default=0)
    after = max((o.timeline for o in acks), default=0)
    start = acks[0].done if acks else fault_at
    reaching = [gap for gap in _gaps(outcomes, min(start, fault_at), end) if gap.end > fault_at]
    gap = max(reaching, key=lambda g: g.seconds) if reaching else None
    newer = next((o.done for o in acks if o.done >= fault_at and before and o.timeline > before), None)
    return Recovery(
        fault_at=fault_at,
        gap_s=gap.seconds if gap else None,
        first_ack_s=gap.end - fault_at if gap and not gap.open else None,
        new_timeline_s=newer - fault_at if newer is not None else None,
        timeline_before=before,
        timeline_after=after,
    )


def latency(outcomes: Iterable[Outcome]) -> Latency | None:
    """Percentiles (nearest rank) over the acknowledged writes, from their scheduled start; None without
    any.
    """
    times = sorted((o.done - o.scheduled) * 1000 for o in outcomes if o.kind is Kind.acknowledged)
    if not times:
        return None
    return Latency(*(round(percentile(times, q), 2) for q in (50, 95, 99, 100)))


def percentile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank percentile: the smallest value that at least q % of `ordered` (ascending, not empty)
    do not exceed.
    """
    rank = -(-len(ordered) * q // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def account(
    run: str,
    outcomes: Sequence[Outcome],
    start: float,
    end: float,
    *,
    present: Mapping[Key, int] | set[Key] | None = None,
    fault_at: float | None = None,
    trouble: str = "",
) -> Account:
    """The whole account of one run that went from `start` to `end`.

    `present`: keys of the rows found, None when nobody could look (then nothing is said about loss).
    `fault_at`: when a fault was injected.
    """
    kinds = Counter(outcome.kind for outcome in outcomes)
    timelines: dict[int, None] = {}
    for outcome in sorted((o for o in outcomes if o.kind is Kind.acknowledged), key=lambda o: o.done):
        timelines[outcome.timeline] = None
    found = reconcile(outcomes, present) if present is not None else None
    seconds = max(0.0, end - start)
    return Account(
        run=run,
        seconds=round(seconds, 3),
        scheduled=len(outcomes),
        acknowledged=kinds[Kind.acknowledged],
        failed=kinds[Kind.failed],
        unknown=kinds[Kind.unknown],
        skipped=kinds[Kind.skipped],
        present=len(present) if present is not None else None,
        lost=len(found.lost) if found else None,
        lost_keys=found.lost[:SHOWN] if found else (),
        unknown_present=found.unknown_present if found else None,
        unknown_absent=found.unknown_absent if found else None,
        contradicted=len(found.contradicted) if found else None,
        unaccounted=found.unaccounted if found else None,
        gap=longest_gap(outcomes, start, end),
        recovery=recovery(outcomes, fault_at, end) if fault_at is not None else None,
        latency=latency(outcomes),
        errors=dict(
            Counter(o.error for o in outcomes if o.kind in (Kind.failed, Kind.unknown)).most_common()
        ),
        timelines=tuple(timelines),
        achieved_rate=round(kinds[Kind.acknowledged] / seconds, 1) if seconds else 0.0,
        trouble=trouble,
    )


def _gaps(outcomes: Sequence[Outcome], start: float, end: float) -> list[Gap]:
    acks = sorted(
        (o.done, o.wall) for o in outcomes if o.kind is Kind.acknowledged and start <= o.done <= end
    )
    if not acks:
        wall = outcomes[0].wall - outcomes[0].done + start if outcomes else 0.0
        return [Gap(end - start, start, end, wall, open=True)] if end > start else []
    first, first_wall = acks[0]
    gaps = [Gap(first - start, start, first, first_wall - (first - start))]
    gaps += [Gap(b - a, a, b, wall) for (a, wall), (b, _) in pairwise(acks)]
    last, last_wall = acks[-1]
    gaps.append(Gap(end - last, last, end, last_wall, open=True))
    return gaps
