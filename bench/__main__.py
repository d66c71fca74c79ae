"""`python -m bench [failover|cli|stack|service] [--repetitions N]`: run benches, keep their samples, write the summary.

Each part leaves bench/results/<part>.json, written anew after every sample, and bench/results/README.md is made from
all of them. The platforms it measures are its own and are removed at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import cli, failover, report, service, stack
from bench.machine import machine, revision
from bench.report import Run, Sample, Value
from bench.rig import BenchError, running, say
from stacks.local.program import ROOT
from toolchain.env import process_environment
from toolchain.errors import ToolchainError
from wmsctl.errors import WmsctlError

RESULTS = Path(__file__).parent / "results"
OURS_PARTS = ("stack", "cli", "failover")
"""What is measured on one platform with our values, in this order: idle first, faults last."""

TITLES: dict[str, tuple[str, Callable[[Run], list[str]]]] = {
    "failover": ("Failover", failover.section),
    "cli": ("Command line", cli.section),
    "stack": ("Platform", stack.section),
    "service": ("Service", service.section),
}


class Keeper:
    """Keeps the samples of one part, in a file from the first one on."""

    def __init__(self, part: str, run: Run, folder: Path = RESULTS) -> None:
        self._path = folder / f"{part}.json"
        self._run = run

    def __call__(self, sample: Sample) -> None:
        """Add a sample."""
        self._run = Run(
            **{
                **{f: getattr(self._run, f) for f in self._run.__struct_fields__},
                "samples": (*self._run.samples, sample),
            }
        )
        self._path.parent.mkdir(exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(report.encode(self._run))
        os.replace(temporary, self._path)


def summary(runs: list[Run]) -> str:
    """The Markdown summary of the newest run of each part."""
    lines = [
        "# Results of `make bench`",
        "",
        "Written by `python -m bench` from the JSON files beside it, which hold every repetition. Percentiles are by",
        "nearest rank: p95 of fewer than 20 repetitions is the maximum. Only figures of one run compare.",
    ]
    for run in runs:
        title, section = TITLES[run.part]
        lines += ["", f"## {title}", "", *section(run), "", *report.circumstances(run)]
    return "\n".join(lines) + "\n"


def write_summary(folder: Path = RESULTS) -> None:
    """Make README.md of `folder` from the results in it."""
    runs = [
        report.decode(path.read_bytes(), path.name)
        for part in TITLES
        if (path := folder / f"{part}.json").exists()
    ]
    if runs:
        (folder / "README.md").write_text(summary(runs))


def measure(parts: list[str], repetitions: int | None, minutes: float) -> None:
    """Measure `parts` within about `minutes`. Raises BenchError and what the parts raise."""
    until = time.monotonic() + minutes * 60
    facts = machine(process_environment()["PATH"])
    commit, started = revision(ROOT), datetime.now(UTC).isoformat(timespec="seconds")

    def keeper(part: str, **settings: Value) -> Keeper:
        return Keeper(
            part,
            Run(part=part, started=started, revision=commit, machine=facts, settings=settings, samples=()),
        )

    keep_failover = keeper("failover", rate=failover.RATE, steady_s=failover.STEADY_S)
    if any(part in OURS_PARTS for part in parts):
        with running("bench-ours", failover.OURS) as platform:
            if "stack" in parts:
                stack.measure(
                    platform, repetitions, keeper("stack", settle_s=stack.SETTLE_S, cpu_s=stack.CPU_S)
                )
            if "cli" in parts:
                cli.measure(platform, repetitions, keeper("cli"))
            if "failover" in parts:
                # A third of the time is for the other platform, whose repetitions are fewer and longer.
                failover.measure(platform, "ours", repetitions, keep_failover, until - minutes * 60 / 3)
    if "failover" in parts:
        with running("bench-stock", failover.STOCK) as platform:
            failover.measure(platform, "stock", repetitions, keep_failover, until)
    if "service" in parts:
        service.measure(repetitions, keeper("service", **service.settings()), until)


def main(arguments: list[str]) -> int:
    """Returns 0 when everything asked for was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = list(TITLES)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(known)} (default: all)")
    parser.add_argument(
        "--repetitions", type=int, metavar="N", help="of each measurement (default: each has its own)"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="begin no further repetition after this (default: 60)"
    )
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(known)):
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    if (options.repetitions is not None and options.repetitions < 1) or options.minutes <= 0:
        parser.error("--repetitions and --minutes have to be positive")
    try:
        measure(options.parts or known, options.repetitions, options.minutes)
    except (BenchError, WmsctlError, ToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        write_summary()
    say(f"summary: {RESULTS / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
