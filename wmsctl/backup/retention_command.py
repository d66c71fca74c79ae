"""`wmsctl backup plan|expire|verify`: what is kept, what goes, and whether it is whole."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from wmsctl.errors import Failed, Refused, Unreachable, Usage
from wmsctl.invocation import Invocation, of

if TYPE_CHECKING:
    from wmsctl.backup.engine import Engine
    from wmsctl.backup.periods import Unit
    from wmsctl.backup.retention import Key, Plan
    from wmsctl.deadline import Deadline
    from wmsctl.output import Printer

NAMED = re.compile(r"repo(\d+):(\d{8}-\d{6}F(?:_\d{8}-\d{6}[DI])?)\Z")
SIMULATED_YEARS = 30
"""At most: each takes half a second."""
LOOK_S = 120.0
"""For reading the catalogue and listing the WAL."""
WHY = "see what is kept, and for what: wmsctl backup plan"


class Access(Protocol):
    """How the commands reach a platform's repositories."""

    def engine(self, invocation: Invocation, deadline: Deadline) -> Engine:
        """pgBackRest, where it can read and remove."""
        ...

    def exclusively(self, invocation: Invocation, what: str) -> AbstractContextManager[None]:
        """Hold off backups and expiries of every host during the body. Raises Refused saying who holds it."""
        ...


class Every(StrEnum):
    day = "day"
    week = "week"
    month = "month"
    year = "year"


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]


def register(app: typer.Typer, access: Access) -> None:
    """Add the commands to `wmsctl backup`."""

    @app.command("plan")
    def plan(
        ctx: typer.Context,
        years: Annotated[
            int, typer.Option("--years", metavar="N", min=0, max=SIMULATED_YEARS, help="How far.")
        ] = 0,
        days: Annotated[
            int, typer.Option("--days", metavar="N", min=0, max=3660, help="How far, in days.")
        ] = 0,
        since: Annotated[
            str,
            typer.Option(
                "--from", metavar="DATE", help="Begin on this day (YYYY-MM-DD), with nothing there."
            ),
        ] = "",
        every: Annotated[Every | None, typer.Option("--every", help="How often a line is shown.")] = None,
    ) -> None:
        """What is kept, for what and until when; what schedule and retention will do (row R5).

        Without options: every backup there is, and what would go now. With --years or --days the schedule is played
        forward from here day by day; with --from it begins with nothing there, and no repository is asked.

        \b
        Examples:
          wmsctl backup plan
          wmsctl backup plan --years 7 --from 2027-01-01
        """
        _plan(of(ctx), access, 365 * years + years // 4 + days, _day(since), every)

    @app.command("expire")
    def expire(
        ctx: typer.Context,
        named: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="REPO:LABEL", help="Also this one, such as repo1:20261101-000002F."
            ),
        ] = None,
        timeout: Annotated[
            float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Overall limit.")
        ] = 3600.0,
        yes: Yes = False,
        dry_run: DryRun = False,
    ) -> None:
        """Remove the backups whose time is over, and the WAL that nothing promised needs any more.

        Refused (3) when a promised restore window would be lost, a chain broken, or nothing proven left.

        \b
        Example:
          wmsctl backup expire --dry-run
        """
        _expire(of(ctx), access, _keys(named or ()), timeout, yes=yes, dry_run=dry_run)

    @app.command("verify")
    def verify(
        ctx: typer.Context,
        repo: Annotated[
            list[int] | None,
            typer.Option("--repo", metavar="N", help="Only this repository; may be repeated."),
        ] = None,
        timeout: Annotated[
            float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Overall limit.")
        ] = 14400.0,
        forget: Annotated[
            bool, typer.Option("--do-not-remember", help="Write no result into the repository.")
        ] = False,
    ) -> None:
        """Prove every checksum, and an unbroken chain of WAL from each backup; remember what was found.

        Exits with 1 when anything is damaged or missing, 4 when a repository cannot be read.

        \b
        Example:
          wmsctl backup verify --repo 1
        """
        _verify(of(ctx), access, tuple(repo or ()), timeout, remember=not forget)


def _plan(invocation: Invocation, access: Access, days: int, since: date | None, every: Every | None) -> None:
    from wmsctl.backup import retention, retention_view, settings, simulate
    from wmsctl.backup.observe import look
    from wmsctl.backup.retention import Held
    from wmsctl.deadline import Deadline

    section = settings.section(invocation.inventory)
    policy, schedule = settings.policy(section), settings.schedule(section)
    now = datetime.now(UTC)
    held: tuple[Held, ...] = ()
    found = None
    if since is None:
        seen = look(access.engine(invocation, Deadline.after(LOOK_S)))
        for trouble in seen.troubles:
            invocation.printer.warn(trouble)
        held = seen.held
        found = retention.plan(held, policy, now)
    days = days or (365 if since else 0)
    unit: Unit = every.value if every else "day" if days <= 31 else "month" if days <= 1100 else "year"
    first = since or now.date()
    rows = []
    if days:
        played = simulate.run(simulate.World(schedule, policy), first, days, held, None if since else now)
        rows = retention_view.sampled(played, policy, unit, first + timedelta(days=days - 1))
    document = {
        "now": retention_view.plan_document(found) if found else None,
        "policy": policy,
        "from": str(first),
        "days": days,
        "simulated": rows,
    }

    def view(printer: Printer) -> None:
        if found is not None and not days:
            retention_view.decisions(printer, found)
            for line in retention_view.consequences(found, 0):
                printer.text(line)
        if rows:
            retention_view.simulation(printer, rows, policy)

    invocation.printer.document("backup.plan", document, view)


def _expire(
    invocation: Invocation,
    access: Access,
    named: tuple[Key, ...],
    timeout: float,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    from wmsctl.backup import expiry, retention, retention_view, settings
    from wmsctl.backup.observe import look
    from wmsctl.deadline import Deadline
    from wmsctl.steps import Steps

    policy = settings.policy(settings.section(invocation.inventory))
    printer = invocation.printer
    engine = access.engine(invocation, Deadline.after(timeout))
    seen = look(engine)
    for trouble in seen.troubles:
        printer.warn(f"{trouble}; nothing is removed there")
    planned = retention.plan(seen.held, policy, datetime.now(UTC), named)
    foretold = expiry.counted(expiry.foretell(seen, planned))
    segments = sum(foretold.values())
    refused = bool(planned.refusals) and bool(planned.expire or named or segments)
    outcome = None
    if not dry_run and not refused and (planned.expire or segments):
        for line in retention_view.consequences(planned, segments):
            printer.progress(line)
        printer.confirm(f"Remove {len(planned.expire)} backups and {segments} WAL segments?", yes=yes)
        with access.exclusively(invocation, "expire"), invocation.journal.lock(invocation.command):
            again = retention.plan(look(engine).held, policy, datetime.now(UTC), named)
            _same(planned, again)
            names = [backup.name for backup in again.expire]
            record = invocation.journal.begin("backup expire", retention_view.plan_document(again))
            with invocation.audit.mutation("backup expire", backups=names) as facts:
                try:
                    outcome = expiry.apply(engine, again, Steps(record, printer.progress))
                except Exception as error:
                    record.finish("refused" if isinstance(error, Refused) else "failed", error=str(error))
                    raise
                facts["wal_segments"] = {f"repo{repo}": n for repo, n in outcome.segments.items()}
            record.finish("done", removed=names)
    document = retention_view.outcome_document(planned, outcome, foretold, dry_run=dry_run)

    def view(printer: Printer) -> None:
        if outcome is None:
            for line in retention_view.consequences(planned, segments):
                printer.text(line)
            return
        count = sum(outcome.segments.values())
        printer.text(f"{len(outcome.backups)} backups and {count} WAL segments removed, nothing else", "good")
        for warning in outcome.warnings:
            printer.text(warning, "warn")

    printer.document("backup.expire", document, view)
    if refused:
        raise Refused(planned.refusals[0], hint=WHY)


def _same(planned: Plan, again: Plan) -> None:
    """What was confirmed is what goes. Raises Refused when it is something else by now."""
    if again.refusals:
        raise Refused(again.refusals[0], hint=WHY)
    before, now = ({backup.name for backup in each.expire} for each in (planned, again))
    if before != now:
        differing = ", ".join(sorted(before ^ now)[:3])
        raise Refused(
            f"the repositories have changed since this was planned: {differing}; nothing was removed",
            hint="look again: wmsctl backup expire --dry-run",
        )


def _verify(
    invocation: Invocation, access: Access, repos: tuple[int, ...], timeout: float, *, remember: bool
) -> None:
    from wmsctl.backup import checks, retention, retention_view, settings
    from wmsctl.deadline import Deadline

    section = settings.section(invocation.inventory)
    policy = settings.policy(section)
    known = tuple(repository.number for repository in section.repositories)
    unknown = [repo for repo in repos if repo not in known]
    if unknown:
        raise Usage(f"there is no repo{unknown[0]}; there are: {', '.join(f'repo{n}' for n in known)}")
    engine = access.engine(invocation, Deadline.after(timeout))
    at = datetime.now(UTC)
    found = checks.verify(
        engine,
        repos or known,
        lambda seen: retention.carried_from(seen.held, policy, at),
        invocation.printer.progress,
    )
    remembered = 0
    if remember and found.backups:
        with access.exclusively(invocation, "verify"), invocation.audit.mutation("backup verify") as facts:
            remembered = checks.remember(engine, found.backups, at)
            facts["whole"] = [f.backup.name for f in found.backups if f.state == "whole"]
            facts["damaged"] = [f.backup.name for f in found.backups if f.state == "damaged"]
    document = retention_view.verified_document(found, at, remembered)
    invocation.printer.document("backup.verify", document, lambda p: retention_view.verified(p, found))
    if found.troubles:
        raise Failed(
            f"{len(found.troubles)} troubles; the first: {found.troubles[0]}",
            hint="take a new backup (wmsctl backup run --type full), then verify again",
        )
    if found.unreadable:
        raise Unreachable(found.unreadable[0], hint="wmsctl status")


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Usage(f"{text!r} is no day", hint="one looks like 2027-01-31") from None


def _keys(named: list[str] | tuple[str, ...]) -> tuple[Key, ...]:
    keys = []
    for text in named:
        found = NAMED.match(text)
        if found is None:
            raise Usage(f"{text!r} names no backup", hint="one looks like repo1:20261101-000002F")
        keys.append((int(found[1]), found[2]))
    return tuple(keys)
