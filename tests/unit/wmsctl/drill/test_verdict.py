"""RTO by phase, RPO from canaries, and when neither can be said (rows R1 to R4)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmsctl.drill import verdict
from wmsctl.drill.verdict import (
    OBJECTIVES,
    Canary,
    Check,
    Judgement,
    Mark,
    Objective,
    Phase,
    Recovered,
    Result,
    Verdict,
    judge,
    overall,
    phases,
    recovered,
)
from wmsctl.errors import Code

FAULT = 1_795_000_000.0
DATABASE = OBJECTIVES["database"]


def canaries(count: int, apart: float = 0.5) -> list[Canary]:
    """One every `apart` seconds, the last half of that before the fault; ids from 1."""
    return [Canary(n + 1, FAULT - apart / 2 - apart * (count - 1 - n)) for n in range(count)]


def whole(**changes: object) -> Result:
    """A drill that went well, but for the changes."""
    written = canaries(20)
    values: dict[str, object] = {
        "injected": FAULT,
        "marks": [Mark("promote", FAULT + 2.0), Mark("ready", FAULT + 3.5)],
        "ready": FAULT + 3.5,
        "until": FAULT + 30,
        "canaries": recovered(written, [c.id for c in written], FAULT),
        "checks": [Check("writes go on", True)],
    }
    return judge(DATABASE, **{**values, **changes})  # type: ignore[arg-type]


def test_the_objectives_are_the_rows() -> None:
    assert [(o.row, o.rto_s, o.rpo_s) for o in OBJECTIVES.values()] == [
        ("R1", 300, 60), ("R2", 900, 60), ("R3", 1800, 300), ("R4", 3600, 86400), ("R4", 3600, 86400),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "code"),
    [(Verdict.PASS, Code.DONE), (Verdict.FAIL, Code.OBJECTIVE_MISSED), (Verdict.INCONCLUSIVE, Code.UNKNOWN)],
)
def test_each_verdict_has_its_exit_code(found: Verdict, code: Code) -> None:
    assert found.code is code


def test_a_drill_that_met_everything_passes() -> None:
    found = whole()
    assert found.verdict is Verdict.PASS
    rto, rpo = found.judgements
    assert (rto.measured_s, rto.verdict) == (3.5, Verdict.PASS)
    assert (rpo.measured_s, rpo.verdict, rpo.reason) == (0.0, Verdict.PASS, "none of 20 canaries lost")
    assert found.phases == (Phase("promote", 0.0, 2.0), Phase("ready", 2.0, 1.5))


# RTO


@pytest.mark.parametrize(
    ("ready", "until", "aborted", "expected", "said"),
    [
        (900.0, 900.0, "", Verdict.PASS, "proof that the application works"),
        (900.5, 901.0, "", Verdict.FAIL, "proof that the application works"),
        (None, 901.0, "", Verdict.FAIL, "not ready after 901 s"),
        (None, 901.0, "Ctrl-C", Verdict.FAIL, "not ready after 901 s"),
        (None, 30.0, "", Verdict.INCONCLUSIVE, "watched for 30 s only"),
        (None, 30.0, "Ctrl-C", Verdict.INCONCLUSIVE, "aborted after 30 s: Ctrl-C"),
        (-1.0, 30.0, "", Verdict.INCONCLUSIVE, "a clock has jumped"),
    ],
)
def test_r2_the_time_to_recovery(
    ready: float | None, until: float, aborted: str, expected: Verdict, said: str
) -> None:
    at = None if ready is None else FAULT + ready
    found = verdict.rto(DATABASE, FAULT, at, FAULT + until, aborted)
    assert found.verdict is expected and said in found.reason


def test_a_phase_marked_again_ended_the_last_time() -> None:
    marks = [Mark("restore", 10.0), Mark("replay", 11.0), Mark("restore", 12.0), Mark("replay", 15.0)]
    assert phases(5.0, marks) == (Phase("restore", 0.0, 7.0), Phase("replay", 7.0, 3.0))


def test_a_clock_that_jumped_makes_the_phases_worthless_and_the_drill_inconclusive() -> None:
    with pytest.raises(ValueError, match=r"phase b ends 1\.000 s before it begins"):
        phases(5.0, [Mark("a", 7.0), Mark("b", 6.0)])
    found = whole(marks=[Mark("promote", FAULT - 1)])
    assert found.verdict is Verdict.INCONCLUSIVE and found.phases == ()
    assert found.checks[-1].name == "clock" and found.checks[-1].ok is None


# RPO


def test_what_is_lost_reaches_from_the_last_whole_moment_to_the_fault() -> None:
    written = canaries(20)
    found = recovered(written, [c.id for c in written if c.id <= 16], FAULT)
    assert found.lost == (17, 18, 19, 20)
    assert found.window_s == pytest.approx(FAULT - written[15].committed)
    assert found.resolution_s == pytest.approx(0.5)


def test_a_later_row_does_not_make_up_for_an_earlier_one() -> None:
    written = canaries(20)
    there = {c.id for c in written} - {3}
    found = recovered(written, there, FAULT)
    assert found.lost == (3,) and found.window_s == pytest.approx(FAULT - written[1].committed)


def test_rows_that_nobody_was_told_of_count_neither_way() -> None:
    written = canaries(20)
    unsure = [Canary(c.id, c.committed, acknowledged=c.id < 18) for c in written]
    found = recovered(unsure, [c.id for c in written if c.id < 18], FAULT)
    assert (found.before, found.lost, found.unknown, found.window_s) == (17, (), 3, 0.0)


def test_what_was_committed_after_the_fault_is_not_counted() -> None:
    written = [*canaries(20), Canary(99, FAULT + 1)]
    assert recovered(written, range(1, 21), FAULT).before == 20


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (None, Verdict.INCONCLUSIVE, "could not be read back"),
        (Recovered(0, (), 0, None, None), Verdict.INCONCLUSIVE, "0 canaries before the fault"),
        (Recovered(4, (), 0, 0.0, 0.5), Verdict.INCONCLUSIVE, "a judgement needs 5"),
        (Recovered(20, (), 0, 0.0, 61.0), Verdict.INCONCLUSIVE, "too coarse for 60 s"),
        (Recovered(20, (20,), 0, 60.0, 1.0), Verdict.PASS, "1 of 20 canaries lost"),
        (Recovered(20, (19, 20), 0, 60.1, 1.0), Verdict.FAIL, "2 of 20 canaries are lost"),
        (Recovered(20, tuple(range(20)), 0, None, 1.0), Verdict.FAIL, "not one of 20 canaries"),
        (Recovered(2, (1, 2), 0, None, 1.0), Verdict.FAIL, "not one of 2 canaries"),
    ],
)
def test_r2_what_may_be_lost(found: Recovered | None, expected: Verdict, said: str) -> None:
    got = verdict.rpo(DATABASE, found)
    assert got.verdict is expected and said in got.reason


def test_r4_a_day_may_be_lost_to_corruption_and_no_more() -> None:
    day = OBJECTIVES["corruption"]
    hourly = [Canary(n, FAULT - 3600.0 * (47 - n)) for n in range(48)]
    kept = recovered(hourly, range(24), FAULT)
    assert verdict.rpo(day, kept).verdict is Verdict.PASS and kept.window_s == 86_400
    assert verdict.rpo(day, recovered(hourly, range(23), FAULT)).verdict is Verdict.FAIL


# The whole


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checks": [Check("a", True), Check("b", False, "rows differ")]}, Verdict.FAIL),
        ({"checks": [Check("a", None, "not reachable")]}, Verdict.INCONCLUSIVE),
        ({"canaries": None}, Verdict.INCONCLUSIVE),
        ({"aborted": "killed", "ready": None}, Verdict.INCONCLUSIVE),
        ({"aborted": "killed"}, Verdict.INCONCLUSIVE),
        ({"ready": None, "until": FAULT + 5000, "canaries": None}, Verdict.FAIL),
    ],
)
def test_one_failure_fails_and_what_is_open_is_no_success(
    changes: dict[str, object], expected: Verdict
) -> None:
    assert whole(**changes).verdict is expected


def test_of_nothing_at_all_nothing_can_be_said() -> None:
    assert overall([]) is Verdict.INCONCLUSIVE


@settings(deadline=None)
@given(st.lists(st.sampled_from(list(Verdict))))
def test_the_worst_decides_in_any_order(found: list[Verdict]) -> None:
    assert overall(found) is overall(list(reversed(found)))
    assert (overall(found) is Verdict.PASS) == (set(found) == {Verdict.PASS})
    assert (overall(found) is Verdict.FAIL) == (Verdict.FAIL in found)


@settings(deadline=None)
@given(st.integers(0, 40), st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_no_loss_is_ever_hidden(count: int, missing: set[int], silent: set[int]) -> None:
    written = [Canary(c.id, c.committed, c.id not in silent) for c in canaries(count)]
    found = recovered(written, [c.id for c in written if c.id not in missing], FAULT)
    told = [c for c in written if c.acknowledged]
    assert set(found.lost) == {c.id for c in told} & missing
    judged: Judgement = verdict.rpo(Objective("R2", "database", 900, 5.0), found)
    lost = [c for c in told if c.id in missing]
    if lost:
        # From before the first lost one on: never less than from it on.
        at_least = FAULT - min(c.committed for c in lost)
        assert found.window_s is None or found.window_s >= at_least
        if at_least > 5.0:
            assert judged.verdict is not Verdict.PASS
    else:
        assert judged.verdict is not Verdict.FAIL
