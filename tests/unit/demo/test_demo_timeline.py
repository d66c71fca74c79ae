"""The demonstration's second-by-second picture, and the words of its verdict."""

from __future__ import annotations

from typing import Any

import pytest

from demo.report import BAR, Event, Objectives, timeline, verdict
from demo.shop import Answer, Stock, receipt
from wmsctl.ledger.account import Account, Kind, Outcome, account

R2 = Objectives(rto_s=900, rpo_s=60)
FAULT = 1_767_350_000.25


def write(at: float, kind: Kind = Kind.acknowledged, seq: int = 0, timeline: int = 1) -> Outcome:
    """A write of writer 0 whose outcome was known `at` seconds after the fault."""
    return Outcome(0, seq, at - 0.01, at - 0.01, at, FAULT + at, kind, timeline)


def answer(at: float, status: int = 200, seconds: float = 0.01) -> Answer:
    return Answer(FAULT + at, "read", status, seconds)


def lines(
    outcomes: list[Outcome], answers: list[Answer] | None = None, events: list[Event] | None = None
) -> list[str]:
    return timeline(outcomes, answers or [], events or [], FAULT, (-2, 3))[1:]


def numbers(line: str) -> tuple[str, int, int, int, int]:
    """(second, commits, not, API ok, API other) of a line, without bar and notes."""
    second, commits, *rest = line.replace("█", " ").split()
    return second, int(commits), int(rest[0]), int(rest[1]), int(rest[2])


def test_a_second_is_counted_from_the_fault_on() -> None:
    found = lines([write(at) for at in (-0.001, -1.0, -1.001, 0.0, 0.999, 1.0)])
    assert [numbers(line)[:2] for line in found] == [
        ("-2s", 1),
        ("-1s", 2),
        ("+0s", 2),
        ("+1s", 1),
        ("+2s", 0),
        ("+3s", 0),
    ]


def test_only_an_acknowledged_write_is_a_commit() -> None:
    found = lines([write(0.5, kind) for kind in Kind])
    assert numbers(found[2]) == ("+0s", 1, len(Kind) - 1, 0, 0)


@pytest.mark.parametrize(("status", "good"), [(200, 1), (201, 1), (0, 0), (409, 0), (500, 0), (503, 0)])
def test_an_answer_is_good_or_not(status: int, good: int) -> None:
    assert numbers(lines([], [answer(1.5, status)])[3]) == ("+1s", 0, 0, good, 1 - good)


def test_the_best_second_has_the_longest_bar_and_an_empty_one_none() -> None:
    found = lines([write(0.1 + n / 1000) for n in range(40)] + [write(1.1 + n / 1000) for n in range(20)])
    assert [line.count("█") for line in found] == [0, 0, BAR, BAR // 2, 0, 0]


def test_columns_stand_below_each_other() -> None:
    text = timeline([write(0.1), write(1.1, Kind.failed)], [answer(1.2, 503)], [], FAULT, (-2, 3))
    starts = {len(line.rstrip()) for line in text[1:]}
    assert len(starts) == 1
    assert text[0].index("not") + len("not") == text[0].index("   API ok")


def test_what_happened_stands_at_its_second_in_order() -> None:
    events = [Event(FAULT, "killed"), Event(FAULT + 2.9, "promoted"), Event(FAULT + 2.95, "told")]
    found = lines([write(0.5)], events=events)
    assert found[2].endswith("  killed")
    assert found[4].endswith("  promoted; told")
    assert found[3].rstrip().endswith("0")


def test_what_lies_outside_of_the_span_is_left_out() -> None:
    found = lines([write(-10.0), write(100.0)], [answer(100.0)], [Event(FAULT + 100, "late")])
    assert len(found) == 6
    assert all(numbers(line)[1:] == (0, 0, 0, 0) for line in found)
    assert not any("late" in line for line in found)


def test_nothing_at_all_is_a_picture_too() -> None:
    assert len(lines([])) == 6


# -- the verdict, on accounts made by the ledger's own arithmetic --


def run(gap_s: float, *, lose: int = 0, looked: bool = True, back: bool = True) -> Account:
    """A run of ten seconds at 10 writes/s with an outage of `gap_s` from second 5 on."""
    outcomes = []
    for seq in range(100):
        at = seq / 10
        down = at > 5 and (at < 5 + gap_s or not back)
        outcomes.append(
            write(at, Kind.failed if down else Kind.acknowledged, seq, timeline=2 if at > 5 else 1)
        )
    keys = [o.key for o in outcomes if o.kind is Kind.acknowledged]
    return account(
        "r", outcomes, 0.0, 10.0, present=set(keys[: len(keys) - lose]) if looked else None, fault_at=5.0
    )


def told(
    found: Account, objectives: Objectives = R2, answers: list[Answer] | None = None
) -> tuple[str, bool]:
    text, met = verdict(found, answers or [], objectives)
    return "\n".join(text), met


def test_a_recovery_within_both_objectives_is_met() -> None:
    text, met = told(run(2.0))
    assert met
    assert "RTO" in text and "2.00 s" in text and "objective 900 s (R2)" in text
    assert "RPO" in text and "0 s" in text and "objective 60 s (R2)" in text
    assert "MISSED" not in text


def test_a_recovery_above_its_target_is_missed_though_nothing_is_lost() -> None:
    text, met = told(run(2.0), Objectives(rto_s=1.9, rpo_s=60))
    assert not met
    assert [("MISSED" in line) for line in text.splitlines()[:2]] == [True, False]


def test_one_lost_write_misses_the_rpo_however_fast_it_was() -> None:
    text, met = told(run(2.0, lose=1))
    assert not met
    rto, rpo = text.splitlines()[:2]
    assert rto.endswith("met")
    assert "1 lost" in rpo and rpo.endswith("MISSED")
    assert "1 of them lost" in text


def test_what_nobody_could_look_up_is_not_called_zero() -> None:
    text, met = told(run(2.0, looked=False))
    assert not met
    assert "unknown" in text.splitlines()[1]
    assert "unknown of them lost" in text


def test_writes_that_never_came_back_miss_the_rto() -> None:
    text, met = told(run(2.0, back=False))
    assert not met
    assert "unknown" in text.splitlines()[0] and text.splitlines()[0].endswith("MISSED")


def test_both_missed_are_both_told() -> None:
    text, met = told(run(3.0, lose=2), Objectives(rto_s=1, rpo_s=1))
    assert not met
    assert text.count("MISSED") == 2


def test_the_gap_is_that_of_the_writers() -> None:
    assert "write gap 2.00 s" in told(run(2.0))[0]


def test_trouble_of_the_ledger_is_the_last_word() -> None:
    found = account("r", [write(0.0)], 0.0, 1.0, fault_at=0.5, trouble="the rows could not be read")
    assert told(found)[0].splitlines()[-1] == "the rows could not be read"


def test_the_slowest_answer_is_told_and_no_answer_at_all_is_no_error() -> None:
    assert "slowest answer 2.50 s" in told(run(2.0), answers=[answer(0, 200, 2.5), answer(0, 503, 0.1)])[0]
    assert "slowest answer 0.00 s" in told(run(2.0))[0]


def test_a_movement_of_the_shop_is_a_receipt_of_one_piece() -> None:
    body: dict[str, Any] = receipt(Stock(7, "SKU-1", "A-01"))
    assert body == {
        "type": "receipt",
        "warehouse_id": 7,
        "sku": "SKU-1",
        "to_location": "A-01",
        "quantity": 1,
    }
