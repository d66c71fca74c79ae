"""The timeline of a drill as one SVG: requests, errors, latency and phases over the seconds since the fault. Pure.

It needs no script, no font and nothing from the network, and is readable in black and white: errors stand on top of the
requests, the fault and the recovery are lines with words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, TOP = 960, 64, 16, 44
PANEL, BETWEEN, BOTTOM = 130, 34, 34
LANE = 18
GOOD, BAD, LINE, INK, FAINT = "#3b7dd8", "#c62828", "#6a1b9a", "#1b1f24", "#8a939c"
BANDS = ("#e8f0fb", "#f6f0e0")


@dataclass(frozen=True)
class Axis:
    """From values to places along one direction."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.begin + (self.end - self.begin) * (value - self.low) / span


def nice(limit: float, count: int = 4) -> list[float]:
    """Round values from 0 to at least `limit`, about `count` steps: 1, 2 or 5 times a power of ten apart."""
    if limit < 1e-6 or not math.isfinite(limit):
        return [0.0, 1.0]
    raw = limit / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= raw * 0.999)
    return [step * number for number in range(math.ceil(limit / step * 0.999) + 1)]


def timeline(document: Mapping[str, Any]) -> str:
    """The plot of an evidence document; a line of text when it holds no samples."""
    seconds: Sequence[Mapping[str, Any]] = document["seconds"]
    if not seconds:
        return '<p class="faint">There was no load: nothing to plot.</p>'
    ends = [phase["begin_s"] + phase["seconds"] for phase in document["phases"]]
    along = Axis(min(0.0, seconds[0]["s"]), max([seconds[-1]["s"] + 1.0, *ends]), LEFT, WIDTH - RIGHT)
    lanes = LANE * len(document["phases"])
    first = TOP + lanes
    second = first + PANEL + BETWEEN
    height = second + PANEL + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" role="img"'
        f' font-family="system-ui, sans-serif" font-size="11" fill="{INK}">',
        f"<title>{escape(document['scenario'])}: requests, errors and latency around the fault</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_phases(document["phases"], along, second + PANEL),
        *_rates(seconds, along, first),
        *_latency(seconds, along, second),
        *_fault(along, second + PANEL),
        *_time(along, second + PANEL),
        "</svg>",
    ]
    return "\n".join(parts)


def _phases(phases: Sequence[Mapping[str, Any]], along: Axis, bottom: float) -> Iterator[str]:
    """A band over all panels for each phase, and its name and length in a lane of its own above them."""
    for number, phase in enumerate(phases):
        begin, end = along(phase["begin_s"]), along(phase["begin_s"] + phase["seconds"])
        top = TOP + LANE * number
        colour = BANDS[number % 2]
        yield (
            f'<rect x="{begin:.1f}" y="{top}" width="{max(1.0, end - begin):.1f}" height="{bottom - top:.1f}"'
            f' fill="{colour}"/>'
        )
        label = f"{phase['name']} {phase['seconds']:.1f} s"
        # To the right of the band's beginning, or to its left where the plot ends.
        anchor, at = ("start", begin + 3) if begin < WIDTH * 0.75 else ("end", begin - 3)
        yield f'<text x="{at:.1f}" y="{top + 12}" text-anchor="{anchor}">{escape(label)}</text>'


def _rates(seconds: Sequence[Mapping[str, Any]], along: Axis, top: float) -> Iterator[str]:
    ticks = nice(max(each["requests"] for each in seconds))
    up = Axis(0.0, ticks[-1], top + PANEL, top)
    yield from _grid("requests/s", ticks, up, top)
    width = max(1.0, along(1.0) - along(0.0))
    for each in seconds:
        x, good = along(each["s"]), each["requests"] - each["errors"]
        if good > 0:
            yield _bar(x, up(0), up(good), width, GOOD)
        if each["errors"] > 0:
            yield _bar(x, up(max(good, 0)), up(max(good, 0) + each["errors"]), width, BAD)
    yield f'<text x="{WIDTH - RIGHT}" y="{top - 6}" text-anchor="end"><tspan fill="{GOOD}">■</tspan> answered '
    yield f'<tspan fill="{BAD}">■</tspan> failed</text>'


def _bar(x: float, low: float, high: float, width: float, colour: str) -> str:
    height = max(0.5, low - high)
    return f'<rect x="{x:.1f}" y="{low - height:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _latency(seconds: Sequence[Mapping[str, Any]], along: Axis, top: float) -> Iterator[str]:
    known = [each["p95_ms"] for each in seconds if each["p95_ms"] is not None]
    ticks = nice(max(known, default=0.0))
    up = Axis(0.0, ticks[-1], top + PANEL, top)
    yield from _grid("latency p95, ms", ticks, up, top)
    run: list[str] = []
    for each in [*seconds, {"s": 0.0, "p95_ms": None}]:
        if each["p95_ms"] is not None:
            run.append(f"{along(each['s'] + 0.5):.1f},{up(each['p95_ms']):.1f}")
        elif run:
            # A second without an answer has no latency: the line breaks there.
            points = " ".join([*run, run[0]] if len(run) == 1 else run)
            yield f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="1.6" stroke-linecap="round"/>'
            run = []


def _grid(title: str, ticks: Sequence[float], up: Axis, top: float) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="{top - 6}" font-weight="600">{title}</text>'
    for tick in ticks:
        y = up(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#00000018"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{FAINT}">{tick:g}</text>'


def _fault(along: Axis, bottom: float) -> Iterator[str]:
    x = along(0.0)
    yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 16}" y2="{bottom}" stroke="{BAD}" stroke-width="1.5"/>'
    yield f'<text x="{x + 4:.1f}" y="{TOP - 20}" fill="{BAD}" font-weight="600">fault</text>'


def _time(along: Axis, bottom: float) -> Iterator[str]:
    """Seconds since the fault, below everything."""
    step = nice(along.high - along.low, 8)[1]
    number = math.ceil(along.low / step)
    while number * step <= along.high:
        x = along(number * step)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="{FAINT}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="{FAINT}">{number * step:g}</text>'
        number += 1
    yield (
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 30}" text-anchor="end" fill="{FAINT}">seconds since the fault</text>'
    )
