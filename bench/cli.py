"""How fast the command line answers: `wmsctl` beside `patronictl`, by turns on the same platform."""

from __future__ import annotations

from collections.abc import Callable

from bench.report import Run, Sample, pick, stats, table
from bench.rig import BenchError, Platform, program, say

REPETITIONS = 15
AIM = 0.5
"""Share of patronictl's time."""

REFERENCE = "patronictl list"


def measure(platform: Platform, repetitions: int | None, keep: Callable[[Sample], None]) -> None:
    """Run the commands by turns, so that whatever else the machine does meets them alike.

    Raises BenchError when a command fails: a refusal would be fast.
    """
    wmsctl, patronictl = (
        [program("wmsctl"), "-c", platform.name],
        [program("patronictl"), "-c", str(platform.patroni_file)],
    )
    commands = {
        "wmsctl --help": [program("wmsctl"), "--help"],
        "wmsctl status": [*wmsctl, "status"],
        "patronictl --help": [program("patronictl"), "--help"],
        REFERENCE: [*patronictl, "list"],
    }
    wanted = repetitions or REPETITIONS
    for number in range(wanted + 1):
        for name, command in commands.items():
            done = platform.run(command, timeout=30)
            # 5: degraded, which takes as long as healthy.
            if done.code not in ((0, 5) if name == "wmsctl status" else (0,)):
                raise BenchError(f"{name}: exit {done.code}: {done.text}")
            if number:  # the first turn warms the caches
                keep(
                    Sample(
                        series=name,
                        variant=name.split()[0],
                        repetition=number,
                        values={"ms": round(done.seconds * 1000, 1)},
                    )
                )
    say(f"command line: {wanted} turns")


def section(run: Run) -> list[str]:
    """The part of the summary."""
    times = {
        name: pick(run, name, name.split()[0], "ms") for name in dict.fromkeys(s.series for s in run.samples)
    }
    if not times.get(REFERENCE):
        return ["not measured"]
    reference = stats(times[REFERENCE]).median
    rows = []
    for name, values in times.items():
        s = stats(values)
        ours = name.startswith("wmsctl")
        ratio = s.median / reference
        rows.append(
            (
                name,
                s.count,
                s.least,
                s.median,
                s.p95,
                ratio,
                f"<= {AIM:g}" if ours else None,
                ratio <= AIM if ours else None,
            )
        )
    return table(
        ("command", "n", "least ms", "median ms", "p95 ms", f"ratio to {REFERENCE}", "aim", "met"), rows
    )
