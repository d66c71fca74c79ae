"""From a moment to the backup, timeline and WAL that bring it back; forecasts and what they are based on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wmsctl.backup.worlds import MONDAY
from wmsctl.backup import forecast, restore_plan, wal
from wmsctl.backup.catalogue import Backup, Type
from wmsctl.backup.forecast import Sample
from wmsctl.backup.observe import known
from wmsctl.backup.restore_plan import Refusal, RestorePlan, Situation, plan, target
from wmsctl.backup.simulate import made
from wmsctl.backup.wal import Follower, Segment, Switch
from wmsctl.errors import Usage
from wmsctl.output import duration

MINUTE = timedelta(minutes=1)


class Place:
    """A repository whose segments are stored one a minute: segment n at MONDAY + n minutes."""

    def __init__(self, last: int = 600) -> None:
        self.segments = {Segment(1, n): MONDAY + n * MINUTE for n in range(1, last + 1)}
        self.histories: dict[int, tuple[Switch, ...]] = {}
        self.backups: list[Backup] = []
        self.bad: dict[str, str] = {}
        self.samples: list[Sample] = []

    def backup(self, kind: Type, minute: int, *, timeline: int = 1, repo: int = 1) -> Backup:
        """One that begins in segment `minute` and ends in the next."""
        mine = [b for b in self.backups if b.repo == repo and (kind == "incr" or b.type == "full")]
        at = MONDAY + minute * MINUTE
        backup = replace(
            made(repo, kind, at, at + MINUTE, mine[-1] if mine and kind != "full" else None, 0),
            wal_start=Segment(timeline, minute).name(),
            wal_stop=Segment(timeline, minute + 1).name(),
            lsn_start=minute * wal.SEGMENT_BYTES + 40,
            lsn_stop=(minute + 1) * wal.SEGMENT_BYTES + 40,
            size=10**9,
        )
        self.backups.append(backup)
        return backup

    def switch(self, minute: int, last: int, parent: int = 1) -> int:
        """A new timeline from segment `minute` of its parent on, with segments up to `last`."""
        timeline = max([1, *self.histories]) + 1
        line = tuple(s for s in self.histories.get(parent, ()))
        self.histories[timeline] = (*line, Switch(parent, minute * wal.SEGMENT_BYTES + 80))
        newest = max(self.segments.values())
        for number in range(minute, last + 1):
            self.segments[Segment(timeline, number)] = newest + (number - minute + 1) * MINUTE
        return timeline

    @property
    def now(self) -> datetime:
        return max(self.segments.values()) + MINUTE

    def situation(self) -> Situation:
        follower = Follower(wal.Archive("15-1", self.segments, self.histories))
        chains = {
            b.key: follower.follow(wal.segment(b.wal_start), wal.segment(b.wal_stop), b.lsn_stop)
            for b in self.backups
        }
        held = [known(b, chains[b.key]) for b in self.backups]
        held = [replace(h, proven=self.now, bad=self.bad.get(h.backup.label, h.bad)) for h in held]
        archives = {(repo, "15-1"): follower for repo in (1, 2)}
        return Situation(held, chains, archives, self.now, self.samples)

    def plan(self, text: str, **options: object) -> RestorePlan | Refusal:
        return plan(self.situation(), target(text), **options)  # type: ignore[arg-type]


def at(minute: float) -> str:
    return f"time={MONDAY + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}"


def planned(found: RestorePlan | Refusal) -> RestorePlan:
    assert isinstance(found, RestorePlan), found
    return found


def refused(found: RestorePlan | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


def test_the_newest_backup_before_the_moment_has_the_least_to_replay() -> None:
    place = Place()
    place.backup("full", 10)
    near = place.backup("incr", 200)
    place.backup("incr", 400)
    found = planned(place.plan(at(300)))
    assert found.backup == near and found.timeline == 1
    assert found.wal_first == near.wal_start and found.wal_last == Segment(1, 300).name()
    assert found.segments == 101
    assert found.options == (
        "--repo=1",
        f"--set={near.label}",
        "--type=time",
        f"--target={MONDAY + 300 * MINUTE:%Y-%m-%d %H:%M:%S.%f}+00",
        "--target-timeline=1",
        "--target-action=promote",
    )
    assert found.passed_over == ()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("latest", ("--type=default", "--target-timeline=1")),
        (
            "lsn=1/2C000010",
            ("--type=lsn", "--target=1/2C000010", "--target-timeline=1", "--target-action=promote"),
        ),
        ("xid=77", ("--type=xid", "--target=77", "--target-timeline=1", "--target-action=promote")),
        (
            "name=before-deploy",
            ("--type=name", "--target=before-deploy", "--target-timeline=1", "--target-action=promote"),
        ),
    ],
)
def test_each_kind_of_target_is_told_to_pgbackrest_with_the_timeline(
    text: str, options: tuple[str, ...]
) -> None:
    place = Place()
    place.backup("full", 10)
    newest = place.backup("incr", 200)
    found = planned(place.plan(text))
    assert found.options == ("--repo=1", f"--set={newest.label}", *options)
    if text == "latest":
        assert found.wal_last == Segment(1, 600).name() and "is in no archive" in found.notes[-1]
    if text.startswith("lsn"):
        assert found.wal_last == Segment(1, 300).name()
    if text.startswith(("xid", "name")):
        assert "nobody but the WAL knows" in found.notes[0]


def test_a_backup_by_name_is_brought_back_to_its_own_end() -> None:
    place = Place()
    full = place.backup("full", 10)
    place.backup("incr", 200)
    found = planned(place.plan(f"backup={full.label}"))
    assert found.options[2:] == ("--type=immediate", "--target-action=promote") and found.segments == 2
    assert refused(place.plan("backup=20200101-000000F")).reason == "there is no backup 20200101-000000F"


def test_a_damaged_backup_is_passed_over_and_that_is_said() -> None:
    place = Place()
    full = place.backup("full", 10)
    bad = place.backup("incr", 200)
    place.bad[bad.label] = "invalid checksum: a"
    found = planned(place.plan(at(300)))
    assert found.backup == full and found.passed_over == (f"{bad.name}: invalid checksum: a",)
    place.bad[full.label] = "invalid checksum: b"
    answer = refused(place.plan(at(300)))
    assert "invalid checksum: a" in answer.reason and "1 older ones do not help either" in answer.reason


def test_a_gap_in_the_wal_ends_what_can_be_brought_back_and_is_named() -> None:
    place = Place()
    place.backup("full", 10)
    del place.segments[Segment(1, 250)]
    assert planned(place.plan(at(240))).wal_last == Segment(1, 240).name()
    answer = refused(place.plan(at(300)))
    assert f"WAL segment {Segment(1, 250).name()} is missing" in answer.reason
    latest = refused(place.plan("latest"))
    assert "missing" in latest.reason and latest.hint.endswith("--to time=2026-11-23T04:08:59Z")
    behind = place.backup("incr", 300)
    assert planned(place.plan("latest")).backup == behind


def test_moments_beyond_either_end_are_refused_with_the_end() -> None:
    place = Place()
    place.backup("full", 10)
    early = refused(place.plan(at(5)))
    assert "before everything that is kept: the oldest is 2026-11-23 00:11:00" in early.reason
    late = refused(place.plan(at(10_000)))
    assert "still to come" in late.reason and "--to latest" in late.hint
    assert "WAL reaches only to 2026-11-23 10:00:00" in refused(place.plan(at(600.5))).reason
    assert f"WAL ends with segment {Segment(1, 600).name()}" in refused(place.plan("lsn=F/0")).reason
    assert refused(Place().plan("latest")).reason == "there is no backup"


def test_a_promotion_is_passed_on_the_way() -> None:
    place = Place(300)
    place.backup("full", 10)
    second = place.switch(300, 500)
    found = planned(place.plan("latest"))
    assert found.timeline == second and found.wal_last == Segment(second, 500).name()


def test_a_time_on_a_timeline_that_was_left_is_not_taken_for_one_of_the_latest() -> None:
    """Timeline 2 was left by a restore to segment 200: its hours are on no line that leads here."""
    place = Place(300)
    place.backup("full", 10)
    second = place.switch(300, 400)
    third = place.switch(200, 500, parent=1)
    lost_hour = place.segments[Segment(second, 350)]
    answer = refused(place.plan(f"time={lost_hour:%Y-%m-%dT%H:%M:%SZ}"))
    assert f"was on timeline {second}, which was left later; the latest one is {third}" in answer.reason
    assert answer.hint.endswith(f"--timeline {second}")
    found = planned(place.plan(f"time={lost_hour:%Y-%m-%dT%H:%M:%SZ}", timeline=second))
    assert found.timeline == second and f"--target-timeline={second}" in found.options
    assert planned(place.plan(at(150))).timeline == third
    later = place.segments[Segment(third, 450)]
    assert planned(place.plan(f"time={later:%Y-%m-%dT%H:%M:%SZ}")).timeline == third


def test_a_backup_of_a_timeline_that_was_left_serves_that_timeline_only() -> None:
    place = Place(300)
    place.backup("full", 10)
    second = place.switch(300, 400)
    left = place.backup("incr", 320, timeline=second)
    place.switch(200, 500, parent=1)
    found = planned(place.plan("latest"))
    assert found.backup == place.backups[0] and f"timeline {second}, which was left" in found.passed_over[0]
    assert planned(place.plan("latest", timeline=second)).backup == left
    assert "timeline 9 does not come from it" in refused(place.plan("latest", timeline=9)).reason


def test_the_choice_can_be_narrowed() -> None:
    place = Place()
    first = place.backup("full", 10)
    place.backup("incr", 200)
    assert planned(place.plan(at(300), label=first.label)).backup == first
    far = place.backup("full", 100, repo=2)
    assert planned(place.plan(at(300), repo=2)).backup == far
    assert refused(place.plan(at(300), repo=3)).reason == "there is no backup in repo3"


def test_an_unproven_backup_is_taken_with_a_word() -> None:
    place = Place()
    place.backup("full", 10)
    situation = place.situation()
    situation = replace(situation, held=[replace(h, proven=None) for h in situation.held])
    assert "never verified" in planned(plan(situation, target("latest"))).notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "latest=1", "time=", "time=yesterday", "time=2026-11-24T13:00:00", "lsn=12", "xid=-1", "xid=2",
        "name=", f"name={'x' * 64}", "backup=F", "backup=20261124-133823F_20261124-133829X",
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(Usage) as found:
        target(text)
    assert found.value.hint


def test_a_time_is_understood_in_its_zone() -> None:
    assert target("time=2026-11-24T10:00:00-03:00") == target("time=2026-11-24T13:00:00Z")
    assert str(target("time=2026-11-24T10:00:00-03:00")) == "2026-11-24 13:00:00 UTC"


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 590), min_size=1, max_size=6, unique=True),
    st.sets(st.integers(1, 600)),
    st.floats(0, 610),
)
def test_what_is_planned_is_there_and_what_is_refused_is_not(
    minutes: list[int], missing: set[int], minute: float
) -> None:
    place = Place()
    for number, start in enumerate(sorted(minutes)):
        place.backup("full" if number % 2 == 0 else "incr", start)
    for number in missing:
        place.segments.pop(Segment(1, number), None)
    if not place.segments:
        return
    wanted = MONDAY + timedelta(minutes=minute)
    found = plan(place.situation(), restore_plan.Target("time", at=wanted))

    def able(backup: Backup) -> bool:
        """Every segment from its beginning to the first that was stored at the moment or later is there."""
        number = wal.segment(backup.wal_start).number
        own = (number, number + 1)
        if any(Segment(1, n) not in place.segments for n in own) or backup.stopped > wanted:
            return False
        if backup.prior:
            parent = next(b for b in place.backups if b.label == backup.prior)
            first = wal.segment(parent.wal_start).number
            if any(Segment(1, n) not in place.segments for n in (first, first + 1)):
                return False
        for n in range(number + 1, 601):
            if Segment(1, n) not in place.segments:
                return False
            if place.segments[Segment(1, n)] >= wanted:
                return True
        return False

    best = [b for b in place.backups if able(b)]
    if wanted > place.now or not best:
        assert isinstance(found, Refusal)
    else:
        assert planned(found).backup == max(best, key=lambda b: b.stopped)


# Forecasts


def test_without_a_measurement_a_forecast_says_so_and_is_wide() -> None:
    found = forecast.forecast([], 38 * 10**9, 60 * 10**7, processes=2)
    assert found.basis == "assumed" and "by assumption" in str(found)
    assert found.phases[0].usual == pytest.approx(1000) and found.most == pytest.approx(2 * found.usual)


def test_measured_rates_make_the_forecast_with_the_slowest_and_the_fastest_as_bounds() -> None:
    samples = [
        Sample("copy", 100, 1.0), Sample("copy", 100, 2.0), Sample("copy", 100, 4.0), Sample("replay", 50, 1.0),
        Sample("start", 0, 3.0), Sample("copy", 100, 0.0),
    ]  # fmt: skip
    found = forecast.forecast(samples, 1000, 100)
    assert [(p.name, p.usual, p.least, p.most) for p in found.phases] == [
        ("copy", 20.0, 10.0, 40.0), ("replay", 2.0, 2.0, 2.0), ("start", 3.0, 3.0, 3.0),
    ]  # fmt: skip
    assert str(found) == "25 s (15 s to 45 s, as measured)"


def test_old_measurements_are_left_behind() -> None:
    samples = [Sample("copy", 100, 1.0)] * forecast.KEPT + [Sample("copy", 100, 100.0)] * 50
    assert forecast.rate(samples, "copy", 1).slow == 100


def test_what_is_left_is_told_by_its_own_speed_more_and_more() -> None:
    plan_ = forecast.forecast(
        [Sample("copy", 100, 1.0), Sample("replay", 100, 1.0), Sample("start", 0, 5.0)], 10_000, 1000
    )
    assert forecast.remaining(plan_, "copy", 0.0, 0.0) == pytest.approx(115)
    # Half is done in the time that all should have taken.
    assert forecast.remaining(plan_, "copy", 0.5, 100.0) == pytest.approx(0.5 * 100 + 15)
    assert forecast.remaining(plan_, "copy", 1.0, 200.0) == pytest.approx(15)
    assert forecast.remaining(plan_, "start", 0.0, 60.0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (119, "119 s"), (121, "2 min"), (7140, "119 min"), (11_100, "3 h 5 min")],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_times_are_utc() -> None:
    assert MONDAY.tzinfo is UTC
