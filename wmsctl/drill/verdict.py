"""Whether a drill met its objectives (rows R1 to R4): pure arithmetic over what was recorded.

- **RTO** runs from the injection of the fault, not from its detection, to the moment that the application was proven
  to work again. It is told by phase.
- **RPO** is judged by canary rows: small rows that the load commits every moment, each with the time that its commit
  was acknowledged. What was lost reaches from the newest canary before which nothing is missing to the fault. A later
  row that is there does not make up for an earlier one that is not.
- What was not measured is not passed: without enough evidence a verdict is INCONCLUSIVE, and that is no success.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from wmsctl.errors import Code

ENOUGH = 5
"""Canaries before the fault that a judgement needs."""


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def code(self) -> Code:
        """wmsctl's exit code for it."""
        return {
            Verdict.PASS: Code.DONE,
            Verdict.FAIL: Code.OBJECTIVE_MISSED,
            Verdict.INCONCLUSIVE: Code.UNKNOWN,
        }[self]


@dataclass(frozen=True, slots=True)
class Objective:
    """A row of the requirements, in seconds."""

    row: str
    scenario: str
    rto_s: float
    rpo_s: float


OBJECTIVES = {
    "service": Objective("R1", "service", 300, 60),
    "database": Objective("R2", "database", 900, 60),
    "datacenter": Objective("R3", "datacenter", 1800, 300),
    "corruption": Objective("R4", "corruption", 3600, 86_400),
    # A restore is what brings back from corruption.
    "restore": Objective("R4", "restore", 3600, 86_400),
}
"""Scenario → what is promised."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a phase, in seconds since the epoch by the clock of the machine that ran the drill."""

    phase: str
    at: float


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the recovery: seconds after the fault, and how long."""

    name: str
    begin_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Canary:
    """One small row."""

    id: int
    committed: float
    """When its commit was acknowledged, seconds since the epoch by the same clock as the marks."""
    acknowledged: bool = True
    """False: the connection was lost before the answer, and nobody can say what became of it."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold afterwards. `ok` is None when it could not be looked at."""

    name: str
    ok: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One objective: what was promised, what was measured (seconds; None when nothing was), and the verdict."""

    name: str
    objective_s: float
    measured_s: float | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Recovered:
    """What became of the canaries."""

    before: int
    """Acknowledged before the fault."""
    lost: tuple[int, ...]
    """Of those, the ones that are not there."""
    unknown: int
    """Without an answer, there or not."""
    window_s: float | None
    """From the newest one before which nothing is missing to the fault; None when that cannot be said."""
    resolution_s: float | None
    """How far apart they were at most: what is smaller than that cannot be seen."""


@dataclass(frozen=True)
class Result:
    """The whole."""

    objective: Objective
    verdict: Verdict
    judgements: tuple[Judgement, ...]
    checks: tuple[Check, ...]
    phases: tuple[Phase, ...]
    canaries: Recovered
    aborted: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)


def phases(injected: float, marks: Iterable[Mark]) -> tuple[Phase, ...]:
    """The phases one after the other, the first from the fault on. A phase that was marked twice ended the last time.

    Raises ValueError for a mark before the fault or before the mark before it: a clock has jumped, and nothing measured
    by it is worth anything.
    """
    ends: dict[str, float] = {}
    for mark in marks:
        ends.pop(mark.phase, None)
        ends[mark.phase] = mark.at
    found: list[Phase] = []
    begin = injected
    for name, at in ends.items():
        if at < begin:
            raise ValueError(f"the phase {name} ends {begin - at:.3f} s before it begins: a clock has jumped")
        found.append(Phase(name, begin - injected, at - begin))
        begin = at
    return tuple(found)


def recovered(canaries: Sequence[Canary], found: Iterable[int], fault: float) -> Recovered:
    """Compare what was acknowledged before `fault` with what is there, by id."""
    there = set(found)
    before = sorted(
        (c for c in canaries if c.committed <= fault and c.acknowledged), key=lambda c: c.committed
    )
    unknown = sum(not c.acknowledged for c in canaries)
    if not before:
        return Recovered(0, (), unknown, None, None)
    lost = tuple(c.id for c in before if c.id not in there)
    times = [c.committed for c in before]
    resolution = max((b - a for a, b in pairwise([*times, fault])), default=0.0)
    if not lost:
        # Nothing is missing: what came after the last canary was not asked.
        window: float | None = 0.0
    else:
        first = next(number for number, c in enumerate(before) if c.id not in there)
        # Not even the first is there: how far back the loss reaches is not known.
        window = fault - before[first - 1].committed if first else None
    return Recovered(len(before), lost, unknown, window, resolution)


def rto(objective: Objective, injected: float, ready: float | None, until: float, aborted: str) -> Judgement:
    """Judge the time to recovery. `ready`: when the application was proven to work; `until`: when the watch ended."""
    promised = objective.rto_s
    if ready is not None:
        seconds = ready - injected
        if seconds < 0:
            return Judgement(
                "RTO", promised, None, Verdict.INCONCLUSIVE, "ready before the fault: a clock has jumped"
            )
        verdict = Verdict.PASS if seconds <= promised else Verdict.FAIL
        return Judgement(
            "RTO", promised, seconds, verdict, "from the fault to the proof that the application works"
        )
    watched = until - injected
    if watched > promised:
        return Judgement("RTO", promised, None, Verdict.FAIL, f"not ready after {watched:.0f} s")
    why = f"aborted after {watched:.0f} s: {aborted}" if aborted else f"watched for {watched:.0f} s only"
    return Judgement("RTO", promised, None, Verdict.INCONCLUSIVE, why)


def rpo(objective: Objective, found: Recovered | None) -> Judgement:
    """Judge what was lost. None: nobody could look."""
    promised = objective.rpo_s

    def unsure(reason: str, measured: float | None = None) -> Judgement:
        return Judgement("RPO", promised, measured, Verdict.INCONCLUSIVE, reason)

    if found is None:
        return unsure("the canaries could not be read back")
    if found.window_s is None and found.lost:
        return Judgement(
            "RPO",
            promised,
            None,
            Verdict.FAIL,
            f"not one of {found.before} canaries is there, from the first on",
        )
    if found.before < ENOUGH or found.window_s is None or found.resolution_s is None:
        return unsure(f"{found.before} canaries before the fault; a judgement needs {ENOUGH}")
    if found.window_s > promised:
        return Judgement(
            "RPO",
            promised,
            found.window_s,
            Verdict.FAIL,
            f"{len(found.lost)} of {found.before} canaries are lost",
        )
    if found.resolution_s > promised:
        return unsure(
            f"canaries were up to {found.resolution_s:.0f} s apart: too coarse for {promised:.0f} s",
            found.window_s,
        )
    lost = f"{len(found.lost)} of {found.before}" if found.lost else f"none of {found.before}"
    return Judgement("RPO", promised, found.window_s, Verdict.PASS, f"{lost} canaries lost")


def judge(
    objective: Objective,
    *,
    injected: float,
    marks: Sequence[Mark],
    ready: float | None,
    until: float,
    canaries: Recovered | None,
    checks: Sequence[Check] = (),
    aborted: str = "",
    notes: Sequence[str] = (),
) -> Result:
    """The verdict over everything: one FAIL fails it, one INCONCLUSIVE without a FAIL leaves it open."""
    all_checks = list(checks)
    try:
        parts = phases(injected, marks)
    except ValueError as error:
        parts = ()
        all_checks.append(Check("clock", None, str(error)))
    judgements = (rto(objective, injected, ready, until, aborted), rpo(objective, canaries))
    if aborted:
        all_checks.append(Check("ran to its end", None, aborted))
    verdicts = [each.verdict for each in judgements] + [
        Verdict.INCONCLUSIVE if check.ok is None else Verdict.PASS if check.ok else Verdict.FAIL
        for check in all_checks
    ]
    return Result(
        objective=objective,
        verdict=overall(verdicts),
        judgements=judgements,
        checks=tuple(all_checks),
        phases=parts,
        canaries=canaries or Recovered(0, (), 0, None, None),
        aborted=aborted,
        notes=tuple(notes),
    )


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; of none at all nothing can be said."""
    found = set(verdicts)
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in found or not found else Verdict.PASS
