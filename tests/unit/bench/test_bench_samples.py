"""From a ledger's account to a sample, and from its file to "writes flow again"."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from bench.failover import STALL_S, STEADY_S, Flow, sample_of, wait_flowing
from bench.report import Machine, Run, Sample, cell, circumstances, decode, encode, groups, pick, table
from wmsctl.ledger.account import Account, Kind, Outcome, account, percentile
from wmsctl.ledger.record import Header, Recorder

# -- percentiles --


@pytest.mark.parametrize("q", [1, 25, 50, 90, 95, 99, 100])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(q: int) -> None:
    chance = random.Random(q)
    for count in [*range(1, 42), 100, 199, 200, 201]:
        ordered = sorted(chance.randint(0, 50) / 10 for _ in range(count))
        found = percentile(ordered, q)
        assert found in ordered
        assert sum(value <= found for value in ordered) * 100 >= q * count
        assert sum(value < found for value in ordered) * 100 < q * count


# -- the account as a sample --


def write(seq: int, at: float, kind: Kind = Kind.acknowledged, timeline: int = 1, error: str = "") -> Outcome:
    return Outcome(0, seq, at - 0.004, at - 0.004, at, 1e9 + at, kind, timeline, error)


def outage(*, present: bool = True) -> Account:
    """Ten writes/s for ten seconds; a fault at 5 s, writes again at 7.5 s on the next timeline."""
    outcomes = []
    for seq in range(100):
        at = seq / 10
        if at <= 5:
            outcomes.append(write(seq, at))
        elif at >= 7.5:
            outcomes.append(write(seq, at, timeline=2))
        elif seq == 51:
            outcomes.append(write(seq, at, Kind.unknown, error="lost"))
        else:
            outcomes.append(write(seq, at, Kind.failed, error="57P01"))
    keys = {o.key for o in outcomes if o.kind is Kind.acknowledged} | {(0, 51)}
    return account("r", outcomes, 0.0, 10.0, present=keys if present else None, fault_at=5.0)


def test_a_sample_has_what_was_measured_under_names_with_units() -> None:
    found = sample_of("node kill", "ours", 3, outage(), {"leader_before": "pg-1"})
    assert (found.series, found.variant, found.repetition) == ("node kill", "ours", 3)
    assert found.values == {
        "gap_s": 2.5,
        "from_injection_s": 2.5,
        "new_timeline_s": 2.5,
        "acknowledged": 76.0,
        "refused": 23.0,
        "unknown": 1.0,
        "unknown_present": 1.0,
        "skipped": 0.0,
        "lost": 0.0,
        "contradicted": 0.0,
        "p50_ms": 4.0,
    }
    assert found.facts["errors"] == "23 x 57P01, 1 x lost"
    assert found.facts["leader_before"] == "pg-1"
    assert found.facts["trouble"] == ""


def test_an_unknown_outcome_is_no_success_though_its_row_is_there() -> None:
    found = sample_of("x", "ours", 1, outage(), {})
    assert found.values["acknowledged"] + found.values["refused"] + found.values["unknown"] == 100


def test_what_was_not_found_out_is_missing_and_not_zero() -> None:
    found = sample_of("x", "ours", 1, outage(present=False), {})
    assert not {"lost", "contradicted", "unknown_present"} & found.values.keys()


def test_a_run_that_never_recovered_has_a_gap_and_no_recovery() -> None:
    outcomes = [write(seq, seq / 10) for seq in range(51)]
    found = sample_of("x", "ours", 1, account("r", outcomes, 0.0, 10.0, present=set(), fault_at=5.0), {})
    assert found.values["gap_s"] == 5.0
    assert "from_injection_s" not in found.values
    assert "new_timeline_s" not in found.values
    assert found.values["lost"] == 51


def test_without_errors_the_facts_say_so() -> None:
    found = sample_of("x", "ours", 1, account("r", [write(0, 1.0)], 0.0, 2.0, present={(0, 0)}), {})
    assert found.facts["errors"] == "no error"
    assert "gap_s" not in found.values, "no fault, no gap of one"


# -- flow --


def test_nothing_since_the_fault_is_no_flow() -> None:
    assert not Flow(100.0).steady(100.0 + STEADY_S + 1)


def test_an_outage_that_begins_later_than_the_fault_counts_from_its_end() -> None:
    flow = Flow(100.0)
    for tenth in range(1, 20):
        flow.acknowledged(100 + tenth / 10)
    for tenth in range(45):
        flow.acknowledged(104 + tenth / 10)
    assert not flow.steady(108.5), "only four and a half seconds since the stall"
    for tenth in range(45, 52):
        flow.acknowledged(104 + tenth / 10)
    assert flow.steady(109.2)


@pytest.mark.parametrize(("pause", "stalled"), [(STALL_S, False), (STALL_S + 0.01, True)])
def test_a_pause_is_a_stall_above_its_limit(pause: float, stalled: bool) -> None:
    flow = Flow(0.0)
    at = 0.0
    while at < 3:
        at += 0.25
        flow.acknowledged(at)
    at += pause
    flow.acknowledged(at)
    while at < STEADY_S + 1:
        at += 0.25
        flow.acknowledged(at)
    assert flow.steady(at) is not stalled


def test_acknowledgements_of_several_writers_may_come_out_of_order() -> None:
    flow = Flow(0.0)
    for tenth in range(1, 60):
        flow.acknowledged(tenth / 10)
        flow.acknowledged(tenth / 10 - 0.05)
    assert flow.steady(5.9)


def test_the_flow_is_read_from_a_ledger_that_is_being_written(tmp_path: Path) -> None:
    """Another thread writes as a run does; the fault lies far enough back that five steady seconds are there soon."""
    now = time.monotonic()
    record = Recorder(tmp_path / "r.jsonl", Header("r", 10, 60, 1, "pooler", now - 8, time.time() - 8))
    record.append([write(seq, now - 6 + seq / 10) for seq in range(59)])

    def more() -> None:
        for seq in range(59, 75):
            time.sleep(0.1)
            record.append([write(seq, time.monotonic())])

    writer = threading.Thread(target=more)
    writer.start()
    try:
        assert wait_flowing(tmp_path / "r.jsonl", now - 6, limit=8)
    finally:
        writer.join(10)


def test_refused_writes_are_no_flow(tmp_path: Path) -> None:
    now = time.monotonic()
    record = Recorder(tmp_path / "r.jsonl", Header("r", 10, 60, 1, "pooler", now - 8, time.time() - 8))
    record.append([write(seq, now - 6 + seq / 10, Kind.failed) for seq in range(61)])
    record.append([write(100, now - 0.1, Kind.unknown), write(101, now, Kind.skipped)])
    assert not wait_flowing(tmp_path / "r.jsonl", now - 6, limit=6.6)


def test_a_line_that_is_only_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    now = time.monotonic()
    path = tmp_path / "r.jsonl"
    record = Recorder(path, Header("r", 10, 60, 1, "pooler", now - 8, time.time() - 8))
    record.append([write(seq, now - 6 + seq / 10) for seq in range(58)])
    line = json.dumps([0, 58, now, now, now + 0.3, 0.0, int(Kind.acknowledged), 1, ""]) + "\n"
    with path.open("a") as stream:
        stream.write(line[:20])

    def finish() -> None:
        time.sleep(0.3)
        with path.open("a") as stream:
            stream.write(line[20:])

    thread = threading.Thread(target=finish)
    thread.start()
    try:
        assert wait_flowing(path, now - 6, limit=8)
    finally:
        thread.join(10)


# -- what is written of it --

MACHINE = Machine(cores=2, processor="x", memory_mib=2048, kernel="6.1", versions={"b": "2", "a": "1"})


def run_of(*samples: Sample) -> Run:
    return Run(
        part="failover",
        started="2026-01-02T12:00:00+00:00",
        revision="abc+changes",
        machine=MACHINE,
        settings={"rate": 500.0, "fenced": True, "who": None},
        samples=samples,
    )


def test_a_run_without_samples_survives_its_file() -> None:
    assert decode(encode(run_of()), "x.json") == run_of()


def test_any_sample_survives_its_file() -> None:
    chance = random.Random(1)
    samples = tuple(
        Sample(
            series=chance.choice(["node kill", 'quo"te', "ü, {}[]\n"]),
            variant="ours",
            repetition=n,
            values={"gap_s": chance.random() * 10**9, "count": float(n)},
            facts={"text": "a\\b", "none": None, "yes": True, "number": 1, "share": 0.1},
        )
        for n in range(1, 50)
    )
    text = encode(run_of(*samples))
    assert decode(text, "x.json") == run_of(*samples)
    assert decode(text.encode(), "x.json").samples == samples
    assert json.loads(text)["version"] == "wms.bench/v1"


@pytest.mark.parametrize(
    "change",
    [('"wms.bench/v1"', '"wms.bench/v2"'), ('"cores"', '"kernels"'), ('"failover"', "7"), ("}\n", "")],
    ids=str,
)
def test_a_changed_file_is_refused_by_name(change: tuple[str, str]) -> None:
    text = encode(run_of())
    assert change[0] in text
    with pytest.raises(ValueError, match=r"^x\.json: no result of wms\.bench/v1"):
        decode(text.replace(*change), "x.json")


def test_only_repetitions_that_have_the_value_count() -> None:
    one = Sample(series="a", variant="ours", repetition=1, values={"gap_s": 1.0})
    two = Sample(series="a", variant="ours", repetition=2, values={})
    other = Sample(series="a", variant="stock", repetition=1, values={"gap_s": 9.0})
    assert pick(run_of(one, two, other), "a", "ours", "gap_s") == [1.0]
    assert groups(run_of(one, other, two)) == [("a", "ours"), ("a", "stock")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "NO"),
        (0.0, "0.00"),
        (1.005, "1.00"),
        (19.999, "20.00"),
        (20.04, "20.0"),
        (99.96, "100.0"),
        (100.4, "100"),
        (-123.4, "-123"),
        (7, "7"),
        ("a|b|", "a\\|b\\|"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_a_table_without_rows_is_a_table() -> None:
    assert table(["a", "b"], []) == ["| a   | b   |", "| --- | --- |"]


def test_numbers_go_right_words_left_and_a_dash_is_either() -> None:
    lines = table(["word", "number", "mixed"], [["a", -1.5, 1], ["bcdef", None, "x"]])
    assert lines[1] == "| ----- | -----: | ----- |"
    assert lines[2] == "| a     |  -1.50 | 1     |"
    assert lines[3] == "| bcdef |      – | x     |"


def test_the_circumstances_name_revision_machine_and_versions() -> None:
    text = "\n".join(circumstances(run_of()))
    for part in (
        "2026-01-02T12:00:00+00:00",
        "abc+changes",
        "2 cores (x)",
        "2048 MiB",
        "Linux 6.1",
        "a 1, b 2.",
    ):
        assert part in text
