"""What the platform takes: time to make it, time of an `up` without changes, idle memory and CPU."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench.report import Aim, Run, Sample, judge, pick, stats, table
from bench.rig import BenchError, Platform, lifecycle, say
from stacks.local.program import ROOT

REPETITIONS = 3
SETTLE_S, CPU_S = 20.0, 30.0
"""After the making until it counts as idle, and how long CPU is then measured."""

AIMS = (
    Aim(series="pulumi up without changes", value="s", statistic="max", limit=5.0),
    Aim(series="make up, warm", value="s", statistic="max", limit=90.0),
    Aim(series="idle memory", value="pss_mib", statistic="max", limit=1536.0),
)
TOTAL = "all"


def measure(platform: Platform, repetitions: int | None, keep: Callable[[Sample], None]) -> None:
    """Measure a platform that was just made. Raises BenchError when a command fails or changes something."""
    keep(Sample(series="make up, warm", variant="ours", repetition=1, values={"s": round(platform.up_s, 2)}))
    time.sleep(SETTLE_S)
    idle(platform, keep)
    for number in range(1, (repetitions or REPETITIONS) + 1):
        command = ["pulumi", "up", "--yes", "--non-interactive", "--stack", platform.name]
        done = platform.run(command, timeout=300, cwd=ROOT / "stacks" / "local")
        if (
            done.code != 0
            or "unchanged" not in done.text
            or any(word in done.text for word in (" updated", " created", " replaced"))
        ):
            raise BenchError(f"pulumi up without changes: exit {done.code}: {done.text}")
        keep(
            Sample(
                series="pulumi up without changes",
                variant="ours",
                repetition=number,
                values={"s": round(done.seconds, 2)},
            )
        )
        say(f"pulumi up without changes: {done.seconds:.1f} s")
    seconds = lifecycle("up", platform.name, platform.environment, timeout=300)
    keep(
        Sample(
            series="make up without changes (refreshes)",
            variant="ours",
            repetition=1,
            values={"s": round(seconds, 2)},
        )
    )


def idle(platform: Platform, keep: Callable[[Sample], None]) -> None:
    """Memory and CPU of every process of the platform, by kind. CPU in percent of one core."""
    kinds = processes(platform)
    before = {pid: cpu_s(pid) for pid in kinds}
    started = time.monotonic()
    time.sleep(CPU_S)
    seconds = time.monotonic() - started
    memory: dict[str, float] = defaultdict(float)
    busy: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for pid, kind in kinds.items():
        try:
            size, used = pss_mib(pid), cpu_s(pid) - before[pid]
        except OSError:
            continue  # it ended meanwhile, as sessions and workers do
        for name in (kind, TOTAL):
            memory[name] += size
            busy[name] += 100 * used / seconds
            counts[name] += 1
    for name in sorted(memory, key=lambda kind: -memory[kind]):
        values = {
            "pss_mib": round(memory[name], 1),
            "cpu_percent": round(busy[name], 2),
            "processes": float(counts[name]),
        }
        series = "idle memory" if name == TOTAL else f"idle {name}"
        keep(Sample(series=series, variant="ours", repetition=1, values=values))
    say(f"idle: {memory[TOTAL]:.0f} MiB PSS, {busy[TOTAL]:.0f} % of a core")


def processes(platform: Platform) -> dict[int, str]:
    """Every living process of the platform and its kind; what belongs to no node is "supervisor"."""
    found: dict[int, str] = {}
    for node in platform.inventory.nodes:
        for process in platform.power.processes(node.name):
            kind = process.process or process.name
            found[process.pid] = "postgres" if kind == "patroni" and process.name == "postgres" else kind
    home = str(platform.home)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in found:
            try:
                words = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(word.startswith(f"{home}/supervisor/") for word in words):
                found[int(entry)] = "supervisor"
    return found


def pss_mib(pid: int) -> float:
    """Proportional set size. Raises OSError when the process is gone."""
    for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    """CPU seconds of the process so far. Raises OSError when it is gone."""
    fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def section(run: Run) -> list[str]:
    """The part of the summary."""
    rows = []
    for name in ("make up, warm", "pulumi up without changes", "make up without changes (refreshes)"):
        values = pick(run, name, "ours", "s")
        if values:
            aim = next((a for a in AIMS if a.series == name), None)
            verdict = judge(run, aim) if aim else None
            rows.append(
                (
                    name,
                    len(values),
                    stats(values).median,
                    stats(values).max,
                    f"<= {aim.limit:g} s" if aim else None,
                    verdict[1] if verdict else None,
                )
            )
    lines = table(("what", "n", "median s", "max s", "aim", "met"), rows)
    kinds = [s for s in run.samples if s.series.startswith("idle ")]
    if kinds:
        verdict = judge(run, AIMS[2])
        reached = (
            f"{verdict[0]:.0f} MiB of {AIMS[2].limit:.0f} MiB: {'met' if verdict[1] else 'NOT met'}"
            if verdict
            else "not measured"
        )
        lines += ["", f"Idle platform, PSS: {reached}. CPU in percent of one core.", ""]
        lines += table(
            ("process", "count", "PSS MiB", "CPU %"),
            [
                (
                    s.series.removeprefix("idle ").replace("memory", TOTAL),
                    int(s.values["processes"]),
                    s.values["pss_mib"],
                    s.values["cpu_percent"],
                )
                for s in kinds
            ],
        )
    return lines
