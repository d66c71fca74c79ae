"""What stays and what goes (row R5): the exact words by example, and what must hold for any set of backups."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wmsctl.backup.worlds import MONDAY, Chain, histories
from wmsctl.backup import periods
from wmsctl.backup.catalogue import Backup, ancestors, index
from wmsctl.backup.retention import (
    RANK,
    Held,
    Plan,
    Policy,
    Tier,
    plan,
    representatives,
    soundness,
)

SUNDAY = MONDAY - timedelta(days=1)
POLICY = Policy()


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return SUNDAY + timedelta(days=day, hours=hour, minutes=minute)


def reaching(chain: Chain, now: datetime) -> list[Held]:
    """The backups, with unbroken WAL from each to `now`."""
    return [replace(h, reach=now) for h in chain.held]


def week(weeks: int = 1, until: datetime | None = None) -> Chain:
    """Whole weeks of the schedule in repo1, up to a moment."""
    chain = Chain()
    for day in range(7 * weeks):
        if until and at(day) >= until:
            break
        chain.take("full" if day % 7 == 0 else "diff", at(day))
        for hour in (6, 12, 18):
            if not until or at(day, hour) < until:
                chain.take("incr", at(day, hour))
    return chain


def labels(backups: tuple[Backup, ...]) -> list[str]:
    return [backup.label for backup in backups]


def kinds(found: Plan, backup: Backup) -> set[str]:
    return {reason.kind for reason in found.decision(backup.key).reasons}


# By example


def test_r5_a_daily_stays_seven_days_to_the_day() -> None:
    chain = week(2)
    monday = next(b for b in chain.backups if b.started == at(1))
    before = plan(reaching(chain, at(7, 23)), POLICY, at(7, 23))
    reasons = {r.kind: r for r in before.decision(monday.key).reasons}
    assert reasons["daily"].until == at(8).date() and reasons["daily"].text == "daily of 2026-11-23"
    after = plan(reaching(chain, at(8)), POLICY, at(8))
    assert "daily" not in kinds(after, monday)


def test_r5_the_windows_base_stays_with_what_it_needs_and_older_incrementals_go() -> None:
    now = at(9, 13)
    chain = week(2, now)
    found = plan(reaching(chain, now), POLICY, now)
    base = next(b for b in chain.backups if b.started == at(2, 12))
    assert "base" in kinds(found, base)
    needed = next(b for b in chain.backups if b.started == at(2, 6))
    assert "needed" in kinds(found, needed)
    # Of Monday nothing is needed any more: a differential depends on the week's full one only.
    assert sorted(labels(found.expire)) == sorted(b.label for b in chain.backups if at(0) < b.started < at(2))
    assert found.refusals == () and found.after[0].begin <= now - timedelta(days=7)
    assert "weekly" in kinds(found, chain.backups[0])


def test_what_depends_on_another_goes_before_it() -> None:
    chain = week(3)
    now = at(20, 23)
    chain.take("full", at(20, 22), repo=2)
    found = plan(reaching(chain, now), Policy(tiers=(Tier("daily", "day", 1, (1,)),)), now)
    gone: set[str] = set()
    for backup in found.expire:
        assert all(other.prior not in gone for other in chain.backups if other.label == backup.label)
        gone.add(backup.label)
    assert labels(found.expire)[0] == max(
        b.label for b in chain.backups if b.label[:16] == chain.backups[0].label
    )
    assert labels(found.expire)[-1] != chain.backups[0].label and chain.backups[0].label in gone


def test_a_window_that_goes_is_shown() -> None:
    now = at(9, 13)
    chain = week(2, now)
    found = plan(reaching(chain, now), POLICY, now)
    assert str(found.before[0]).startswith("2026-11-22 00:10:00 to")
    # Sunday's full backup stays as the weekly, and two on the way to the base: points, no windows.
    assert [w.point for w in found.after] == [True, True, True, False]
    assert [str(w) for w in found.lost] == [
        "2026-11-22 00:10:00 to 2026-11-24 00:10:00 UTC",
        "2026-11-24 00:10:00 to 2026-11-24 06:10:00 UTC",
        "2026-11-24 06:10:00 to 2026-11-24 12:10:00 UTC",
    ]
    floor = found.floors[0]
    assert floor.label.endswith("_20261124-120000I")
    assert floor.kept == sum(b.label >= floor.label for b in chain.backups)


def test_a_day_is_the_day_a_backup_started_on_and_full_comes_before_differential() -> None:
    chain = Chain()
    chain.take("full", at(0, 1))
    early = chain.take("diff", at(1, 0, 5))
    chain.take("incr", at(1, 6))
    late = chain.take("full", at(1, 23, 55), minutes=30)
    tier = Tier("daily", "day", 7, (1,))
    sound = soundness(chain.held)
    assert representatives(chain.held, tier, sound, 6)[at(1).date()] == late
    chain.spoil(late)
    assert representatives(chain.held, tier, soundness(chain.held), 6)[at(1).date()] == early


def test_an_incremental_stands_for_a_day_without_better_and_a_day_without_any_is_a_hole() -> None:
    chain = Chain()
    chain.take("full", at(0))
    only = chain.take("incr", at(1, 18))
    chain.take("diff", at(3))
    found = plan(reaching(chain, at(3, 1)), POLICY, at(3, 1))
    assert "daily" in kinds(found, only)
    assert [(h.tier, h.period) for h in found.holes] == [("daily", "2026-11-24")]
    chain.spoil(only)
    holes = plan(reaching(chain, at(3, 1)), POLICY, at(3, 1)).holes
    assert [h.period for h in holes] == ["2026-11-23", "2026-11-24"]


def test_a_month_that_the_long_term_repository_missed_is_stood_for_by_the_other_until_it_has_one() -> None:
    chain = week(2)
    # It is the month of the backup that counts: November ends with day 8.
    now = at(60)
    found = plan(chain.held, POLICY, now)
    stand_in = chain.backups[0]
    assert {r.text for r in found.decision(stand_in.key).reasons} >= {
        "monthly of 2026-11",
        "archive of 2026",
    }
    assert found.decision(stand_in.key).until == date(2033, 11, 22)
    chain.take("full", at(8, 3), repo=2)
    better = plan(chain.held, POLICY, now)
    assert "monthly" not in kinds(better, stand_in) and "archive" not in kinds(better, stand_in)
    assert {"monthly", "archive"} <= kinds(better, chain.backups[-1])


def test_the_newest_stays_whatever_its_age() -> None:
    chain = Chain()
    chain.take("full", at(0))
    newest = chain.take("diff", at(1))
    found = plan(chain.held, POLICY, at(4000))
    assert (
        found.expire == () and "newest" in kinds(found, newest) and "needed" in kinds(found, chain.backups[0])
    )
    assert found.decision(newest.key).until is None


def test_a_hold_keeps_a_backup_with_what_it_needs() -> None:
    chain = week(2)
    held = [
        replace(h, backup=replace(h.backup, annotations={"hold": "case 42"})) if i == 6 else h
        for i, h in enumerate(reaching(chain, at(13, 20)))
    ]
    found = plan(held, POLICY, at(13, 20))
    kept = held[6].backup
    assert [r.text for r in found.decision(kept.key).reasons] == ["held: case 42"]
    parents = ancestors(kept, index(tuple(h.backup for h in held)))
    assert len(parents) > 1 and all(found.decision(parent.key).keep for parent in parents)


def test_nothing_goes_while_nothing_was_proven() -> None:
    chain = week(2)
    held = [replace(h, proven=None) for h in reaching(chain, at(13, 20))]
    found = plan(held, POLICY, at(13, 20))
    assert found.expire and found.refusals == (
        "repo1 would be left without a backup that was proven: verify it first (wmsctl backup verify)",
    )


def test_the_only_proven_backup_stays_although_its_time_is_over() -> None:
    chain = Chain()
    for day in (0, 40, 80, 120):
        chain.take("full", at(day), repo=2, proven=day == 40)
    found = plan(chain.held, Policy(tiers=(Tier("monthly", "month", 1, (2,)),)), at(121))
    assert kinds(found, chain.backups[1]) == {"proven"} and found.refusals == ()
    assert found.expire == (chain.backups[0], chain.backups[2])


def test_the_window_does_not_move_onto_a_base_that_nobody_has_proven() -> None:
    chain = week(3)
    now = at(20, 20)
    proven = chain.backups[6]
    held = [h if h.backup == proven else replace(h, proven=None) for h in reaching(chain, now)]
    found = plan(held, POLICY, now)
    assert kinds(found, proven) == {"base"} and found.refusals == ()
    assert all(found.decision(p.key).keep for p in ancestors(proven, index(tuple(chain.backups))))
    assert [floor.label for floor in found.floors] == [proven.label]
    nothing = plan([replace(h, proven=None) for h in held], POLICY, now)
    assert nothing.floors == () and nothing.lost == ()


def test_a_damaged_backup_stands_for_nothing_and_neither_does_what_needs_it() -> None:
    chain = week(1)
    chain.spoil(chain.backups[4])  # Monday's differential
    sound = soundness(chain.held)
    assert [b.started for b in chain.backups if not sound[b.key]] == [at(1, h) for h in (0, 6, 12, 18)]
    found = plan(reaching(chain, at(6, 20)), POLICY, at(6, 20))
    assert [h.period for h in found.holes] == ["2026-11-23"]
    assert found.decision(chain.backups[4].key).reasons[0].text == "damaged: kept to look into"


def test_a_clock_that_runs_behind_deletes_nothing() -> None:
    chain = week(2)
    found = plan(chain.held, POLICY, at(3))
    assert "a clock is wrong" in found.refusals[0]


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (0, "is needed by"),
        (4, "is needed by"),
        (7, ""),  # Monday's last incremental: what is around it covers its window
        (27, "stays: newest of repo1"),
        (24, "is needed by"),
    ],
)
def test_a_backup_asked_for_by_name_goes_only_when_nothing_is_lost(number: int, refusal: str) -> None:
    chain = week(1)
    now = at(6, 20)
    found = plan(reaching(chain, now), POLICY, now, [chain.backups[number].key])
    if refusal:
        assert refusal in found.refusals[0]
    else:
        assert found.refusals == () and found.expire == (chain.backups[number],)


def test_a_daily_does_not_go_by_name_and_an_unknown_backup_is_said_to_be_unknown() -> None:
    chain = Chain()
    chain.take("full", at(0))
    daily = chain.take("diff", at(1))
    chain.take("diff", at(2))
    now = at(2, 5)
    found = plan(reaching(chain, now), POLICY, now, [daily.key])
    assert found.refusals == (f"{daily.name} stays: daily of 2026-11-23",)
    assert plan(chain.held, POLICY, now, [(2, "x")]).refusals == ("repo2 has no backup x",)


def test_a_window_that_is_promised_is_not_given_away() -> None:
    """The base of the window is asked for by name, and WAL reaches from nowhere else to the window's beginning."""
    chain = Chain()
    chain.take("full", at(0))
    base = chain.take("incr", at(0, 12))
    chain.take("full", at(5))
    now = at(8)
    held = [replace(h, reach=now) if h.backup.started >= base.started else h for h in chain.held]
    found = plan(held, Policy(tiers=(Tier("weekly", "week", 4, (1,)),)), now, [base.key])
    assert any("stays: base of the point-in-time window" in refusal for refusal in found.refusals)
    assert any("promised to the moment" in refusal for refusal in found.refusals)


@pytest.mark.parametrize(
    "values",
    [
        {"point_in_time_days": 0},
        {"tiers": ()},
        {"tiers": (Tier("daily", "day", 0, (1,)),)},
        {"tiers": (Tier("daily", "day", 7, ()),)},
        {"tiers": (Tier("daily", "day", 7, (1,)), Tier("daily", "week", 4, (1,)))},
    ],
)
def test_a_policy_that_promises_nothing_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"keeps at least one|at least one tier"):
        Policy(**values)  # type: ignore[arg-type]


# For any set of backups


@settings(max_examples=60, deadline=None)
@given(histories())
def test_every_backup_is_decided_on_and_no_kept_one_loses_what_it_needs(
    history: tuple[list[Held], datetime],
) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    backups = index(tuple(h.backup for h in held))
    kept = {d.backup.key for d in found.decisions if d.keep}
    gone = {backup.key for backup in found.expire}
    assert kept | gone == set(backups) and not kept & gone
    for key in kept:
        assert all(parent.key in kept for parent in ancestors(backups[key], backups))
    seen: set[tuple[int, str]] = set()
    for backup in found.expire:
        # Nothing that is still there depends on it.
        assert all(
            b.prior != backup.label or b.key in seen for b in backups.values() if b.repo == backup.repo
        )
        seen.add(backup.key)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_r5_each_tier_keeps_what_stands_for_each_of_its_periods_until_the_day(
    history: tuple[list[Held], datetime],
) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    sound = soundness(held)
    for tier in POLICY.tiers:
        mine = [h.backup for h in held if h.backup.repo in tier.repos and sound[h.backup.key]]
        for period in {periods.first_day(b.started.date(), tier.unit) for b in mine}:
            of = [b for b in mine if periods.first_day(b.started.date(), tier.unit) == period]
            best = min(of, key=lambda b: (tier.repos.index(b.repo), RANK[b.type], b.started))
            due = periods.later(best.started.date(), tier.unit, tier.count)
            for backup in of:
                stands = tier.name in kinds(found, backup)
                assert stands == (backup == best and now.date() < due)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_without_a_refusal_a_proven_backup_is_left_and_the_promised_window(
    history: tuple[list[Held], datetime],
) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    if found.refusals:
        return
    sound = soundness(held)
    for repo in {backup.repo for backup in found.expire}:
        assert any(
            d.keep and d.held.proven and sound[d.backup.key] and d.backup.repo == repo
            for d in found.decisions
        )
    begin = now - timedelta(days=7)
    carried = {floor.repo: floor.label for floor in found.floors}
    for hours in range(0, 7 * 24, 5):
        moment = begin + timedelta(hours=hours, minutes=7)

        def restorable(each: Held, moment: datetime = moment) -> bool:
            return sound[each.backup.key] and each.backup.stopped <= moment <= (
                each.reach or each.backup.stopped
            )

        after = [
            d.held if d.backup.label >= carried.get(d.backup.repo, "") else replace(d.held, reach=None)
            for d in found.decisions
            if d.keep
        ]
        assert any(map(restorable, held)) == any(map(restorable, after))


@settings(max_examples=60, deadline=None)
@given(histories())
def test_what_is_left_is_stable(history: tuple[list[Held], datetime]) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    if found.refusals:
        return
    again = plan([d.held for d in found.decisions if d.keep], POLICY, now)
    assert again.expire == () and again.refusals == ()


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(0, 20))
def test_a_run_that_died_goes_on_with_the_rest_and_with_nothing_else(
    history: tuple[list[Held], datetime], done: int
) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    if found.refusals:
        return
    gone = {backup.key for backup in found.expire[:done]}
    rest = {backup.key for backup in found.expire[done:]}
    again = plan([h for h in held if h.backup.key not in gone], POLICY, now)
    assert {backup.key for backup in again.expire} <= rest
    assert again.refusals == ()


@settings(max_examples=60, deadline=None)
@given(histories())
def test_no_plan_depends_on_the_order_of_the_catalogue(history: tuple[list[Held], datetime]) -> None:
    held, now = history
    found = plan(held, POLICY, now)
    assert plan(list(reversed(held)), POLICY, now).expire == found.expire
