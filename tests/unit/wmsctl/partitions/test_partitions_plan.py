"""What is planned for partitions: nothing overlaps, nothing is lost, and a second run finds nothing left to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import partitions as p
from wmsctl.partitions import plan
from wmsctl.partitions.periods import Interval, Period, midnight, period_of
from wmsctl.partitions.plan import Archiving, Refusal, Restoring
from wmsctl.partitions.snapshot import Archive, IndexGap, Partition, Table

INTERVALS: tuple[Interval, ...] = ("month", "week", "day")


def actions(table: Table, now: datetime = p.NOON) -> list[tuple[str, str]]:
    return [(s.action, s.partition) for s in plan.maintenance(p.snapshot(table, now=now)).steps]


# maintain


def test_d4_a_table_in_order_needs_nothing() -> None:
    assert plan.maintenance(p.snapshot(p.table())) == plan.Maintenance()


def test_d4_the_present_period_is_made_before_all_others() -> None:
    made = actions(p.table(partitions=()))
    assert made == [("create", f"moves_2026_0{month}") for month in (3, 2, 4, 5)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, datetime]:
    """A table with holes, odd bounds, interrupted detaches, archives, and rows in a default partition."""
    interval = draw(st.sampled_from(INTERVALS))
    day = draw(st.dates(date(2019, 12, 20), date(2029, 1, 10)))
    now = datetime(day.year, day.month, day.day, draw(st.integers(0, 23)), tzinfo=UTC)
    spec = p.declared(interval, premake=draw(st.integers(1, 5)))
    period, partitions, archives = period_of(now, interval), [], []
    for _ in range(draw(st.integers(0, 3))):
        period = period.previous()
    for _ in range(draw(st.integers(0, 7))):
        kind = draw(st.sampled_from(["attached", "missing", "pending", "odd", "archived"]))
        if kind == "odd" and interval != "day":
            cut = period.lower + timedelta(days=draw(st.integers(1, 5)))
            partitions.append(Partition(f"odd_{period.suffix}", period.lower, cut))
        elif kind == "archived":
            archives.append(p.archive(period, "dropped"))
        elif kind != "missing":
            partitions.append(p.part(period, pending=kind == "pending"))
        period = period.next()
    taken = [(each.lower, each.upper) for each in partitions]
    strays = tuple(
        (stray.start, count)
        for offset, count in draw(
            st.dictionaries(st.integers(-8, 8), st.integers(1, 8_000), max_size=3)
        ).items()
        for stray in [period_of((now + timedelta(days=offset * 20)).date(), interval)]
        if not any(lower < stray.upper and stray.lower < upper for lower, upper in taken if lower and upper)
    )
    unique = tuple({day: (day, count) for day, count in strays}.values())
    return (
        p.table(
            spec,
            now,
            partitions=tuple(partitions),
            archives=tuple(archives),
            default="moves_default",
            strays=unique,
        ),
        now,
    )


@given(tables())
def test_d4_whatever_is_there_nothing_overlaps_and_a_second_run_has_nothing_to_do(
    found: tuple[Table, datetime],
) -> None:
    model = p.Model(*found)
    first = model.maintain()
    spans = [(each.lower, each.upper) for each in model.table.partitions]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))  # type: ignore[operator]
    assert plan.maintenance(model.snapshot()).steps == ()
    here = period_of(model.now, model.table.spec.interval)
    too_many = {day for day, count in model.table.strays if count > plan.MOVABLE}
    for period in (here, here.next()):
        in_the_way = (
            model.table.overlapping(period)
            or model.table.archive_of(period)
            or period.start in too_many
            or period.name("moves") in model.table.detached
        )
        assert model.table.holding(period) or in_the_way, (period, first)
    # Rows that are left in the default partition are said.
    for day, _ in model.table.strays:
        assert any(period_of(day, model.table.spec.interval).suffix in note for note in first.notes)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("start", [date(2023, 12, 31), date(2024, 2, 28), date(2026, 6, 15)])
def test_d4_the_forecast_is_what_daily_runs_then_do(interval: Interval, start: date) -> None:
    now = midnight(start)
    spec = p.declared(interval, premake=3, online_months=1, archive_months=3, keep_days=5)
    model = p.Model(p.table(spec, now, past=0, partitions=()), now)
    said = [(event.at, event.action, event.partition) for event in plan.forecast(model.snapshot(), 8)]
    while model.now <= midnight(start) + timedelta(days=235):
        model.maintain()
        model.archive()
        model.day()
    # The forecast's last days see more than the runs did.
    assert sorted(model.done) == sorted(each for each in said if each[0] < model.now)
    assert {action for _, action, _ in model.done} == {"create", "archive", "drop", "expire"}


def test_d4_a_clock_that_jumps_half_a_year_ahead_finds_its_partition_with_premake_six() -> None:
    spec = p.declared(premake=6)
    table = p.table(spec)
    assert not plan.missing_next(table, p.NOON)
    assert plan.missing_next(table, p.NOON + timedelta(days=180)) == (p.month("2026-10"),)


def test_d4_the_next_period_is_missing_when_only_a_part_of_it_has_a_partition() -> None:
    half = Partition("half", p.month("2026-04").lower, midnight(date(2026, 4, 10)))
    table = p.table(partitions=(p.part(p.month("2026-03")), half))
    assert plan.missing_next(table, p.NOON) == (p.month("2026-04"),)
    said = plan.maintenance(p.snapshot(table))
    assert "moves_2026_04 is not made: half takes a part of its rows" in said.notes


def test_d4_a_table_that_is_not_as_declared_keeps_no_other_from_being_maintained() -> None:
    broken = Table(p.declared(table="orders"), trouble="orders is not partitioned")
    found = plan.maintenance(p.snapshot(broken, p.table(partitions=())))
    assert found.troubles == ("orders is not partitioned",)
    assert {step.table for step in found.steps} == {"moves"} and len(found.steps) == 4


def test_d4_indexes_are_mended_and_a_unique_one_is_left_to_people() -> None:
    def gap(unique: bool) -> IndexGap:
        return IndexGap(
            "moves_2026_01", "moves_sku", "moves_2026_01_sku", "missing", unique, "USING btree (sku)"
        )

    found = plan.maintenance(p.snapshot(p.table(gaps=(gap(False), gap(True)))))
    assert [(s.action, s.gap) for s in found.steps] == [("index", gap(False))]
    assert any("by hand" in note for note in found.notes)


def test_d4_old_statistics_are_gathered_again() -> None:
    fresh = p.table(analyzed_at=p.NOON - plan.STATISTICS)
    assert actions(fresh) == []
    assert actions(replace(fresh, analyzed_at=p.NOON - plan.STATISTICS - timedelta(seconds=1))) == [
        ("analyze", "")
    ]
    assert actions(replace(fresh, analyzed_at=None)) == [("analyze", "")]


def test_d4_what_was_archived_is_not_made_anew() -> None:
    previous = p.month("2026-02")
    table = p.table(archives=(p.archive(previous, "dropped"),))
    table = replace(table, partitions=tuple(each for each in table.partitions if each.period != previous))
    assert actions(table) == []


# retention


def test_d4_a_proven_partition_is_dropped_after_its_days_and_not_before() -> None:
    old = p.archive(p.month("2025-01"), "proven")
    table = p.table(archives=(old,))
    assert actions(table, p.NOON + timedelta(days=7, seconds=-1)) == []
    assert actions(table, p.NOON + timedelta(days=7)) == [("drop", "moves_2025_01")]
    assert actions(p.table(archives=(replace(old, state="open"),)), p.NOON + timedelta(days=99))[:1] != [
        ("drop", "moves_2025_01")
    ]


def test_d4_a_partition_that_is_attached_is_never_dropped_whatever_the_record_says() -> None:
    january = p.month("2026-01")
    found = plan.maintenance(
        p.snapshot(p.table(archives=(p.archive(january, "proven"),)), now=p.NOON + timedelta(days=8))
    )
    assert "drop" not in {step.action for step in found.steps}
    assert any("moves_2026_01 is attached although" in note for note in found.notes)


def test_d4_an_archive_is_deleted_when_its_months_are_over() -> None:
    old = p.archive(p.month("2025-02"), "dropped")
    assert actions(p.table(archives=(old,)), midnight(date(2026, 2, 28)))[-1:] != [
        ("expire", "moves_2025_02")
    ]
    assert ("expire", "moves_2025_02") in actions(p.table(archives=(old,)), midnight(date(2026, 3, 1)))
    kept = p.table(archives=(replace(old, state="proven"),))
    assert ("expire", "moves_2025_02") not in actions(kept, midnight(date(2027, 3, 1)))


def test_d4_an_archive_that_a_newer_one_replaces_is_deleted_and_no_other() -> None:
    old = p.archive(p.month("2025-11"), "restored", id="old")
    table = p.table(archives=(old,))
    assert actions(table) == []
    for state in ("proven", "dropped"):
        newer = p.archive(p.month("2025-11"), state, id="new")
        assert actions(replace(table, archives=(newer, old))) == [("expire", "moves_2025_11")]
    assert actions(replace(table, archives=(p.archive(p.month("2025-11"), "open", id="new"), old))) == []
    nothing = replace(old, manifest="")
    assert actions(replace(table, archives=(p.archive(p.month("2025-11"), id="new"), nothing))) == []


# archive


def archiving(table: Table, name: str, *, early: bool = False) -> Archiving | Refusal | Archive:
    return plan.archiving(p.snapshot(table), "moves", name, early=early)


def test_d4_the_oldest_months_beyond_those_online_are_due() -> None:
    table = p.table(past=5)
    assert plan.archivable(table, p.NOON) == ("moves_2025_10", "moves_2025_11")
    assert plan.archivable(p.table(p.declared(archive=False), past=5), p.NOON) == ()
    begun = p.archive(p.month("2025-09"), "open", manifest="")
    assert plan.archivable(replace(table, archives=(begun,)), p.NOON)[0] == "moves_2025_09"
    back = p.archive(p.month("2025-10"), "restored")
    assert plan.archivable(replace(table, archives=(back,)), p.NOON) == ("moves_2025_11",)


def test_d4_an_archive_goes_through_all_its_steps_and_goes_on_where_it_stopped() -> None:
    table = p.table(past=5)
    found = archiving(table, "moves_2025_10")
    assert isinstance(found, Archiving)
    assert found.steps == ("freeze", "carry", "detach", "export", "prove")
    assert len(found.words) == 5
    detached = replace(table, partitions=table.partitions[1:])
    begun = p.archive(p.month("2025-10"), "open", manifest="")
    found = archiving(replace(detached, archives=(begun,)), "moves_2025_10")
    assert isinstance(found, Archiving) and found.steps == ("export", "prove")
    begun = replace(begun, manifest="partitions/manifest.json")
    found = archiving(replace(detached, archives=(begun,)), "moves_2025_10")
    assert isinstance(found, Archiving) and found.steps == ("prove",)
    pending = (p.part(p.month("2025-10"), pending=True), *table.partitions[1:])
    found = archiving(replace(table, partitions=pending, archives=(begun,)), "moves_2025_10")
    assert isinstance(found, Archiving) and found.steps[:2] == ("freeze", "detach")


@pytest.mark.parametrize("state", ["proven", "dropped", "expired"])
def test_d4_what_is_archived_is_not_archived_again(state: str) -> None:
    done = p.archive(p.month("2025-09"), state)
    assert archiving(p.table(past=5, archives=(done,)), "moves_2025_09") == done


@pytest.mark.parametrize(
    "states", [["restored"], ["expired"], ["restored", "expired"], ["expired", "restored"]]
)
def test_d4_what_was_brought_back_can_be_archived_again(states: list[str]) -> None:
    back = tuple(p.archive(p.month("2025-10"), state, id=state) for state in states)
    found = archiving(p.table(past=5, archives=back), "moves_2025_10")
    assert isinstance(found, Archiving) and found.archive is None


@pytest.mark.parametrize("state", ["proven", "dropped"])
def test_d4_what_somebody_attached_by_hand_is_set_right_first(state: str) -> None:
    found = archiving(p.table(past=5, archives=(p.archive(p.month("2025-10"), state),)), "moves_2025_10")
    assert isinstance(found, Refusal) and "attached although" in found.reason


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"foreign_keys": ("shipments.moves_fk",)}, "moves_2025_10", "shipments.moves_fk"),
        ({"default": "moves_default"}, "moves_2025_10", "default partition moves_default"),
        ({}, "moves_2026_01", "3 months that stay online"),
        ({}, "moves_2026_03", "not over"),
        ({}, "moves_2026_04", "not over"),
        ({}, "moves_1999_01", "has no partition"),
        ({"trouble": "moves is not partitioned"}, "moves_2025_10", "not partitioned"),
        ({"partitions": (Partition("odd", None, midnight(date(2025, 1, 1))),)}, "odd", "exactly one month"),
    ],
)
def test_d4_what_is_not_safe_to_archive_is_refused(
    changes: dict[str, object], name: str, reason: str
) -> None:
    found = archiving(replace(p.table(past=5), **changes), name)  # type: ignore[arg-type]
    assert isinstance(found, Refusal) and reason in found.reason


def test_d4_early_takes_a_month_that_is_online_and_never_one_that_is_not_over() -> None:
    assert isinstance(archiving(p.table(), "moves_2026_01", early=True), Archiving)
    assert isinstance(archiving(p.table(), "moves_2026_03", early=True), Refusal)


# unarchive


def restoring(table: Table, name: str) -> Restoring | Refusal | Partition:
    return plan.restoring(p.snapshot(table), "moves", name)


def test_d4_a_month_comes_back_from_the_store_or_from_its_table_while_that_is_there() -> None:
    old = p.month("2025-09")
    found = restoring(p.table(archives=(p.archive(old, "dropped"),)), "moves_2025_09")
    assert isinstance(found, Restoring) and found.source == "store" and len(found.words) == 4
    found = restoring(p.table(archives=(p.archive(old, "proven"),)), "moves_2025_09")
    assert isinstance(found, Restoring) and found.source == "table" and len(found.words) == 2
    found = restoring(p.table(archives=(p.archive(old, "open", manifest=""),)), "moves_2025_09")
    assert isinstance(found, Restoring) and found.source == "table"


def test_d4_a_month_that_is_there_is_not_brought_back() -> None:
    found = restoring(p.table(archives=(p.archive(p.month("2026-01"), "restored"),)), "moves_2026_01")
    assert isinstance(found, Partition)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no archive of moves_2025_09"),
        ({"archives": (p.archive(p.month("2025-09"), "expired"),)}, "is expired"),
        (
            {
                "archives": (p.archive(p.month("2025-09"), "dropped"),),
                "partitions": (Partition("odd", None, midnight(date(2025, 12, 1))),),
            },
            "odd takes the rows",
        ),
        (
            {
                "archives": (p.archive(p.month("2025-09"), "open"),),
                "partitions": (p.part(p.month("2025-09"), pending=True),),
            },
            "interrupted",
        ),
        (
            {
                "archives": (p.archive(p.month("2025-09"), "open"),),
                "partitions": (p.part(p.month("2025-09")),),
            },
            "not finished",
        ),
    ],
)
def test_d4_what_cannot_come_back_is_refused(changes: dict[str, object], reason: str) -> None:
    found = restoring(replace(p.table(), **changes), "moves_2025_09")  # type: ignore[arg-type]
    assert isinstance(found, Refusal) and reason in found.reason


def test_the_table_of_a_partition_is_found_by_its_name() -> None:
    found = p.snapshot(p.table(archives=(p.archive(p.month("2025-09"), "dropped"),)))
    assert plan.table_of(found, "moves_2025_09") == plan.table_of(found, "moves_2026_03") == "moves"
    assert plan.table_of(found, "orders_2026_03") == ""


def test_every_step_says_what_it_does() -> None:
    gap = IndexGap("moves_2026_01", "moves_sku", "moves_2026_01_sku", "invalid", False, "USING btree (sku)")
    period, old = Period(date(2026, 4, 1), "month"), p.archive(p.month("2025-02"))
    steps = [
        plan.Step("finalize", "moves", "moves_2026_01"),
        plan.Step("create", "moves", "moves_2026_04", period=period, rows=3),
        plan.Step("index", "moves", "moves_2026_01", gap=gap),
        plan.Step("analyze", "moves"),
        plan.Step("drop", "moves", "moves_2025_02", archive=old),
        plan.Step("expire", "moves", "moves_2025_02", archive=old),
    ]
    said = [step.words for step in steps]
    assert len(set(said)) == 6 and "3 rows" in said[1] and "build again" in said[2]
