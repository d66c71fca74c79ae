"""How long a restore will take, from how long earlier ones took: pure.

A forecast says what it is based on. Without any measurement the rates are assumptions, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from wmsctl.output import duration

Basis = Literal["measured", "assumed"]

ASSUMED_COPY = 19e6
"""Bytes of the database per second and process that pgBackRest restores from an S3 store, without a measurement: what
its users report.
"""
ASSUMED_REPLAY = 30e6
"""Bytes of WAL that recovery replays per second, without a measurement: PostgreSQL replays in one process."""
ASSUMED_START_S = 15.0
"""For the beginning, the end of recovery and the first checkpoint."""
SPREAD = 2.0
"""An assumption may be wrong by this factor, either way."""
KEPT = 20
"""Measurements that count, newest first: machines and data change."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured part of a restore."""

    phase: Literal["copy", "replay", "start"]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Bytes per second: the median of what was measured, its slowest and its fastest."""

    usual: float
    slow: float
    fast: float
    basis: Basis
    samples: int = 0


@dataclass(frozen=True)
class Phase:
    """One part of the forecast, in seconds."""

    name: str
    usual: float
    least: float
    most: float
    basis: Basis


@dataclass(frozen=True)
class Forecast:
    """The whole: seconds, between `least` and `most`."""

    phases: tuple[Phase, ...] = field(default_factory=tuple)

    @property
    def usual(self) -> float:
        return sum(phase.usual for phase in self.phases)

    @property
    def least(self) -> float:
        return sum(phase.least for phase in self.phases)

    @property
    def most(self) -> float:
        return sum(phase.most for phase in self.phases)

    @property
    def basis(self) -> Basis:
        """Measured only when every part that takes any time is."""
        return "measured" if all(p.basis == "measured" for p in self.phases if p.usual > 1) else "assumed"

    def __str__(self) -> str:
        word = "as measured" if self.basis == "measured" else "by assumption: nothing was measured yet"
        return f"{duration(self.usual)} ({duration(self.least)} to {duration(self.most)}, {word})"


def rate(samples: Sequence[Sample], phase: str, assumed: float) -> Rate:
    """The rate of a phase from its newest measurements; `samples` newest first. What took no time tells nothing."""
    rates = [s.bytes / s.seconds for s in samples if s.phase == phase and s.seconds > 0 and s.bytes > 0][
        :KEPT
    ]
    if not rates:
        return Rate(assumed, assumed / SPREAD, assumed * SPREAD, "assumed")
    return Rate(median(rates), min(rates), max(rates), "measured", len(rates))


def forecast(samples: Sequence[Sample], copy_bytes: int, replay_bytes: int, processes: int = 1) -> Forecast:
    """The time for copying `copy_bytes` of a database and replaying `replay_bytes` of WAL.

    `processes` matters only where the copying was never measured.
    """
    copying = rate(samples, "copy", ASSUMED_COPY * max(1, processes))
    replaying = rate(samples, "replay", ASSUMED_REPLAY)
    starts = [s.seconds for s in samples if s.phase == "start" and s.seconds > 0][:KEPT]
    if starts:
        start = Phase("start", median(starts), min(starts), max(starts), "measured")
    else:
        start = Phase("start", ASSUMED_START_S, ASSUMED_START_S / SPREAD, ASSUMED_START_S * SPREAD, "assumed")
    return Forecast((_phase("copy", copy_bytes, copying), _phase("replay", replay_bytes, replaying), start))


def remaining(plan: Forecast, phase: str, done: float, elapsed: float) -> float:
    """Seconds still to go: `done` is the part of `phase` that is finished (0 to 1), `elapsed` how long it has run.

    What runs now is judged by its own speed as soon as there is some, what comes by the forecast.
    """
    names = [each.name for each in plan.phases]
    place = names.index(phase)
    later = sum(each.usual for each in plan.phases[place + 1 :])
    share = min(1.0, max(0.0, done))
    expected = plan.phases[place].usual
    # Its own speed counts for as much as is done: at the beginning it is noise.
    own = elapsed * (1 - share) / share if share > 0 else expected
    return max(0.0, share * own + (1 - share) * max(0.0, expected - elapsed)) + later


def _phase(name: str, size: int, found: Rate) -> Phase:
    return Phase(name, size / found.usual, size / found.fast, size / found.slow, found.basis)


def merge(*sources: Iterable[Sample]) -> list[Sample]:
    """Samples of several sources, each newest first, as one list."""
    return [sample for source in sources for sample in source]
