"""What the benches make of their samples: statistics, verdicts, tables, files."""

from __future__ import annotations

import pytest

from bench import failover, report
from bench.failover import AIMS, SCENARIOS, Flow
from bench.report import Aim, Machine, Run, Sample
from stacks import spec

MACHINE = Machine(cores=2, processor="a | b", memory_mib=1024, kernel="6.1", versions={"PostgreSQL": "15"})


def run_of(*samples: Sample) -> Run:
    return Run(
        part="failover",
        started="2026-01-01T00:00:00+00:00",
        revision="abc",
        machine=MACHINE,
        settings={"rate": 500.0},
        samples=samples,
    )


def gap(value: float, repetition: int = 1, series: str = "switchover", variant: str = "ours") -> Sample:
    return Sample(series=series, variant=variant, repetition=repetition, values={"gap_s": value})


@pytest.mark.parametrize("count", [1, 2, 3, 10, 19, 20, 21, 40])
def test_every_statistic_is_a_value_between_the_extremes(count: int) -> None:
    values = [float((n * 7919) % 101) for n in range(count)]
    found = report.stats(values)
    assert found.count == len(values)
    assert found.p95 in values
    assert min(values) == found.least <= found.median <= found.p95 <= found.max == max(values)


def test_p95_of_few_values_is_the_maximum_and_of_forty_is_not() -> None:
    assert report.stats([float(n) for n in range(10)]).p95 == 9
    assert report.stats([float(n) for n in range(1, 41)]).p95 == 38


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        report.stats([])


@pytest.mark.parametrize(("reached", "met"), [(1.0, True), (1.001, False)])
def test_an_aim_is_met_up_to_its_limit(reached: float, met: bool) -> None:
    aim = Aim(series="switchover", value="gap_s", statistic="p95", limit=1.0)
    assert report.judge(run_of(gap(0.5), gap(reached, 2)), aim) == (reached, met)


def test_an_aim_without_samples_is_not_met_and_not_missed() -> None:
    aim = Aim(series="switchover", value="gap_s", statistic="p95", limit=1.0)
    assert report.judge(run_of(gap(0.5, variant="stock")), aim) is None


def test_a_run_survives_its_file() -> None:
    run = run_of(gap(0.5), gap(0.7, 2))
    text = report.encode(run)
    assert report.decode(text, "x.json") == run
    assert sum('"gap_s"' in line for line in text.splitlines()) == 2, "one sample per line"


@pytest.mark.parametrize("text", ["", "{}", '{"version": "wms.bench/v0"}'])
def test_a_file_that_is_no_result_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.json"):
        report.decode(text, "x.json")


def test_a_table_is_padded_and_escaped() -> None:
    lines = report.table(["a", "value"], [["x|y", 1.5], ["z", None]])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].rstrip(" |").endswith("-:"), "a column of numbers goes right"
    assert "x\\|y" in lines[2]
    with pytest.raises(ValueError, match="2 columns"):
        report.table(["a", "b"], [["only one"]])


def test_writes_flow_again_after_five_seconds_without_a_stall() -> None:
    flow = Flow(since=100.0)
    for tenth in range(20):
        flow.acknowledged(103 + tenth / 10)
    assert not flow.steady(105.0), "a stall of three seconds was two seconds ago"
    for tenth in range(20, 60):
        flow.acknowledged(103 + tenth / 10)
    assert flow.steady(109.0)
    assert not flow.steady(111.0), "and now they stall again"


@pytest.mark.parametrize("variant", [failover.OURS, failover.STOCK], ids=["ours", "stock"])
def test_the_platforms_of_the_bench_are_valid(variant: dict[str, object]) -> None:
    platform = spec.load("local", variant)
    assert platform.postgres.synchronous_nodes == spec.load("local").postgres.synchronous_nodes


def test_both_platforms_have_addresses_of_their_own() -> None:
    networks = {spec.load("local", v).network for v in (failover.OURS, failover.STOCK, {})}
    assert len(networks) == 3


def test_every_aim_is_about_something_that_is_measured() -> None:
    assert {aim.series for aim in AIMS} == {scenario.name for scenario in SCENARIOS["ours"]}


def test_the_section_shows_what_was_missed() -> None:
    lines = failover.section(run_of(gap(0.5), gap(1.5, 2)))
    row = next(line for line in lines if line.startswith("| switchover"))
    assert "NO" in row
    assert "<= 1 s" in row
