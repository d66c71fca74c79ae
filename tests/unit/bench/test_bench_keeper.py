"""What the benches leave on disk, sample by sample, and the summary made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.__main__ import OURS_PARTS, TITLES, Keeper, summary, write_summary
from bench.report import Machine, Run, Sample, decode
from bench.rig import BenchError

MACHINE = Machine(cores=2, processor="x", memory_mib=2048, kernel="6.1", versions={})


def run_of(part: str, *samples: Sample) -> Run:
    return Run(
        part=part,
        started=f"2026-01-02T12:00:00+00:00 {part}",
        revision="abc",
        machine=MACHINE,
        settings={"rate": 1.0},
        samples=samples,
    )


def sample(series: str, repetition: int = 1, variant: str = "ours", **values: float) -> Sample:
    return Sample(series=series, variant=variant, repetition=repetition, values=values)


FAILOVER = run_of(
    "failover",
    *(sample("switchover", n, gap_s=0.4 + n / 10, from_injection_s=0.5, lost=0) for n in range(1, 11)),
    *(sample("switchover", n, "stock", gap_s=4.0, lost=0) for n in range(1, 4)),
    *(sample("node kill", n, gap_s=21.0 + n, unknown=2, unknown_present=1, refused=5) for n in range(1, 4)),
)
CLI = run_of(
    "cli",
    *(sample("wmsctl status", n, "wmsctl", ms=200.0 + n) for n in range(5)),
    *(sample("patronictl list", n, "patronictl", ms=500.0 + n) for n in range(5)),
)
STACK = run_of(
    "stack",
    sample("make up, warm", s=91.0),
    *(sample("pulumi up without changes", n, s=4.0 + n / 10) for n in range(1, 4)),
    sample("idle memory", pss_mib=1400.0, processes=66, cpu_percent=9.0),
    sample("idle postgres", pss_mib=400.0, processes=4, cpu_percent=2.0),
)


def kept(folder: Path, part: str = "failover") -> Run:
    path = folder / f"{part}.json"
    return decode(path.read_bytes(), path.name)


def test_every_sample_is_on_disk_as_soon_as_it_is_kept(tmp_path: Path) -> None:
    keep = Keeper("failover", run_of("failover"), tmp_path / "results")
    assert not (tmp_path / "results").exists(), "no result without a sample"
    for number in range(1, 4):
        keep(sample("node kill", number, gap_s=float(number)))
        assert [s.repetition for s in kept(tmp_path / "results").samples] == list(range(1, number + 1))
    assert kept(tmp_path / "results").settings == {"rate": 1.0}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["failover.json"]


def test_a_run_replaces_the_one_before_it_and_no_other_part(tmp_path: Path) -> None:
    Keeper("failover", run_of("failover"), tmp_path)(sample("node kill", gap_s=1.0))
    Keeper("cli", run_of("cli"), tmp_path)(sample("wmsctl status", ms=1.0))
    Keeper("failover", run_of("failover"), tmp_path)(sample("switchover", gap_s=2.0))
    assert [s.series for s in kept(tmp_path).samples] == ["switchover"]
    assert [s.series for s in kept(tmp_path, "cli").samples] == ["wmsctl status"]


def test_a_keeper_that_cannot_write_leaves_the_results_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Keeper("failover", run_of("failover"), tmp_path)
    keep(sample("node kill", gap_s=1.0))
    (tmp_path / "failover.new").mkdir()  # in the way of the temporary file
    with pytest.raises(OSError, match=r"failover\.new"):
        keep(sample("node kill", 2, gap_s=2.0))
    assert len(kept(tmp_path).samples) == 1


def row(text: str, *start: str) -> list[str]:
    """The cells of the table row that begins with the cells `start`."""
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    (found,) = [cells for cells in rows if tuple(cells[: len(start)]) == start]
    return found


def test_the_summary_says_what_was_reached_and_what_was_not() -> None:
    text = summary([FAILOVER, CLI, STACK])
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Results of `make bench`",
        "## Failover",
        "## Command line",
        "## Platform",
    ]
    switchover = row(text, "switchover", "ours")
    assert switchover[2:5] == ["10", "0.95", "1.40"], "p95 of ten is their maximum"
    assert switchover[-2:] == ["<= 1 s", "NO"]
    assert row(text, "switchover", "stock")[-2:] == ["–", "–"], "no aim for stock values"
    node = row(text, "node kill", "ours")
    assert "2" not in node[-1] and node[-2:] == ["<= 23 s", "NO"]
    assert "6 (3)" in node
    assert node[6] == "15"
    assert row(text, "wmsctl status")[-3:] == ["0.40", "<= 0.5", "yes"]
    assert row(text, "patronictl list")[-2:] == ["–", "–"]
    assert row(text, "make up, warm")[-1] == "NO"
    assert row(text, "pulumi up without changes")[-1] == "yes"
    assert "1400 MiB of 1536 MiB: met" in text


def test_an_injection_that_was_not_always_measured_is_not_given() -> None:
    assert row(summary([FAILOVER]), "node kill", "ours")[5] == "–"
    assert row(summary([FAILOVER]), "switchover", "ours")[5] == "0.50"


def test_every_part_names_its_own_circumstances() -> None:
    text = summary([FAILOVER, CLI])
    assert "12:00:00+00:00 failover, revision abc" in text
    assert "12:00:00+00:00 cli, revision abc" in text


def test_a_reference_that_was_not_measured_gives_no_ratio() -> None:
    assert "not measured" in summary([run_of("cli", sample("wmsctl status", 1, "wmsctl", ms=200.0))])


def test_the_summary_is_made_from_the_files_in_a_fixed_order(tmp_path: Path) -> None:
    for run in (STACK, FAILOVER):
        keep = Keeper(run.part, run_of(run.part), tmp_path)
        for each in run.samples:
            keep(each)
    write_summary(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.index("## Failover") < text.index("## Platform")
    assert "## Command line" not in text
    write_summary(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_without_results_no_summary_is_made(tmp_path: Path) -> None:
    write_summary(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "cli.json").write_text("{")
    with pytest.raises(ValueError, match=r"cli\.json"):
        write_summary(tmp_path)


def test_every_result_in_the_repository_can_be_read() -> None:
    """A change of the format that leaves older results behind shows here."""
    for part in TITLES:
        path = command.RESULTS / f"{part}.json"
        if path.exists():
            run = decode(path.read_bytes(), path.name)
            assert run.part == part
            assert run.samples
            assert summary([run]).count("##") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["failovr"], "unknown: failovr; there are: failover, cli, stack, service"),
        (["cli", "x", "b"], "unknown: b, x"),
        (["--repetitions", "0"], "have to be positive"),
        (["--repetitions", "-3"], "have to be positive"),
        (["--minutes", "0"], "have to be positive"),
        (["--repetitions", "many"], "--repetitions"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("a bench was started")

    monkeypatch.setattr(command, "measure", started)
    monkeypatch.setattr(command, "write_summary", started)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_bench_that_fails_still_leaves_its_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def broken(parts: list[str], repetitions: int | None, minutes: float) -> None:
        calls.append(f"{parts} {repetitions} {minutes:g}")
        raise BenchError("a write is lost")

    monkeypatch.setattr(command, "measure", broken)
    monkeypatch.setattr(command, "write_summary", lambda: calls.append("summary"))
    assert command.main(["cli", "--repetitions", "2", "--minutes", "5"]) == 1
    assert calls == ["['cli'] 2 5", "summary"]
    assert "error: a write is lost" in capsys.readouterr().err


def test_every_part_has_a_title() -> None:
    assert set(OURS_PARTS) | {"service"} == set(TITLES)
