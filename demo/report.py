"""What the demonstration prints: pure functions from records to text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demo.shop import Answer
from wmsctl.ledger.account import Account, Kind, Outcome

BAR = 30
"""Characters of the longest bar."""


@dataclass(frozen=True)
class Event:
    """Something that was done or seen, at an epoch time."""

    at: float
    text: str


@dataclass(frozen=True)
class Objectives:
    """Targets of row R2, in seconds."""

    rto_s: float
    rpo_s: float


def timeline(
    outcomes: Sequence[Outcome],
    answers: Sequence[Answer],
    events: Sequence[Event],
    fault_at: float,
    span: tuple[int, int],
) -> list[str]:
    """One line per second, `span[0]` to `span[1]` around `fault_at`: commits, trouble, and what happened."""
    commits: Counter[int] = Counter()
    trouble: Counter[int] = Counter()
    for outcome in outcomes:
        second = int((outcome.wall - fault_at) // 1)
        (commits if outcome.kind is Kind.acknowledged else trouble)[second] += 1
    good, bad = Counter[int](), Counter[int]()
    for answer in answers:
        (good if answer.status in (200, 201) else bad)[int((answer.at - fault_at) // 1)] += 1
    notes: dict[int, list[str]] = {}
    for event in events:
        notes.setdefault(int((event.at - fault_at) // 1), []).append(event.text)
    most = max(commits.values(), default=1)
    lines = ["second  commits                                  not   API ok  API other  what happened"]
    for second in range(span[0], span[1] + 1):
        bar = "█" * round(BAR * commits[second] / most)
        text = "; ".join(notes.get(second, []))
        lines.append(
            f"{second:+5d}s  {commits[second]:5d} {bar:{BAR}} {trouble[second]:6d}"
            f" {good[second]:8d} {bad[second]:10d}  {text}".rstrip()
        )
    return lines


def verdict(account: Account, answers: Iterable[Answer], objectives: Objectives) -> tuple[list[str], bool]:
    """The measured recovery against its objectives, and whether they were met.

    RTO: from the kill to the first acknowledged commit after it. RPO: the age of the newest acknowledged write that
    is missing, which is 0 when none is.
    """
    recovery = account.recovery
    rto = recovery.first_ack_s if recovery else None
    lost = account.lost
    rto_met = rto is not None and rto <= objectives.rto_s
    rpo_met = lost == 0
    statuses = Counter(answer.status for answer in answers)
    slowest = max((answer.seconds for answer in answers), default=0.0)
    lines = [
        f"RTO  {_seconds(rto):>10}   objective {objectives.rto_s:g} s (R2)   {_met(rto_met)}",
        f"RPO  {_rpo(lost):>10}   objective {objectives.rpo_s:g} s (R2)   {_met(rpo_met)}",
        f"write gap {_seconds(account.gap.seconds if account.gap else None)}: "
        "the longest time without a commit of any client",
        f"ledger: {account.acknowledged} commits acknowledged, {lost if lost is not None else 'unknown'} of them lost, "
        f"{account.failed} refused, {account.unknown} without an answer "
        f"({account.unknown_present or 0} of those are there)",
        "API through the edge: "
        + ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
        + f"; slowest answer {slowest:.2f} s",
    ]
    if account.trouble:
        lines.append(account.trouble)
    return lines, rto_met and rpo_met


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"


def _rpo(lost: int | None) -> str:
    return "unknown" if lost is None else "0 s" if lost == 0 else f"{lost} lost"


def _met(met: bool) -> str:
    return "met" if met else "MISSED"
