"""What plan, expire and verify print: documents for programs, tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from wmsctl.backup import periods, retention
from wmsctl.backup.checks import Verified
from wmsctl.backup.expiry import Outcome
from wmsctl.backup.retention import Decision, Plan, Policy
from wmsctl.backup.simulate import Day
from wmsctl.backup.windows import Window
from wmsctl.output import Cell, Printer, Styled

SHOWN = 12
"""Lines of what goes and of what is lost that a table shows."""


def moment(at: datetime | None) -> str | None:
    """UTC ISO 8601 to the second."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def short(at: datetime | None) -> str:
    """For a table."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M}"


# The plan for now


def decision_document(decision: Decision) -> dict[str, Any]:
    """One backup, and why it stays."""
    backup = decision.backup
    return {
        "repo": backup.repo,
        "label": backup.label,
        "type": backup.type,
        "started": moment(backup.started),
        "stopped": moment(backup.stopped),
        "sound": decision.sound,
        "proven": moment(decision.held.proven),
        "bad": decision.held.bad,
        "keep": decision.keep,
        "until": str(decision.until) if decision.until else None,
        "reasons": [
            {"kind": r.kind, "text": r.text, "until": str(r.until) if r.until else None}
            for r in decision.reasons
        ],
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """What would be done at once."""
    return {
        "at": moment(plan.now),
        "backups": [decision_document(decision) for decision in plan.decisions],
        "expire": [{"repo": backup.repo, "label": backup.label} for backup in plan.expire],
        "wal_from": [{"repo": f.repo, "label": f.label, "backups": f.kept} for f in plan.floors],
        "windows_before": _windows(plan.before),
        "windows_after": _windows(plan.after),
        "windows_lost": _windows(plan.lost),
        "holes": [{"tier": hole.tier, "period": hole.period} for hole in plan.holes],
        "refusals": list(plan.refusals),
    }


def _windows(found: Iterable[Window]) -> list[dict[str, str | None]]:
    return [{"begin": moment(window.begin), "end": moment(window.end)} for window in found]


def decisions(printer: Printer, plan: Plan) -> None:
    """Every backup, what it is kept for, and until when."""
    rows: list[list[Cell]] = []
    for decision in plan.decisions:
        backup = decision.backup
        if decision.held.bad or backup.damaged:
            state = Styled("damaged", "bad")
        elif not decision.sound:
            state = Styled("unsound", "bad")
        else:
            state = Styled("proven", "good") if decision.held.proven else Styled("unproven", "warn")
        reasons = ", ".join(reason.text for reason in decision.reasons)
        until = str(decision.until) if decision.until else "-"
        verdict: Cell = until if decision.keep else Styled("goes", "warn")
        rows.append([f"repo{backup.repo}", backup.label, backup.type, state, verdict, reasons[:60]])
    printer.table(["REPO", "LABEL", "TYPE", "STATE", "UNTIL", "KEPT FOR"], rows)


def consequences(plan: Plan, segments: int) -> list[str]:
    """In lines: what goes, in order; what can no longer be restored to; what is missing; what forbids it."""
    lines: list[str] = []
    if plan.expire:
        lines += _some(
            f"{len(plan.expire)} backups go, in this order:", [backup.name for backup in plan.expire]
        )
    else:
        lines.append("No backup is due to go.")
    if segments:
        lines.append(f"{segments} WAL segments go: nothing that is promised needs them.")
    if plan.lost:
        lines += _some("This can no longer be restored to then:", [str(window) for window in plan.lost])
    if plan.holes:
        lines += _some("Without a sound backup:", [f"{hole.tier}: {hole.period}" for hole in plan.holes])
    return lines + [f"Refused: {refusal}" for refusal in plan.refusals]


def _some(title: str, lines: Sequence[str]) -> list[str]:
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [title, *(f"  {line}" for line in lines[:SHOWN]), *more]


# The simulation


@dataclass(frozen=True)
class Row:
    """What exists at the end of one day."""

    day: str
    repositories: dict[str, dict[str, int]]
    """repo<n> → type → count."""
    tiers: dict[str, int]
    """Tier → how many backups stand for it."""
    oldest: dict[str, str]
    """Tier → the day of the oldest."""
    point_in_time_since: str | None
    made: int
    """Since the row before."""
    expired: int
    failed: int
    holes: int


def sampled(days: Iterable[Day], policy: Policy, every: periods.Unit, last: date) -> list[Row]:
    """A row for the end of each `every`, and one for the first and the last day."""
    rows: list[Row] = []
    made = expired = failed = 0
    for found in days:
        made, expired, failed = (
            made + len(found.made),
            expired + len(found.expired),
            failed + len(found.failed),
        )
        following = periods.later(found.day, "day", 1)
        ends = periods.first_day(following, every, policy.week_start) == following
        if rows and not ends and found.day != last:
            continue
        rows.append(_row(found, policy, made, expired, failed))
        made = expired = failed = 0
    return rows


def _row(found: Day, policy: Policy, made: int, expired: int, failed: int) -> Row:
    # As the day itself sees them: what is due at midnight is still there.
    end = periods.midnight(periods.later(found.day, "day", 1)) - timedelta(seconds=1)
    plan = retention.plan(
        [replace(h, reach=end if h.reach is not None else None) for h in found.held], policy, end
    )
    counts: dict[str, Counter[str]] = {}
    for held in found.held:
        counts.setdefault(f"repo{held.backup.repo}", Counter())[held.backup.type] += 1
    tiers: dict[str, list[date]] = {tier.name: [] for tier in policy.tiers}
    for decision in plan.decisions:
        for reason in decision.reasons:
            if reason.kind in tiers:
                tiers[reason.kind].append(periods.day_of(decision.backup.started))
    return Row(
        day=str(found.day),
        repositories={name: dict(sorted(count.items())) for name, count in sorted(counts.items())},
        tiers={name: len(days) for name, days in tiers.items()},
        oldest={name: str(min(days)) for name, days in tiers.items() if days},
        point_in_time_since=moment(found.restorable_since),
        made=made,
        expired=expired,
        failed=failed,
        holes=len(plan.holes),
    )


def simulation(printer: Printer, rows: Sequence[Row], policy: Policy) -> None:
    """The table of what exists at dates."""
    names = sorted({name for row in rows for name in row.repositories})
    columns = ["AT THE END OF", *(f"{name} F/D/I".upper() for name in names), "MADE", "GONE"]
    columns += ["POINT IN TIME SINCE", *(f"OLDEST {tier.name}".upper() for tier in policy.tiers)]
    table: list[list[Cell]] = []
    for row in rows:
        counts = [row.repositories.get(name, {}) for name in names]
        table.append(
            [
                row.day,
                *("/".join(str(count.get(kind, 0)) for kind in ("full", "diff", "incr")) for count in counts),
                row.made,
                row.expired,
                (row.point_in_time_since or "-")[:16].replace("T", " "),
                *(row.oldest.get(tier.name, "-") for tier in policy.tiers),
            ]
        )
    printer.table(columns, table)


# What was done


def outcome_document(
    plan: Plan, outcome: Outcome | None, foretold: dict[int, int], *, dry_run: bool
) -> dict[str, Any]:
    """Of expire: the plan, and what became of it; without an outcome nothing was removed."""
    removed = [] if outcome is None else [{"repo": b.repo, "label": b.label} for b in outcome.backups]
    return {
        **plan_document(plan),
        "wal_segments": [{"repo": repo, "count": count} for repo, count in sorted(foretold.items()) if count],
        "dry_run": dry_run,
        "removed": removed,
        "removed_wal_segments": [] if outcome is None else [
            {"repo": repo, "count": count} for repo, count in sorted(outcome.segments.items())
        ],
        "warnings": [] if outcome is None else outcome.warnings,
    }  # fmt: skip


def verified_document(found: Verified, at: datetime, remembered: int) -> dict[str, Any]:
    """Of verify."""
    return {
        "at": moment(at),
        "whole": not found.troubles and not found.unreadable,
        "backups": [
            {
                "repo": f.backup.repo,
                "label": f.backup.label,
                "type": f.backup.type,
                "state": f.state,
                "files": f.files,
                "manifest_sha256": f.sha256,
                "wal_until": moment(f.until),
                "troubles": list(f.troubles),
                "warnings": list(f.warnings),
                "notes": list(f.notes),
                "gaps": [
                    {
                        "first": gap.first,
                        "last": gap.last,
                        "segments": gap.count,
                        "after": moment(gap.after),
                        "before": moment(gap.before),
                    }
                    for gap in f.gaps
                ],
            }
            for f in found.backups
        ],
        "archives": [
            {
                "repo": a.repo,
                "archive": a.id,
                "segments": a.checked,
                "first": a.first,
                "last": a.last,
                "last_stored": moment(a.stored),
                "timeline": a.timeline,
                "troubles": list(a.troubles),
            }
            for a in found.archives
        ],
        "unreadable": list(found.unreadable),
        "troubles": list(found.troubles),
        "remembered": remembered,
    }


def verified(printer: Printer, found: Verified) -> None:
    """A line for each backup and each archive, then what is wrong."""
    style = {"whole": "good", "damaged": "bad", "unknown": "warn"}
    printer.table(
        ["REPO", "LABEL", "TYPE", "STATE", "FILES", "WAL UNTIL (UTC)", "GAPS"],
        [
            [
                f"repo{f.backup.repo}", f.backup.label, f.backup.type, Styled(f.state, style[f.state]), f.files,
                short(f.until), len(f.gaps),
            ]
            for f in found.backups
        ],
    )  # fmt: skip
    printer.table(
        ["REPO", "ARCHIVE", "SEGMENTS", "FIRST", "LAST", "STORED (UTC)", "TIMELINE"],
        [
            [f"repo{a.repo}", a.id, a.checked, a.first, a.last, short(a.stored), a.timeline]
            for a in found.archives
        ],
    )
    for line in (*found.troubles, *(f"not verified: {trouble}" for trouble in found.unreadable)):
        printer.text(line, "bad")
    if not found.troubles and not found.unreadable:
        printer.text(
            "Every file has its checksum, and WAL is unbroken from where it is promised to its end.", "good"
        )
