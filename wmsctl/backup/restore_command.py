"""`wmsctl backup restore`, `wmsctl backup scratch`: bring a moment back beside what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl import context as contexts
from wmsctl.errors import Usage
from wmsctl.invocation import Invocation, of

if TYPE_CHECKING:
    from wmsctl.backup.restore import Result, Runner
    from wmsctl.backup.scratch import Scratch
    from wmsctl.backup.world import World
    from wmsctl.output import Printer

LOOK_S = 60.0
MEGABYTE = 1_000_000

scratch = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Deadline = Annotated[float, typer.Option("--deadline", metavar="SECONDS", min=10, help="Overall limit.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `wmsctl backup`."""
    app.add_typer(scratch, name="scratch", help="Scratch instances: list them, drop one.")

    @app.command("restore")
    def restore(
        ctx: typer.Context,
        to: Annotated[
            str,
            typer.Option(
                "--to", metavar="TARGET", help="latest, time=…Z, lsn=…, xid=…, name=… or backup=LABEL."
            ),
        ] = "latest",
        name: Annotated[
            str,
            typer.Option("--name", metavar="NAME", help="Of the scratch instance; else made of the target."),
        ] = "",
        node: Annotated[
            str,
            typer.Option(
                "--on",
                metavar="NODE",
                help="Where; without it the node whose readers mind least.",
                autocompletion=contexts.complete_node,
            ),
        ] = "",
        timeline: Annotated[
            int, typer.Option("--timeline", metavar="N", min=0, help="Follow this one, not the latest.")
        ] = 0,
        repo: Annotated[
            int, typer.Option("--repo", metavar="N", min=0, max=9, help="Only from this repository.")
        ] = 0,
        label: Annotated[str, typer.Option("--set", metavar="LABEL", help="From this backup.")] = "",
        check: Annotated[
            bool, typer.Option("--check", help="Check every table and index afterwards (pg_amcheck).")
        ] = False,
        reserve: Annotated[
            float, typer.Option("--reserve", metavar="MB", min=0, help="What has to stay free on the disk.")
        ] = 1000.0,
        deadline: Deadline = 43_200.0,
        dry_run: DryRun = False,
    ) -> None:
        """Restore into a scratch instance beside the platform, and prove that it is at the moment asked for.

        It is reached by a socket on its node only, archives nothing, and nothing that runs is touched. Killed in the
        middle, the same command takes it up again.

        \b
        Examples:
          wmsctl backup restore --to latest --dry-run
          wmsctl backup restore --to time=2026-11-24T13:00:00Z --name before-the-deploy --check
          wmsctl backup restore --to backup=20261124-000004F --on pg-4
        """
        from wmsctl.backup.restore import Request
        from wmsctl.backup.restore_plan import target

        invocation = of(ctx)
        request = Request(
            target(to),
            name,
            node,
            timeline or None,
            repo or None,
            label,
            check,
            round(reserve * MEGABYTE),
        )
        result = _runner(invocation).run(request, deadline_s=deadline, dry_run=dry_run)
        invocation.printer.document("backup.restore", result, lambda printer: _result(printer, result))


@scratch.callback()
def instances() -> None:
    """Scratch instances: what `wmsctl backup restore` has made."""


@scratch.command("list")
def list_scratch(ctx: typer.Context) -> None:
    """The scratch instances on every node that is on.

    \b
    Example:
      wmsctl backup scratch list
    """
    from wmsctl.deadline import Deadline as Limit

    invocation = of(ctx)
    found = _world(invocation).scratches(Limit.after(LOOK_S))
    invocation.printer.document("backup.scratch.list", found, lambda printer: _listing(printer, found))


@scratch.command("drop")
def drop(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="See: wmsctl backup scratch list.")],
    deadline: Deadline = 600.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """End a scratch instance and remove its folder.

    \b
    Example:
      wmsctl backup scratch drop before-the-deploy --yes
    """
    if not name:
        raise Usage("which one? See: wmsctl backup scratch list")
    invocation = of(ctx)
    runner = _runner(invocation)
    found = runner.drop(name, deadline_s=deadline, dry_run=True)
    if not dry_run:
        invocation.printer.confirm(f"Remove {found.socket} on {found.node}, {found.target}?", yes=yes)
        runner.drop(name, deadline_s=deadline)
    document = {
        "result": "planned" if dry_run else "done",
        "name": name,
        "node": found.node,
        "bytes": found.size,
    }
    word = "would be removed" if dry_run else "removed"
    invocation.printer.document(
        "backup.scratch.drop",
        document,
        lambda printer: printer.text(f"{word}: {found.socket} on {found.node}"),
    )


def _world(invocation: Invocation) -> World:
    from wmsctl.backup.world import World
    from wmsctl.execution import LocalShell

    return World(invocation.inventory, invocation.clients, LocalShell(invocation.inventory))


def _runner(invocation: Invocation) -> Runner:
    from wmsctl.backup.restore import Runner

    return Runner(_world(invocation), invocation.journal, invocation.audit, invocation.printer)


def _result(printer: Printer, result: Result) -> None:
    printer.text(f"{result.result}: {result.summary}", "dim" if result.result == "planned" else "good")
    for number, step in enumerate(result.steps, 1):
        printer.text(f"  {number}. {step}")
    if result.reached:
        found = result.reached
        printer.text(
            f"  at LSN {found['lsn']} of timeline {found['timeline']}: recovery ended {found['reason'] or 'there'}"
        )
        if result.socket:
            printer.text(f"  psql -h {result.socket} -U postgres")
    for note in (*result.notes, *result.passed_over):
        printer.text(f"  {note}")


def _listing(printer: Printer, found: list[Scratch]) -> None:
    from wmsctl.output import size

    if not found:
        printer.text("no scratch instances")
        return
    printer.table(
        ("name", "node", "state", "server", "size", "target", "backup", "created"),
        [
            (
                each.name,
                each.node,
                each.state,
                "running" if each.running else "stopped",
                size(each.size),
                each.target,
                each.backup,
                each.created,
            )
            for each in found
        ],
    )
