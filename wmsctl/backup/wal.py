"""WAL in a repository: segment names, timelines, and whether the chain from a backup is unbroken. Pure.

pgBackRest's own `verify` proves that the files that are there are intact; it does not ask whether all are there.
Here every backup is followed: over the segments that make it consistent, then segment by segment, over switches of the
timeline as the history files tell, to the end of the archive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from wmsctl.clients.postgres import lsn_bytes
from wmsctl.errors import Failed

SEGMENT_BYTES = 16 * 1024 * 1024
"""wal_segment_size of PostgreSQL unless initdb was told otherwise."""

SEGMENT = re.compile(r"([0-9A-F]{24})(?:-[0-9a-f]{40})(?:\.(?:gz|lz4|zst|bz2))?\Z")
"""A stored segment: its name, the SHA-1 of its content, its compression."""

HISTORY = re.compile(r"([0-9A-F]{8})\.history\Z")


class WalError(Failed):
    """A name, position or history that PostgreSQL would not write."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One segment; `number` is its place in the WAL, the same on every timeline."""

    timeline: int
    number: int

    def name(self, segment_bytes: int = SEGMENT_BYTES) -> str:
        """The 24 hexadecimal digits that PostgreSQL names it by."""
        high, low = divmod(self.number, 2**32 // segment_bytes)
        return f"{self.timeline:08X}{high:08X}{low:08X}"


def segment(name: str, segment_bytes: int = SEGMENT_BYTES) -> Segment:
    """The segment of a name. Raises WalError when it is none, or none of this segment size."""
    per_log = 2**32 // segment_bytes
    if not re.fullmatch(r"[0-9A-F]{24}", name) or int(name[16:], 16) >= per_log or int(name[:8], 16) == 0:
        raise WalError(f"{name!r} is no name of a WAL segment of {segment_bytes} bytes")
    return Segment(int(name[:8], 16), int(name[8:16], 16) * per_log + int(name[16:], 16))


def position(text: str) -> int:
    """An LSN such as 16/B374D848 as a number of bytes. Raises WalError."""
    if re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text) is None:
        raise WalError(f"{text!r} is no LSN; one looks like 16/B374D848")
    return lsn_bytes(text)


@dataclass(frozen=True, slots=True)
class Switch:
    """Where a timeline was left for the next one."""

    timeline: int
    at: int


def history(text: str, timeline: int) -> tuple[Switch, ...]:
    """Read the history file of `timeline`: the timelines it comes from, oldest first.

    Raises WalError for a line that is none, for switches that go backwards, and for a parent that is not older.
    """
    switches: list[Switch] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(None, 2)
        if not words:
            continue
        if len(words) < 2 or not words[0].isdigit():
            raise WalError(f"the history of timeline {timeline} has a line that is none: {line[:80]!r}")
        switch = Switch(int(words[0]), position(words[1]))
        if switch.timeline >= timeline or (
            switches and (switch.timeline <= switches[-1].timeline or switch.at < switches[-1].at)
        ):
            raise WalError(f"the history of timeline {timeline} goes backwards: {line[:80]!r}")
        switches.append(switch)
    if not switches:
        raise WalError(f"the history of timeline {timeline} names no parent")
    return tuple(switches)


@dataclass(frozen=True)
class Archive:
    """What is in one archive of one repository."""

    id: str
    segments: Mapping[Segment, datetime]
    """Segment → when it was stored."""
    histories: Mapping[int, tuple[Switch, ...]]
    """Timeline → where it comes from; timeline 1 has none."""
    segment_bytes: int = SEGMENT_BYTES

    def name(self, segment: Segment) -> str:
        return segment.name(self.segment_bytes)

    def number(self, lsn: int) -> int:
        """The segment that holds the byte at `lsn`."""
        return lsn // self.segment_bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments that are missing between two that are there, or up to where they are needed."""

    first: str
    last: str
    count: int
    after: datetime | None
    """When the last segment before it was stored: what was committed since is what cannot be reached."""
    before: datetime | None
    """When the first one behind it was stored; None when nothing is behind it."""

    def __str__(self) -> str:
        what = f"WAL segment {self.first}" if self.count == 1 else f"WAL segments {self.first} to {self.last}"
        missing = "is missing or damaged" if self.count == 1 else f"({self.count}) are missing or damaged"
        since = f"{self.after:%Y-%m-%d %H:%M:%S}" if self.after else "the beginning"
        until = f"{self.before:%Y-%m-%d %H:%M:%S}" if self.before else "now"
        return f"{what} {missing}, written between {since} and {until} UTC"


@dataclass(frozen=True)
class Chain:
    """How far the WAL carries one backup."""

    consistent: bool
    """Every segment between its start and its stop is there: it can be restored at all."""
    gaps: tuple[Gap, ...]
    """All of them on the way, the first one ends what can be reached."""
    last: str
    """The last segment that can be replayed without a gap; empty when the backup is not consistent."""
    until: datetime | None
    """When that one was stored: PITR reaches about so far."""
    timelines: tuple[int, ...]
    """The timelines on the way."""
    abandoned: bool = False
    """It is on a branch that the newest timeline does not come from: it reaches the branch's end only."""

    @property
    def whole(self) -> bool:
        """Unbroken from the backup to the newest segment."""
        return self.consistent and not self.gaps


class Follower:
    """Follows backups through one archive. The archive's runs of segments are found once for all of them."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._runs: dict[int, list[tuple[int, int]]] = {}
        for each in sorted(archive.segments):
            runs = self._runs.setdefault(each.timeline, [])
            if runs and runs[-1][1] == each.number - 1:
                runs[-1] = (runs[-1][0], each.number)
            else:
                runs.append((each.number, each.number))

    @property
    def timeline(self) -> int:
        """The timeline that a recovery to the latest one takes: PostgreSQL looks for history files, not for segments.
        0 while there is nothing.
        """
        return max(self.archive.histories, default=min(self._runs, default=0))

    @property
    def troubles(self) -> tuple[str, ...]:
        """Timelines that no recovery finds."""
        lost = [t for t in self._runs if t > 1 and t not in self.archive.histories]
        return tuple(
            f"the history file {timeline:08X}.history is missing: no older backup can be followed to this timeline"
            for timeline in sorted(lost)
        )

    def end(self) -> Segment | None:
        """The newest segment of the newest timeline, None while there is none."""
        runs = self._runs.get(self.timeline)
        return Segment(self.timeline, runs[-1][1]) if runs else None

    def follow(self, start: Segment, stop: Segment, lsn_stop: int, *, own: bool = False) -> Chain:
        """The chain of a backup that needs `start` to `stop` to be consistent, which it is at `lsn_stop`.

        With `own` the backup holds a copy of these segments (--archive-copy), and the archive need not.
        Raises WalError when they are not on one timeline or in the wrong order.
        """
        if start.timeline != stop.timeline or stop.number < start.number:
            names = f"{self.archive.name(start)} and {self.archive.name(stop)}"
            raise WalError(f"a backup cannot begin and end with {names}")
        missing = [] if own else self._missing(start.timeline, start.number, stop.number)
        consistent = not missing
        way, abandoned = self._way(stop, lsn_stop)
        reached = stop if consistent else None
        for timeline, first, last in way:
            lacking = self._missing(timeline, first, last)
            end = lacking[0][1] - 1 if lacking else last
            if reached is not None and not missing and end >= first:
                reached = Segment(timeline, end)
            missing += lacking
        return Chain(
            consistent=consistent,
            gaps=tuple(self._gap(*each) for each in missing),
            last=self.archive.name(reached) if reached is not None else "",
            until=self.archive.segments.get(reached) if reached is not None else None,
            timelines=tuple(dict.fromkeys([start.timeline, *(timeline for timeline, _, _ in way)])),
            abandoned=abandoned,
        )

    def _way(self, stop: Segment, lsn_stop: int) -> tuple[list[tuple[int, int, int]], bool]:
        """[(timeline, first, last)]: what is to be replayed behind `stop`, and whether it is a branch that was left.

        Recovery takes each segment from the newest timeline that has it: the one with a switch is written anew, from
        its beginning, on the timeline that follows.
        """
        newest = max(self.timeline, stop.timeline)
        line = self.archive.histories.get(newest, ())
        mine = [switch for switch in line if switch.timeline >= stop.timeline]
        first = stop.number + 1
        if stop.timeline != newest and (
            not mine or mine[0].timeline != stop.timeline or mine[0].at < lsn_stop
        ):
            return self._rest(stop.timeline, first), True
        way: list[tuple[int, int, int]] = []
        for switch in mine:
            last = self.archive.number(switch.at) - 1
            if last >= first:
                way.append((switch.timeline, first, last))
            first = last + 1
        return way + self._rest(newest, first), False

    def _rest(self, timeline: int, first: int) -> list[tuple[int, int, int]]:
        """From `first` to the newest segment of `timeline`."""
        runs = self._runs.get(timeline, [])
        return [(timeline, first, runs[-1][1])] if runs and runs[-1][1] >= first else []

    def _missing(self, timeline: int, first: int, last: int) -> list[tuple[int, int, int]]:
        """[(timeline, first, last)] of what is not there between two numbers, both included."""
        runs = self._runs.get(timeline, [])
        missing: list[tuple[int, int, int]] = []
        for low, high in runs[max(0, bisect_right(runs, (first, first)) - 1) :]:
            if low > last:
                break
            if low > first:
                missing.append((timeline, first, low - 1))
            first = max(first, high + 1)
        if first <= last:
            missing.append((timeline, first, last))
        return missing

    def _gap(self, timeline: int, first: int, last: int) -> Gap:
        return Gap(
            self.archive.name(Segment(timeline, first)),
            self.archive.name(Segment(timeline, last)),
            last - first + 1,
            self._stored(first - 1, timeline),
            self._stored(last + 1, timeline),
        )

    def _stored(self, number: int, timeline: int) -> datetime | None:
        """When the segment of this number was stored, on `timeline` or, beyond its ends, on any."""
        times = self.archive.segments
        own = times.get(Segment(timeline, number))
        others = [times[each] for t in self._runs if (each := Segment(t, number)) in times]
        return own or max(others, default=None)


def expired(
    archive: Archive, backups: Iterable[tuple[str, str, str]], floor: str, oldest: str
) -> frozenset[Segment]:
    """The segments that pgBackRest removes when WAL is kept from the backup `floor` on.

    `backups`: (label, first segment, last segment) of those with WAL in this archive; of the ones older than `floor`
    (by label, as pgBackRest compares) only what makes them consistent is kept. `oldest` is the first segment of
    `floor`.
    Names are compared as text, timeline first, so what lies on a later timeline always stays.
    """
    kept = [(first, last) for label, first, last in backups if label < floor and first]
    return frozenset(
        each
        for each in archive.segments
        if (name := archive.name(each)) < oldest and not any(low <= name <= high for low, high in kept)
    )
