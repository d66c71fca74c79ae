"""`wmsctl partitions`: tables partitioned by time, their partitions ahead, behind, and in the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl.invocation import Invocation, of
from wmsctl.output import Printer

if TYPE_CHECKING:
    from wmsctl.partitions.run import Result, Runner

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Partitions by time: status, maintenance, archive, and the way back.",
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]

STYLES = {"done": "good", "already": "good", "planned": "dim", "failed": "bad"}


@app.callback()
def partitions() -> None:
    """Tables partitioned by time (row D4)."""


@app.command("status")
def status(
    ctx: typer.Context,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 30.0,
) -> None:
    """Past and future partitions, their sizes and rows, rows in a default partition, and what is archived.

    Exits with 5 when the current or the next partition is missing.

    \b
    Example:
      wmsctl partitions status -o json
    """
    from wmsctl.deadline import Deadline
    from wmsctl.errors import Failed, ObjectiveMissed
    from wmsctl.partitions import view

    invocation = of(ctx)
    found = view.status(_runner(invocation, yes=False).look(Deadline.after(deadline), sizes=True))
    invocation.printer.document("partitions", found, lambda printer: view.draw(printer, found))
    if troubles := [table.trouble for table in found.tables if table.trouble]:
        raise Failed("; ".join(troubles), hint="the declaration is wrong, or the service's schema is missing")
    if found.missing:
        raise ObjectiveMissed(f"missing: {', '.join(found.missing)}", hint="run: wmsctl partitions maintain")


@app.command("maintain")
def maintain(
    ctx: typer.Context,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 600.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Make the partitions ahead, bring rows home from a default partition, mend indexes, gather statistics, drop what
    was archived long enough ago.

    Safe beside any load: no client waits for it. Run again after an interruption, it goes on.

    \b
    Examples:
      wmsctl partitions maintain --dry-run
      wmsctl partitions maintain --yes
    """
    from wmsctl.deadline import Deadline

    invocation = of(ctx)
    result = _runner(invocation, yes=yes).maintain(Deadline.after(deadline), dry_run=dry_run)
    _print(invocation, "partitions.maintain", result)


Name = Annotated[str, typer.Argument(metavar="PARTITION", help="Such as inventory_transactions_2024_01.")]
Deadline_h = Annotated[
    float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit; run again, it goes on.")
]


@app.command("archive")
def archive(
    ctx: typer.Context,
    partitions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PARTITION]...", help="Which; without, all that are due.", show_default=False
        ),
    ] = None,
    part_mb: Annotated[
        int,
        typer.Option(
            "--part-mb", metavar="MB", min=1, max=1024, help="Rows in memory at a time, and in a file."
        ),
    ] = 48,
    early: Annotated[
        bool,
        typer.Option("--early", help="Also one of the months that stay online; it has to be over for a day."),
    ] = False,
    deadline: Deadline_h = 21_600.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take old partitions out of the database: freeze, carry their balances forward, detach beside the traffic, export
    to the object store, read back, compare. Their tables are kept for some days and then dropped by `maintain`.

    Nothing is dropped before its archive was proven. Killed anywhere, run it again: it goes on.

    \b
    Examples:
      wmsctl partitions archive --dry-run
      wmsctl partitions archive --yes
      wmsctl partitions archive inventory_transactions_2024_01 --yes
    """
    from wmsctl.deadline import Deadline

    invocation = of(ctx)
    result = _runner(invocation, yes=yes).archive(
        tuple(partitions or ()),
        Deadline.after(deadline),
        early=early,
        part_bytes=part_mb << 20,
        dry_run=dry_run,
    )
    _print(invocation, "partitions.archive", result)


@app.command("unarchive")
def unarchive(
    ctx: typer.Context,
    partition: Name,
    deadline: Deadline_h = 21_600.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Bring an archived partition back, attached, byte for byte what it was; from its table while that is kept, else
    from the store. It takes no changes.

    \b
    Example:
      wmsctl partitions unarchive inventory_transactions_2024_01 --yes
    """
    from wmsctl.deadline import Deadline

    invocation = of(ctx)
    result = _runner(invocation, yes=yes).unarchive(partition, Deadline.after(deadline), dry_run=dry_run)
    _print(invocation, "partitions.unarchive", result)


@app.command("verify")
def verify(
    ctx: typer.Context,
    partition: Annotated[
        str, typer.Argument(metavar="[PARTITION]", help="Which; without, all.", show_default=False)
    ] = "",
    load: Annotated[
        bool, typer.Option("--load", help="Also load them into a scratch table and compare the rows.")
    ] = False,
    deadline: Deadline_h = 21_600.0,
) -> None:
    """Read every file of the archives in the store and compare them with their manifests, and those with the record.

    Exits with 1 when anything is missing or damaged. Changes nothing.

    \b
    Examples:
      wmsctl partitions verify
      wmsctl partitions verify inventory_transactions_2024_01 --load
    """
    from wmsctl.deadline import Deadline
    from wmsctl.errors import Failed
    from wmsctl.partitions import view

    invocation = of(ctx)
    found = _runner(invocation, yes=True).verify(partition, Deadline.after(deadline), load=load)
    invocation.printer.document(
        "partitions.verify", found, lambda printer: view.draw_verified(printer, found)
    )
    if not found.whole:
        damaged = [each.partition for each in found.archives if not each.whole]
        raise Failed(
            f"not whole: {', '.join(damaged)}",
            hint="a kept table can be brought back and archived again: wmsctl partitions unarchive PARTITION",
        )


@app.command("plan")
def plan(
    ctx: typer.Context,
    months: Annotated[
        int, typer.Option("--months", metavar="N", min=1, max=1200, help="How far to look.")
    ] = 12,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 30.0,
) -> None:
    """What daily maintenance and archiving will do in the months to come: made, archived, dropped, deleted.

    \b
    Example:
      wmsctl partitions plan --months 24
    """
    from wmsctl.deadline import Deadline
    from wmsctl.partitions import view

    invocation = of(ctx)
    found = view.planned(_runner(invocation, yes=False).forecast(months, Deadline.after(deadline)))
    invocation.printer.document("partitions.plan", found, lambda printer: view.draw_planned(printer, found))


def _runner(invocation: Invocation, *, yes: bool) -> Runner:
    from wmsctl.partitions.run import Runner

    return Runner(
        invocation.inventory,
        invocation.clients,
        invocation.journal,
        invocation.audit,
        invocation.printer,
        invocation.command,
        yes=yes,
    )


def _print(invocation: Invocation, thing: str, result: Result) -> None:
    invocation.printer.document(thing, result, lambda printer: _view(printer, result))


def _view(printer: Printer, result: Result) -> None:
    printer.text(f"{result.result} on {result.server}", STYLES.get(result.result, ""))
    for number, step in enumerate(result.steps, 1):
        printer.text(f"  {number}. {step.detail}")
    for name, value in result.measured.items():
        printer.text(f"  {name.replace('_', ' ')}: {value:.2f} s")
