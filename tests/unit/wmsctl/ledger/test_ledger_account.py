"""The ledger's arithmetic: what counts as lost, the write gap, the recovery from a fault, and its file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from wmsctl.errors import Failed, Usage
from wmsctl.ledger import account as a
from wmsctl.ledger.account import Kind, Outcome
from wmsctl.ledger.record import Header, Recorder, read
from wmsctl.ledger.worker import classify
from wmsctl.ledger.writer import Options

WALL = 1_700_000_000.0


def outcome(seq: int, done: float, kind: Kind = Kind.acknowledged, **changes: Any) -> Outcome:
    """A write of writer 0 that took 10 ms."""
    values = {"writer": 0, "timeline": 1, "error": "" if kind is Kind.acknowledged else "lost", **changes}
    return Outcome(
        seq=seq, scheduled=done - 0.01, sent=done - 0.009, done=done, wall=WALL + done, kind=kind, **values
    )


class TestReconcile:
    def test_only_acknowledged_rows_can_be_lost(self) -> None:
        outcomes = [outcome(i, i, kind) for i, kind in enumerate(Kind)]
        found = a.reconcile(outcomes, set())
        assert found.lost == ((0, int(Kind.acknowledged)),)
        assert (found.unknown_present, found.unknown_absent) == (0, 1)

    def test_every_kind_against_every_presence(self) -> None:
        """A random history against the definitions, many times."""
        source = random.Random(7)
        for _ in range(200):
            outcomes = [
                outcome(i, i, source.choice(list(Kind)), writer=source.randrange(3)) for i in range(30)
            ]
            present = {o.key for o in outcomes if source.random() < 0.5} | {(9, 9)}
            found = a.reconcile(outcomes, present)
            by = {kind: {o.key for o in outcomes if o.kind is kind} for kind in Kind}
            assert set(found.lost) == by[Kind.acknowledged] - present
            assert found.unknown_present == len(by[Kind.unknown] & present)
            assert found.unknown_absent == len(by[Kind.unknown] - present)
            assert set(found.contradicted) == (by[Kind.failed] | by[Kind.skipped]) & present
            assert found.unaccounted == 1

    def test_an_unknown_outcome_is_never_a_success(self) -> None:
        outcomes = [outcome(1, 1.0), outcome(2, 2.0, Kind.unknown)]
        account = a.account("r", outcomes, 0.0, 3.0, present={(0, 1), (0, 2)})
        assert (account.acknowledged, account.unknown, account.unknown_present, account.lost) == (1, 1, 1, 0)

    def test_without_a_look_nothing_is_said_about_loss(self) -> None:
        account = a.account("r", [outcome(1, 1.0)], 0.0, 2.0, trouble="nobody answers")
        assert account.lost is None and not account.sound

    def test_loss_is_not_sound(self) -> None:
        account = a.account("r", [outcome(1, 1.0), outcome(2, 2.0)], 0.0, 3.0, present={(0, 1)})
        assert account.lost == 1 and account.lost_keys == ((0, 2),) and not account.sound


class TestGap:
    def test_between_commits_of_all_writers(self) -> None:
        outcomes = [outcome(1, 1.0), outcome(1, 1.5, writer=1), outcome(2, 4.0), outcome(2, 4.1, writer=1)]
        gap = a.longest_gap(outcomes, 0.9, 4.2)
        assert gap is not None
        assert (gap.start, gap.end, gap.seconds, gap.open) == (1.5, 4.0, 2.5, False)
        assert gap.start_wall == WALL + 1.5

    def test_only_acknowledged_writes_end_a_gap(self) -> None:
        outcomes = [
            outcome(1, 1.0),
            outcome(2, 2.0, Kind.unknown),
            outcome(3, 3.0, Kind.failed),
            outcome(4, 4.0),
        ]
        gap = a.longest_gap(outcomes, 1.0, 4.0)
        assert gap is not None and gap.seconds == 3.0

    def test_an_outage_at_either_edge_counts(self) -> None:
        late = a.longest_gap([outcome(1, 5.0), outcome(2, 5.1)], 0.0, 5.2)
        assert late is not None and (late.seconds, late.open) == (5.0, False)
        unended = a.longest_gap([outcome(1, 0.1)], 0.0, 9.0)
        assert unended is not None and (round(unended.seconds, 6), unended.open) == (8.9, True)

    def test_nothing_acknowledged_is_one_open_gap(self) -> None:
        gap = a.longest_gap([outcome(1, 1.0, Kind.failed)], 0.0, 3.0)
        assert gap is not None and (gap.seconds, gap.open) == (3.0, True)

    def test_gaps_add_up_to_the_whole_run(self) -> None:
        source = random.Random(3)
        for _ in range(100):
            times = [source.uniform(0, 10) for _ in range(source.randrange(1, 40))]
            gaps = a._gaps([outcome(i, t) for i, t in enumerate(times)], 0.0, 10.0)
            assert abs(sum(g.seconds for g in gaps) - 10.0) < 1e-9
            assert all(g.seconds >= 0 for g in gaps)


class TestRecovery:
    outcomes = (
        outcome(1, 1.0),
        outcome(2, 2.05),  # the fault at 2.0 needs a moment to bite
        outcome(3, 3.0, Kind.unknown),
        outcome(4, 4.5, timeline=2),
        outcome(5, 4.6, timeline=2),
    )

    def test_runs_from_the_injection(self) -> None:
        found = a.recovery(self.outcomes, 2.0, 5.0)
        assert found.gap_s is not None and round(found.gap_s, 3) == 2.45
        assert found.first_ack_s == 2.5 and found.new_timeline_s == 2.5
        assert (found.timeline_before, found.timeline_after) == (1, 2)

    def test_a_run_that_never_recovered(self) -> None:
        found = a.recovery(self.outcomes[:3], 2.0, 30.0)
        assert found.first_ack_s is None and found.new_timeline_s is None
        assert found.gap_s is not None and round(found.gap_s, 2) == 27.95

    def test_a_gap_before_the_fault_is_not_its_work(self) -> None:
        outcomes = [outcome(1, 1.0), outcome(2, 9.0), outcome(3, 10.2), outcome(4, 10.3)]
        found = a.recovery(outcomes, 10.0, 10.4)
        assert found.gap_s is not None and round(found.gap_s, 3) == 1.2

    def test_a_restart_in_place_has_no_new_timeline(self) -> None:
        assert a.recovery([outcome(1, 1.0), outcome(2, 4.0)], 2.0, 5.0).new_timeline_s is None


class TestPercentiles:
    @pytest.mark.parametrize(
        ("q", "value"), [(50, 5), (90, 9), (95, 10), (99, 10), (100, 10), (1, 1), (0, 1)]
    )
    def test_nearest_rank(self, q: float, value: float) -> None:
        assert a.percentile(list(range(1, 11)), q) == value

    def test_from_the_scheduled_start(self) -> None:
        late = Outcome(0, 1, scheduled=1.0, sent=2.9, done=3.0, wall=WALL, kind=Kind.acknowledged)
        found = a.latency([late])
        assert found is not None and found.p50 == 2000.0

    def test_none_without_a_commit(self) -> None:
        assert a.latency([outcome(1, 1.0, Kind.failed)]) is None


class TestRecord:
    header = Header("run-1", 500.0, 30.0, 8, "pooler", 100.0, WALL + 100)
    outcomes = (
        outcome(1, 101.0),
        outcome(2, 102.0, Kind.unknown, error="lost"),
        outcome(3, 103.0, Kind.skipped),
    )

    def write(self, path: Path, *, end: bool = True) -> None:
        recorder = Recorder(path, self.header)
        recorder.append(self.outcomes)
        if end:
            recorder.finish(104.0)

    def test_is_read_as_written(self, tmp_path: Path) -> None:
        self.write(tmp_path / "l.jsonl")
        found = read(tmp_path / "l.jsonl")
        assert (found.header, found.outcomes, found.end, found.complete) == (
            self.header,
            self.outcomes,
            104.0,
            True,
        )

    def test_a_dead_recorder_leaves_what_was_on_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "l.jsonl"
        self.write(path, end=False)
        with path.open("a") as file:
            file.write("[0,4,104.0,10")
        found = read(path)
        assert found.outcomes == self.outcomes and not found.complete and found.end == 103.0

    def test_a_damaged_line_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "l.jsonl"
        self.write(path)
        path.write_text(path.read_text().replace("[0,1,", "[0,?,", 1))
        with pytest.raises(Failed, match="line 2"):
            read(path)

    def test_another_file_is_no_ledger(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        path.write_text('{"version": "other"}\n')
        with pytest.raises(Usage, match="no ledger"):
            read(path)

    def test_never_overwrites(self, tmp_path: Path) -> None:
        self.write(tmp_path / "l.jsonl")
        with pytest.raises(Failed, match="File exists"):
            Recorder(tmp_path / "l.jsonl", self.header)

    def test_wall_times_follow_the_nearest_outcome(self, tmp_path: Path) -> None:
        self.write(tmp_path / "l.jsonl")
        assert read(tmp_path / "l.jsonl").monotonic(WALL + 102.25) == 102.25


@pytest.mark.parametrize(
    ("error", "severed", "kind", "name"),
    [
        (psycopg.OperationalError("server closed the connection"), False, Kind.unknown, "lost"),
        (psycopg.OperationalError("server closed the connection"), True, Kind.unknown, "timeout"),
        (psycopg.errors.ReadOnlySqlTransaction("read only"), False, Kind.failed, "25006"),
        (psycopg.errors.LockNotAvailable("lock"), False, Kind.failed, "55P03"),
        (psycopg.errors.AdminShutdown("terminating"), False, Kind.unknown, "57P01"),
        (psycopg.errors.CrashShutdown("crash"), False, Kind.unknown, "57P02"),
        (psycopg.errors.ProtocolViolation("query_wait_timeout"), False, Kind.unknown, "08P01"),
    ],
)
def test_an_error_is_definite_only_by_the_servers_word(
    error: psycopg.Error, severed: bool, kind: Kind, name: str
) -> None:
    assert classify(error, severed=severed) == (kind, name)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"seconds": -1}, {"writers": 0}, {"rate": 1e6, "seconds": 1e6}]
)
def test_a_run_is_bounded(wrong: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        Options(**wrong)
