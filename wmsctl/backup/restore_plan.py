"""Which backup, timeline and WAL bring back a moment, how long that takes, or why it cannot be done: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from wmsctl.backup import wal
from wmsctl.backup.catalogue import Backup
from wmsctl.backup.forecast import Forecast, Sample, forecast
from wmsctl.backup.retention import Held, Key, soundness
from wmsctl.backup.wal import Chain, Follower, Segment
from wmsctl.clients.postgres import lsn_text
from wmsctl.errors import Usage

Kind = Literal["latest", "time", "lsn", "xid", "name", "backup"]

FORMS = "latest, time=2026-11-24T13:00:00Z, lsn=16/B374D848, xid=12345, name=POINT or backup=LABEL"
LABEL = re.compile(r"\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?\Z")
ARCHIVER_S = 60.0
"""A segment is stored at the latest so long after its first record (archive_timeout): so far behind the storage time of
its segment a commit may lie.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A moment to bring back. Exactly the value of its kind is set."""

    kind: Kind
    at: datetime | None = None
    lsn: int | None = None
    text: str = ""
    """Transaction, restore point or label."""

    def __str__(self) -> str:
        if self.at is not None:
            return f"{self.at:%Y-%m-%d %H:%M:%S} UTC"
        if self.lsn is not None:
            return f"LSN {lsn_text(self.lsn)}"
        return f"{self.kind} {self.text}" if self.text else "the latest moment"


def target(text: str) -> Target:
    """Read a target as it is typed. Raises Usage with the forms there are."""
    kind, _, value = text.strip().partition("=")
    if kind == "latest" and not value:
        return Target("latest")
    if kind == "time" and value:
        return Target("time", at=_moment(value))
    if kind == "lsn" and value:
        try:
            return Target("lsn", lsn=wal.position(value))
        except wal.WalError as error:
            raise Usage(error.message, hint=f"a target is {FORMS}") from error
    if kind == "xid" and value.isdecimal() and int(value) > 2:
        return Target("xid", text=value)
    # PostgreSQL cuts the name of a restore point at 63 bytes.
    if kind == "name" and value.isprintable() and 0 < len(value.encode()) <= 63:
        return Target("name", text=value)
    if kind == "backup" and LABEL.match(value):
        return Target("backup", text=value)
    raise Usage(f"{text!r} is no target", hint=f"a target is {FORMS}")


def _moment(value: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise Usage(f"{value!r} is no time", hint="one looks like 2026-11-24T13:00:00Z") from error
    if at.tzinfo is None:
        # Three hours off is the difference between before and after the accident.
        raise Usage(f"the time {value} names no zone", hint=f"say {value}Z for UTC, or {value}-03:00")
    return at.astimezone(UTC)


@dataclass(frozen=True)
class Situation:
    """What there is, as it was looked at."""

    held: Sequence[Held]
    chains: Mapping[Key, Chain]
    archives: Mapping[tuple[int, str], Follower]
    now: datetime
    samples: Sequence[Sample] = ()
    processes: int = 1


@dataclass(frozen=True)
class Refusal:
    """It cannot be done, or not for sure."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class RestorePlan:
    target: Target
    backup: Backup
    timeline: int
    """The timeline that recovery follows; that of the backup for its own end."""
    wal_first: str
    wal_last: str
    segments: int
    """How many are replayed at most."""
    reaches: datetime | None
    """The latest moment that WAL of this timeline reaches; None for a backup's own end."""
    forecast: Forecast
    options: tuple[str, ...]
    """Of `pgbackrest restore`, without configuration and folder."""
    notes: tuple[str, ...]
    passed_over: tuple[str, ...]
    """Newer backups that were not taken, and why."""


def plan(
    situation: Situation,
    wanted: Target,
    *,
    timeline: int | None = None,
    repo: int | None = None,
    label: str = "",
) -> RestorePlan | Refusal:
    """Choose the backup with the least to replay that brings back `wanted`.

    `timeline`: follow this one instead of the latest. `repo` and `label` narrow the choice. Of two repositories that
    both can, the one with WAL, which has the lower number, is taken.
    """
    sound = soundness(situation.held)
    asked = wanted.text if wanted.kind == "backup" else label
    narrowed = [
        held
        for held in situation.held
        if repo in (None, held.backup.repo) and asked in ("", held.backup.label)
    ]
    if not narrowed:
        what = f"no backup {asked}" if asked else "no backup"
        where = f" in repo{repo}" if repo is not None else ""
        return Refusal(f"there is {what}{where}", "see what there is: wmsctl backup list")
    if wanted.at is not None and wanted.at > situation.now:
        return Refusal(f"{wanted} is still to come", "to restore as far as there is WAL: --to latest")
    passed: list[str] = []
    best: RestorePlan | None = None
    # The newest first: the least to replay.
    for held in sorted(narrowed, key=lambda h: (-h.backup.stopped.timestamp(), h.backup.repo)):
        if not sound[held.backup.key]:
            passed.append(f"{held.backup.name}: {held.bad or 'a backup that it needs is damaged or missing'}")
            continue
        found = _with(situation, held, wanted, timeline)
        if isinstance(found, RestorePlan):
            best = found
            break
        passed.append(f"{held.backup.name}: {found}")
    if best is None:
        return _none(situation, wanted, passed)
    doubt = _branch(situation, best, wanted, timeline)
    if doubt is not None:
        return doubt
    return replace(best, passed_over=tuple(line for line in passed if not line.endswith(LATER)))


LATER = "it ended after that"


def _with(situation: Situation, held: Held, wanted: Target, timeline: int | None) -> RestorePlan | str:
    """The plan with this backup, or why not."""
    backup = held.backup
    if wanted.kind == "backup":
        return _made(situation, held, wanted, backup_timeline(backup), None)
    if wanted.at is not None and backup.stopped > wanted.at:
        return LATER
    if wanted.lsn is not None and backup.lsn_stop > wanted.lsn:
        return LATER
    chain = situation.chains.get(backup.key)
    follower = situation.archives.get((backup.repo, backup.archive))
    if chain is None or follower is None:
        return "there is no WAL for it"
    if timeline is not None:
        chain = _along(follower, backup, timeline)
        if chain is None:
            return f"timeline {timeline} does not come from it"
    elif chain.abandoned:
        return f"it is on timeline {backup_timeline(backup)}, which was left; ask for it with --timeline"
    gap = chain.gaps[0] if chain.gaps else None
    if wanted.kind in ("latest", "xid", "name") and gap is not None:
        return str(gap)
    last = wal.segment(chain.last, follower.archive.segment_bytes)
    if wanted.lsn is not None and last.number < wanted.lsn // follower.archive.segment_bytes:
        return str(gap) if gap else f"WAL ends with segment {chain.last}"
    if wanted.at is not None:
        reach = chain.until or backup.stopped
        if wanted.at > reach:
            return str(gap) if gap else f"WAL reaches only to {reach:%Y-%m-%d %H:%M:%S} UTC"
    return _made(situation, held, wanted, timeline or max(chain.timelines), chain)


def backup_timeline(backup: Backup) -> int:
    """The timeline that a backup was taken on; 1 for one of a stopped server."""
    return int(backup.wal_stop[:8], 16) if backup.wal_stop else 1


def _along(follower: Follower, backup: Backup, timeline: int) -> Chain | None:
    """The backup's chain on the line of another timeline than the latest; None when it is not of that line."""
    archive = follower.archive
    histories = {t: h for t, h in archive.histories.items() if t <= timeline}
    segments = {s: at for s, at in archive.segments.items() if s.timeline <= timeline}
    size = archive.segment_bytes
    narrowed = Follower(wal.Archive(archive.id, segments, histories, size))
    if narrowed.timeline != timeline:
        return None
    chain = narrowed.follow(
        wal.segment(backup.wal_start, size), wal.segment(backup.wal_stop, size), backup.lsn_stop
    )
    return None if chain.abandoned or not chain.consistent else chain


def _made(
    situation: Situation, held: Held, wanted: Target, timeline: int, chain: Chain | None
) -> RestorePlan:
    backup = held.backup
    follower = situation.archives.get((backup.repo, backup.archive))
    size = follower.archive.segment_bytes if follower else wal.SEGMENT_BYTES
    start = wal.segment(backup.wal_start, size) if backup.wal_start else Segment(1, 0)
    stop = wal.segment(backup.wal_stop, size) if backup.wal_stop else start
    last = stop
    if chain is not None and follower is not None:
        last = _needed(follower, wal.segment(chain.last, size), stop, wanted)
    segments = last.number - start.number + 1 if backup.wal_start else 0
    notes: list[str] = []
    if not held.proven:
        notes.append("the backup was never verified: wmsctl backup verify")
    if wanted.kind in ("xid", "name"):
        notes.append(
            f"nobody but the WAL knows where {wanted} is; if it was before {backup.stopped:%Y-%m-%d %H:%M} UTC,"
            " recovery will say so: name an older backup then (--set)"
        )
    if wanted.kind == "latest" and chain is not None and chain.until is not None:
        notes.append(f"what was committed after about {chain.until:%Y-%m-%d %H:%M:%S} UTC is in no archive")
    return RestorePlan(
        target=wanted,
        backup=backup,
        timeline=timeline,
        wal_first=backup.wal_start,
        wal_last=last.name(size) if backup.wal_start else "",
        segments=segments,
        reaches=chain.until if chain is not None else None,
        forecast=forecast(situation.samples, backup.size, segments * size, situation.processes),
        options=_options(backup, wanted, timeline),
        notes=tuple(notes),
        passed_over=(),
    )


def _needed(follower: Follower, end: Segment, stop: Segment, wanted: Target) -> Segment:
    """The last segment that recovery reads, as far as it can be known beforehand."""
    if wanted.lsn is not None:
        return Segment(end.timeline, max(stop.number, wanted.lsn // follower.archive.segment_bytes))
    if wanted.at is not None:
        times = follower.archive.segments
        for number in range(stop.number + 1, end.number + 1):
            stored = [at for s, at in times.items() if s.number == number and s.timeline <= end.timeline]
            if stored and max(stored) >= wanted.at:
                return Segment(end.timeline, number)
    return end


def _options(backup: Backup, wanted: Target, timeline: int) -> tuple[str, ...]:
    """What pgBackRest is told. The timeline is always named: "latest" is another one after the next promotion."""
    common = (f"--repo={backup.repo}", f"--set={backup.label}")
    follow = f"--target-timeline={timeline}"
    promote = "--target-action=promote"
    if wanted.kind == "backup":
        return (*common, "--type=immediate", promote)
    if wanted.kind == "latest":
        return (*common, "--type=default", follow)
    if wanted.at is not None:
        return (*common, "--type=time", f"--target={wanted.at:%Y-%m-%d %H:%M:%S.%f}+00", follow, promote)
    value = lsn_text(wanted.lsn) if wanted.lsn is not None else wanted.text
    return (*common, f"--type={wanted.kind}", f"--target={value}", follow, promote)


def _branch(situation: Situation, found: RestorePlan, wanted: Target, timeline: int | None) -> Refusal | None:
    """Whether, at the time asked for, the platform was on a timeline that this recovery does not pass.

    After a restore in place the latest timeline begins earlier than the one that was left: a time between the two
    would bring back the state before it, and say that all is well.
    """
    if wanted.at is None or timeline is not None:
        return None
    follower = situation.archives[found.backup.repo, found.backup.archive]
    archive = follower.archive
    # A time may lie in a segment that is stored a little later.
    after = [(at, s) for s, at in archive.segments.items() if at >= wanted.at]
    if not after:
        return None
    _, holding = min(after)
    line = {switch.timeline: switch.at for switch in archive.histories.get(found.timeline, ())}
    if holding.timeline == found.timeline or archive.number(line.get(holding.timeline, -1)) >= holding.number:
        return None
    return Refusal(
        f"at {wanted} the platform was on timeline {holding.timeline}, which was left later; the latest one is"
        f" {found.timeline} and holds nothing of that time",
        f"bring back that timeline: --timeline {holding.timeline}",
    )


def _none(situation: Situation, wanted: Target, passed: Sequence[str]) -> Refusal:
    """Why no backup will do; the most telling reason first."""
    telling = [line for line in passed if not line.endswith(LATER)]
    if telling:
        others = f" ({len(telling) - 1} older ones do not help either)" if len(telling) > 1 else ""
        hint = "see what can be restored: wmsctl backup plan"
        if wanted.kind in ("latest", "xid", "name"):
            reach = max(
                (chain.until for chain in situation.chains.values() if chain.until is not None), default=None
            )
            if reach is not None:
                hint = f"as far as WAL goes: --to time={reach - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
        return Refusal(f"{wanted} cannot be brought back: {telling[0]}{others}", hint)
    sound = soundness(situation.held)
    oldest = min((h.backup.stopped for h in situation.held if sound[h.backup.key]), default=None)
    since = f"{oldest:%Y-%m-%d %H:%M:%S} UTC" if oldest else "no moment at all"
    return Refusal(f"{wanted} is before everything that is kept: the oldest is {since}", "wmsctl backup plan")
