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
