"""What the demonstration says of what it measured."""

from __future__ import annotations

import re
from typing import Any

import pytest

from demo.report import Event, Objectives, timeline, verdict
from demo.shop import Answer
from wmsctl.ledger.account import Account, Kind, Outcome, Recovery

R2 = Objectives(rto_s=900, rpo_s=60)


def account(**given: Any) -> Account:
    counts = {"scheduled": 100, "acknowledged": 97, "failed": 1, "unknown": 2, "skipped": 0}
    return Account(run="r", seconds=10, **{**counts, "lost": 0, "unknown_present": 1, **given})


def recovery(seconds: float) -> Recovery:
    return Recovery(0.0, seconds, seconds, seconds, timeline_before=1, timeline_after=2)


@pytest.mark.parametrize(
    ("seconds", "lost", "met"),
    [
        (2.0, 0, True),
        (900.0, 0, True),
        (900.1, 0, False),
        (2.0, 1, False),
        (2.0, None, False),
        (None, 0, False),
    ],
)
def test_the_objectives_are_met_only_by_what_was_measured(
    seconds: float | None, lost: int | None, met: bool
) -> None:
    found = account(lost=lost, recovery=None if seconds is None else recovery(seconds))
    lines, passed = verdict(found, [], R2)
    assert passed is met
    assert any("MISSED" in line for line in lines) is not met


def test_an_unknown_outcome_is_told_and_no_success() -> None:
    lines, _ = verdict(account(recovery=recovery(2)), [], R2)
    assert any(
        "97 commits acknowledged" in line and "2 without an answer (1 of those" in line for line in lines
    )


def test_every_answer_of_the_api_is_counted() -> None:
    answers = [Answer(1.0, "read", 200, 0.1), Answer(1.0, "write", 0, 2.5), Answer(1.0, "read", 200, 0.1)]
    (line,) = [line for line in verdict(account(), answers, R2)[0] if line.startswith("API")]
    assert "1 x no answer" in line
    assert "2 x 200" in line
    assert "2.50 s" in line


def test_each_second_has_a_line_with_what_happened_in_it() -> None:
    outcomes = [outcome(at, Kind.acknowledged) for at in (99.5, 99.6, 101.2)] + [outcome(100.3, Kind.unknown)]
    lines = timeline(outcomes, [], [Event(100.0, "pg-1 killed")], fault_at=100.0, span=(-1, 1))
    rows = [re.sub("█+", "", line).split(maxsplit=5) for line in lines[1:]]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("-1s", "2", "0"),
        ("+0s", "0", "1"),
        ("+1s", "1", "0"),
    ]
    assert "pg-1 killed" in lines[2]


def outcome(wall: float, kind: Kind) -> Outcome:
    return Outcome(writer=0, seq=0, scheduled=0.0, sent=0.0, done=0.0, wall=wall, kind=kind)
