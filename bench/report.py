"""What the benches record and print: pure functions from samples to statistics, tables and JSON.

Percentiles are by nearest rank, so that each is a value that was measured: p95 of fewer than 20 repetitions is the
maximum, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

from wmsctl.ledger.account import percentile

VERSION: Literal["wms.bench/v1"] = "wms.bench/v1"

Value = float | int | str | bool | None


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what is written as JSON."""


class Sample(Frozen, frozen=True):
    """One repetition as it was measured."""

    series: str
    """What was done: postmaster-kill, wmsctl status…"""
    variant: str
    """Of what: ours or stock (platforms), or the program."""
    repetition: int
    """From 1 in its series and variant."""
    values: dict[str, float]
    """Measurements; the name ends in the unit (_s, _ms, _mib, _percent) unless it is a count."""
    facts: dict[str, Value] = {}
    """Circumstances, and trouble if there was any."""


class Machine(Frozen, frozen=True):
    """Where it was measured."""

    cores: int
    processor: str
    memory_mib: int
    kernel: str
    versions: dict[str, str]


class Run(Frozen, frozen=True):
    """One run of one part: all of its samples, and under which circumstances."""

    part: str
    started: str
    """UTC, ISO 8601."""
    revision: str
    """Of git; ends in "+changes" when the tree differed from it."""
    machine: Machine
    settings: dict[str, Value]
    samples: tuple[Sample, ...]
    version: Literal["wms.bench/v1"] = VERSION


class Aim(Frozen, frozen=True):
    """The statistic of a series that is to stay at or below a limit (issue 3)."""

    series: str
    value: str
    statistic: Literal["median", "p95", "max"]
    limit: float
    variant: str = "ours"


def encode(run: Run) -> str:
    """The run as JSON, one sample per line, so that a diff shows single repetitions."""
    document = msgspec.to_builtins(run)
    samples = document.pop("samples")
    head = msgspec.json.format(msgspec.json.encode(document), indent=2).decode().rstrip("}\n ")
    lines = ",\n".join("    " + msgspec.json.encode(sample).decode() for sample in samples)
    return f'{head},\n  "samples": [\n{lines}\n  ]\n}}\n'


def decode(text: str | bytes, source: str) -> Run:
    """A run from its JSON; `source` names it in errors. Raises ValueError when it is none."""
    try:
        return msgspec.json.decode(text, type=Run)
    except msgspec.DecodeError as error:
        raise ValueError(f"{source}: no result of {VERSION}: {error}") from error


@dataclass(frozen=True)
class Stats:
    """Statistics of one value over the repetitions of one series."""

    count: int
    least: float
    median: float
    p95: float
    max: float


def stats(values: Iterable[float]) -> Stats:
    """Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return Stats(len(ordered), ordered[0], median(ordered), percentile(ordered, 95), ordered[-1])


def pick(run: Run, series: str, variant: str, value: str) -> list[float]:
    """The value in all repetitions of a series that have it, in their order."""
    return [
        sample.values[value]
        for sample in run.samples
        if (sample.series, sample.variant) == (series, variant) and value in sample.values
    ]


def groups(run: Run) -> list[tuple[str, str]]:
    """(series, variant) in order of appearance."""
    return list(dict.fromkeys((sample.series, sample.variant) for sample in run.samples))


def judge(run: Run, aim: Aim) -> tuple[float, bool] | None:
    """What was reached, and whether that is within the aim; None when it was not measured."""
    values = pick(run, aim.series, aim.variant, aim.value)
    if not values:
        return None
    reached: float = getattr(stats(values), aim.statistic)
    return reached, reached <= aim.limit


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, padded so that it reads as text too. Columns whose cells are all numbers go right.

    Raises ValueError when a row has not as many cells as the header.
    """
    body = [[cell(value) for value in row] for row in rows]
    for line in body:
        if len(line) != len(header):
            raise ValueError(f"{len(line)} cells under {len(header)} columns: {line}")
    widths = [max(3, *(len(line[i]) for line in [list(header), *body])) for i in range(len(header))]
    right = [bool(body) and all(_numeric(line[i]) for line in body) for i in range(len(header))]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]

    def line_of(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "| " + " | ".join(padded) + " |"

    return [line_of(header), "| " + " | ".join(rule) + " |", *(line_of(line) for line in body)]


def cell(value: object) -> str:
    """A value in a table: floats with three significant figures or two decimals, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"
    return str(value).replace("|", "\\|")


def circumstances(run: Run) -> list[str]:
    """When, on what and from what, as two lines."""
    m = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(m.versions.items()))
    return [
        f"{run.started}, revision {run.revision}; "
        f"{m.cores} cores ({m.processor}), {m.memory_mib} MiB, Linux {m.kernel}.",
        f"{versions}.",
    ]


def _numeric(text: str) -> bool:
    return text == "–" or text.replace(".", "", 1).replace("-", "", 1).isdigit()
