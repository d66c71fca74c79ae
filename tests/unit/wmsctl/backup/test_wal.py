"""Segments, timelines and chains of WAL, against a model that looks segment by segment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmsctl.backup import wal
from wmsctl.backup.wal import Archive, Follower, Segment, Switch
from wmsctl.clients.postgres import lsn_text

MB = 1024 * 1024
T0 = datetime(2026, 11, 1, tzinfo=UTC)


def archive(*stored: Segment, histories: Mapping[int, tuple[Switch, ...]] | None = None) -> Archive:
    """Segments stored a minute apart, by number."""
    return Archive("15-1", {s: T0 + timedelta(minutes=s.number) for s in stored}, histories or {})


def run(timeline: int, first: int, last: int) -> list[Segment]:
    return [Segment(timeline, number) for number in range(first, last + 1)]


def at(number: int, offset: int = 40) -> int:
    """A position in segment `number`."""
    return number * wal.SEGMENT_BYTES + offset


@pytest.mark.parametrize(
    ("name", "size", "timeline", "number"),
    [
        ("000000010000000000000001", 16 * MB, 1, 1),
        ("0000000200000001000000FF", 16 * MB, 2, 511),
        ("000000010000000100000000", 64 * MB, 1, 64),
        ("0000000A0000000000000FFF", 1 * MB, 10, 4095),
    ],
)
def test_names_are_those_of_postgresql(name: str, size: int, timeline: int, number: int) -> None:
    assert wal.segment(name, size) == Segment(timeline, number)
    assert Segment(timeline, number).name(size) == name


@settings(deadline=None)
@given(
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**40),
    st.sampled_from([1, 2, 16, 64, 1024]),
)
def test_a_name_is_read_as_it_was_written(timeline: int, number: int, megabytes: int) -> None:
    whole = Segment(timeline, number % (2**64 // (megabytes * MB)))
    assert wal.segment(whole.name(megabytes * MB), megabytes * MB) == whole


@settings(deadline=None)
@given(st.integers(0, 2**63), st.sampled_from([1, 16, 64]))
def test_names_of_one_timeline_sort_as_their_numbers(number: int, megabytes: int) -> None:
    size = megabytes * MB
    first = Segment(1, number // size % (2**63 // size))
    assert first.name(size) < Segment(1, first.number + 1).name(size)


@pytest.mark.parametrize(
    "name",
    ["", "00000001000000000000000", "000000010000000000000100", "00000000000000000000000A", "G" * 24],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(wal.WalError):
        wal.segment(name)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_positions(number: int) -> None:
    assert wal.position(lsn_text(number)) == number


@pytest.mark.parametrize("text", ["", "0", "0/", "x/1", "0/123456789", "1/2/3"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(wal.WalError):
        wal.position(text)


HISTORY = """1\t0/5000060\tno recovery target specified

# a comment
2\t0/90000A0\tbefore 2026-11-24 13:00:00+00
"""


def test_a_history_file_is_read() -> None:
    assert wal.history(HISTORY, 3) == (Switch(1, 0x5000060), Switch(2, 0x90000A0))


@pytest.mark.parametrize(
    ("text", "timeline"),
    [("", 2), ("one\t0/1\n", 2), ("1\n", 2), ("2\t0/1\n", 2), (HISTORY, 2), ("2\t0/2\n1\t0/1\n", 3)],
)
def test_a_wrong_history_file_is_refused(text: str, timeline: int) -> None:
    with pytest.raises(wal.WalError):
        wal.history(text, timeline)


def test_an_unbroken_chain_reaches_the_newest_segment() -> None:
    chain = Follower(archive(*run(1, 2, 9))).follow(Segment(1, 3), Segment(1, 4), at(4))
    assert chain.whole and chain.last == "000000010000000000000009" and chain.timelines == (1,)
    assert chain.until == T0 + timedelta(minutes=9)


def test_a_gap_is_named_by_segment_and_time_and_ends_what_is_reached() -> None:
    follower = Follower(archive(*run(1, 2, 5), *run(1, 8, 8), *run(1, 10, 11)))
    chain = follower.follow(Segment(1, 2), Segment(1, 3), at(3))
    assert chain.consistent and not chain.whole
    assert chain.last == "000000010000000000000005"
    assert [(g.first[-2:], g.last[-2:], g.count) for g in chain.gaps] == [("06", "07", 2), ("09", "09", 1)]
    assert str(chain.gaps[0]) == (
        "WAL segments 000000010000000000000006 to 000000010000000000000007 (2) are missing or damaged,"
        " written between 2026-11-01 00:05:00 and 2026-11-01 00:08:00 UTC"
    )
    assert str(chain.gaps[1]).startswith("WAL segment 000000010000000000000009 is missing or damaged")


def test_a_backup_without_its_own_wal_cannot_be_restored_unless_it_holds_a_copy() -> None:
    follower = Follower(archive(*run(1, 4, 9)))
    chain = follower.follow(Segment(1, 3), Segment(1, 4), at(4))
    assert not chain.consistent and chain.last == "" and chain.until is None
    assert chain.gaps[0].after is None and "the beginning" in str(chain.gaps[0])
    own = follower.follow(Segment(1, 2), Segment(1, 3), at(3), own=True)
    assert own.whole and own.last == "000000010000000000000009"


def test_a_copy_does_not_bridge_what_is_missing_behind_it() -> None:
    chain = Follower(archive(*run(1, 6, 9))).follow(Segment(1, 2), Segment(1, 3), at(3), own=True)
    assert chain.consistent and chain.last == "000000010000000000000003" and chain.until is None
    assert [g.count for g in chain.gaps] == [2]


def test_a_switch_of_the_timeline_is_followed() -> None:
    histories = {2: (Switch(1, at(6)),)}
    # The old primary archived what it had of segment 6, too, and one behind it: not of this line.
    stored = [*run(1, 2, 7), *run(2, 6, 9)]
    chain = Follower(archive(*stored, histories=histories)).follow(Segment(1, 3), Segment(1, 3), at(3))
    assert chain.whole and chain.timelines == (1, 2) and chain.last == "000000020000000000000009"
    broken = [s for s in stored if s != Segment(2, 6)]
    chain = Follower(archive(*broken, histories=histories)).follow(Segment(1, 3), Segment(1, 3), at(3))
    assert [g.first for g in chain.gaps] == ["000000020000000000000006"]
    assert chain.last == "000000010000000000000005"


def test_a_switch_at_the_boundary_of_a_segment_needs_nothing_of_the_old_timeline_behind_it() -> None:
    histories = {2: (Switch(1, at(6, 0)),)}
    chain = Follower(archive(*run(1, 2, 5), *run(2, 6, 7), histories=histories)).follow(
        Segment(1, 2), Segment(1, 2), at(2)
    )
    assert chain.whole


def test_a_backup_of_a_branch_that_was_left_reaches_its_end_only() -> None:
    # A restore to a time in segment 5 made timeline 3 of 1; timeline 2 was left with a backup on it.
    histories = {2: (Switch(1, at(6)),), 3: (Switch(1, at(5)),)}
    follower = Follower(archive(*run(1, 2, 6), *run(2, 6, 9), *run(3, 5, 20), histories=histories))
    left = follower.follow(Segment(2, 7), Segment(2, 7), at(7))
    assert left.abandoned and left.last == "000000020000000000000009" and left.whole
    # So was one on timeline 1 that ended behind the point of the switch.
    behind = follower.follow(Segment(1, 5), Segment(1, 5), at(5, 80))
    assert behind.abandoned and behind.last == "000000010000000000000006"
    before = follower.follow(Segment(1, 4), Segment(1, 4), at(4))
    assert not before.abandoned and before.timelines == (1, 3) and before.last.endswith("14")


def test_a_timeline_without_its_history_file_is_found_by_nobody() -> None:
    follower = Follower(archive(*run(1, 2, 6), *run(2, 6, 9)))
    assert follower.timeline == 1
    assert follower.troubles == (
        "the history file 00000002.history is missing: no older backup can be followed to this timeline",
    )
    own = follower.follow(Segment(2, 7), Segment(2, 7), at(7))
    assert own.whole and not own.abandoned and own.last == "000000020000000000000009"


def test_an_empty_archive_has_no_end() -> None:
    follower = Follower(archive())
    assert follower.end() is None and follower.timeline == 0 and follower.troubles == ()
    assert not follower.follow(Segment(1, 1), Segment(1, 1), at(1)).consistent


def test_segments_of_two_timelines_are_no_backup() -> None:
    with pytest.raises(wal.WalError, match="cannot begin and end"):
        Follower(archive()).follow(Segment(1, 2), Segment(2, 3), at(3))
    with pytest.raises(wal.WalError, match="cannot begin and end"):
        Follower(archive()).follow(Segment(1, 3), Segment(1, 2), at(3))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Archive, Segment, Segment, int, bool]:
    """A line of timelines with segments left out at random, and a backup somewhere on it."""
    points = sorted(draw(st.lists(st.integers(2, 30), max_size=4)))
    switches = tuple(Switch(number + 1, at(point)) for number, point in enumerate(points))
    newest = len(points) + 1
    bounds = [0, *points, 40]
    whole = [s for t in range(1, newest + 1) for s in run(t, bounds[t - 1], bounds[t])]
    stored = draw(st.sets(st.sampled_from(whole)))
    timeline = draw(st.integers(1, newest))
    low, high = bounds[timeline - 1], bounds[timeline]
    first, last = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    histories = {t: switches[: t - 1] for t in range(2, newest + 1)}
    found = archive(*stored, histories=histories)
    return found, Segment(timeline, first), Segment(timeline, last), newest, draw(st.booleans())


@settings(deadline=None)
@given(worlds())
def test_a_chain_is_what_looking_at_each_segment_finds(
    world: tuple[Archive, Segment, Segment, int, bool],
) -> None:
    found, start, stop, newest, own = world
    stored = found.segments
    line = found.histories.get(newest, ())
    # What follows the backup: each number from the newest timeline that begins at or before it.
    end = max((s.number for s in stored if s.timeline == newest), default=-1)
    last_switch = max((found.number(s.at) - 1 for s in line if s.timeline >= stop.timeline), default=-1)
    switched = next((found.number(s.at) for s in line if s.timeline == stop.timeline), None)
    following = stop.number if switched == stop.number else stop.number + 1
    expected: list[Segment] = []
    for number in range(following, max(end, last_switch) + 1):
        of = 1 + sum(1 for s in line if found.number(s.at) <= number)
        expected.append(Segment(max(of, stop.timeline), number))
    own_part = [] if own else run(stop.timeline, start.number, stop.number)
    missing = [s for s in [*own_part, *expected] if s not in stored]

    # The backup ended before its timeline was left.
    chain = Follower(found).follow(start, stop, at(stop.number, 10), own=own)
    assert not chain.abandoned
    assert chain.consistent == all(s in stored for s in own_part)
    named = [
        Segment(wal.segment(g.first).timeline, number)
        for g in chain.gaps
        for number in range(wal.segment(g.first).number, wal.segment(g.last).number + 1)
    ]
    assert named == missing
    assert sum(g.count for g in chain.gaps) == len(missing)
    if not chain.consistent:
        assert chain.last == ""
    else:
        reached = stop
        for each in expected:
            if each not in stored:
                break
            reached = each
        assert chain.last == found.name(reached)


def test_what_pgbackrest_will_remove_is_foretold() -> None:
    """As a real 2.45 said for these three backups with `--repo1-retention-archive=1`, type incr."""
    full, diff, incr = (
        "20261124-133955F",
        "20261124-133955F_20261124-133958D",
        "20261124-133955F_20261124-134001I",
    )
    backups = [
        (full, "000000010000000000000002", "000000010000000000000002"),
        (diff, "000000010000000000000004", "000000010000000000000005"),
        (incr, "000000010000000000000006", "000000010000000000000007"),
    ]
    gone = wal.expired(archive(*run(1, 1, 8), Segment(2, 1)), backups, incr, "000000010000000000000006")
    assert gone == {Segment(1, 1), Segment(1, 3)}
