"""`wmsctl backup`: make backups, and see what there is."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl import context as contexts
from wmsctl.backup import archive_command, escrow_command, restore_command, retention_command
from wmsctl.errors import Unreachable, Usage
from wmsctl.invocation import Invocation, of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wmsctl.backup.catalogue import Catalogue, Type
    from wmsctl.backup.engine import Engine
    from wmsctl.backup.run import Result
    from wmsctl.deadline import Deadline
    from wmsctl.output import Printer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

LOOK_S = 120.0
"""For reading the catalogue."""


class Kind(StrEnum):
    auto = "auto"
    full = "full"
    diff = "diff"
    incr = "incr"


TYPES: dict[Kind, Type | None] = {Kind.auto: None, Kind.full: "full", Kind.diff: "diff", Kind.incr: "incr"}

Repo = Annotated[int, typer.Option("--repo", metavar="N", min=1, max=9, help="The repository.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]


@app.callback()
def backup() -> None:
    """Backups: make them, see what there is."""


@app.command("run")
def run(
    ctx: typer.Context,
    kind: Annotated[
        Kind, typer.Option("--type", help="auto: whatever the schedule owes now, in every repository.")
    ] = Kind.auto,
    repo: Repo = 1,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NODE",
            help="Whose data to copy; without it a replica that streams, else the primary.",
            autocompletion=contexts.complete_node,
        ),
    ] = "",
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=10, help="Overall limit.")
    ] = 43_200.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Back the database up, and prove it: the backup is in the catalogue, no page in it is damaged, and all WAL that
    makes it consistent is in the archive.

    One backup at a time on all hosts. Killed in the middle it leaves nothing that counts; run it again.

    \b
    Examples:
      wmsctl backup run --dry-run
      wmsctl backup run --type full
      wmsctl backup run --type full --repo 2
    """
    from wmsctl.backup.run import Runner
    from wmsctl.backup.world import World
    from wmsctl.execution import LocalShell

    if kind is Kind.auto and repo != 1:
        raise Usage("--repo goes with a --type: auto does what is due in every repository")
    invocation = of(ctx)
    world = World(invocation.inventory, invocation.clients, LocalShell(invocation.inventory))
    runner = Runner(world, invocation.journal, invocation.audit, invocation.printer, yes=yes)
    results = runner.run(
        TYPES[kind],
        repo,
        source,
        deadline_s=deadline,
        dry_run=dry_run,
    )
    invocation.printer.document("backup.run", results, lambda printer: _results(printer, results))


@app.command("list")
def list_backups(
    ctx: typer.Context,
    repo: Annotated[int, typer.Option("--repo", metavar="N", min=0, max=9, help="Only this one.")] = 0,
) -> None:
    """The backups in every repository, oldest first, and the WAL beside them. Exits with 4 when a repository cannot be
    read.

    \b
    Example:
      wmsctl backup list -o json
    """
    from wmsctl.backup.view import listing, show_listing

    invocation = of(ctx)
    document = listing(_catalogue(invocation), repo)
    invocation.printer.document("backup.list", document, lambda printer: show_listing(printer, document))
    for repository in document.repositories:
        if repository.trouble:
            raise Unreachable(
                f"repo{repository.number} cannot be read: {repository.trouble}", hint="wmsctl status"
            )


@app.command("show")
def show(
    ctx: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="A backup, or `latest`.")],
    repo: Repo = 1,
) -> None:
    """One backup: its times, sizes, WAL, what it needs and what needs it.

    \b
    Examples:
      wmsctl backup show latest
      wmsctl backup show 20261124-000004F --repo 2 -o json
    """
    from wmsctl.backup.view import detail, show_detail

    invocation = of(ctx)
    document = detail(_catalogue(invocation), repo, label)
    invocation.printer.document("backup.show", document, lambda printer: show_detail(printer, document))


def _catalogue(invocation: Invocation) -> Catalogue:
    from wmsctl.deadline import Deadline

    return _Access().engine(invocation, Deadline.after(LOOK_S)).catalogue()


def _results(printer: Printer, results: list[Result]) -> None:
    for result in results:
        printer.text(f"{result.result}: {result.summary}", "dim" if result.result == "planned" else "good")
        if result.reason:
            printer.text(f"  because: {result.reason}")
        for number, step in enumerate(result.steps, 1):
            printer.text(f"  {number}. {step}")
        if result.wal:
            printer.text(f"  WAL: {result.wal[0]} to {result.wal[-1]}, in the archive")


class _Access:
    """RepositoryAccess, loaded when a command needs it: --help does not."""

    def engine(self, invocation: Invocation, deadline: Deadline) -> Engine:
        from wmsctl.backup.access import RepositoryAccess

        return RepositoryAccess().engine(invocation, deadline)

    def exclusively(self, invocation: Invocation, what: str) -> AbstractContextManager[None]:
        from wmsctl.backup.access import RepositoryAccess

        return RepositoryAccess().exclusively(invocation, what)


retention_command.register(app, _Access())
restore_command.register(app)
escrow_command.register(app)
archive_command.register(app, _Access())
