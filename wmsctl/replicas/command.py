"""`wmsctl replicas`: how far behind they are, and their replay."""

from __future__ import annotations

from typing import Annotated

import typer

from wmsctl import context as contexts
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, ObjectiveMissed, Refused, Unreachable
from wmsctl.invocation import Invocation, of
from wmsctl.output import Cell, Printer, Styled, size
from wmsctl.replicas import plan

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
)

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="A replica.", autocompletion=contexts.complete_node)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]


@app.callback()
def replicas(
    ctx: typer.Context,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Overall limit.")
    ] = 5.0,
) -> None:
    """List the replicas with their lag. Exits with 5 when one is beyond the limit (1000 ms by row D3), 4 when
    nobody can tell.

    \b
    Examples:
      wmsctl replicas
      wmsctl replicas -o json
      wmsctl replicas pause pg-3 --yes
    """
    if ctx.invoked_subcommand is not None:
        return
    from wmsctl import replication

    invocation = of(ctx)
    cluster = replication.observe(invocation.clients, Deadline.after(timeout))
    limit = invocation.inventory.thresholds.replication_lag_ms
    report = plan.report(cluster, limit)
    invocation.printer.document("replicas", report, lambda printer: _view(printer, report))
    if not report.primary and all(row.lag_ms is None for row in report.replicas):
        raise Unreachable(
            f"nobody can tell the lag: {cluster.trouble or 'there is no leader'}", hint="see: wmsctl status"
        )
    late = [row.node for row in report.replicas if not row.within]
    if late:
        raise ObjectiveMissed(
            f"beyond the lag limit of {limit} ms, or unknown: {', '.join(late)}",
            hint="see the trouble above; a paused replay goes on with: wmsctl replicas resume NODE",
        )


@app.command("pause")
def pause(ctx: typer.Context, node: NodeName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Pause the replay of WAL on NODE: it keeps receiving, and shows the past. Reads there get stale.

    Only in maintenance mode: otherwise Patroni resumes it at its next turn.

    \b
    Examples:
      wmsctl failover maintenance on
      wmsctl replicas pause pg-3 --yes
    """
    _replay(of(ctx), node, paused=True, yes=yes, dry_run=dry_run)


@app.command("resume")
def resume(ctx: typer.Context, node: NodeName, dry_run: DryRun = False) -> None:
    """Resume a paused replay on NODE.

    \b
    Example:
      wmsctl replicas resume pg-3
    """
    _replay(of(ctx), node, paused=False, yes=True, dry_run=dry_run)


def _replay(invocation: Invocation, node: str, *, paused: bool, yes: bool, dry_run: bool) -> None:
    """Observe, say, ask, apply, prove."""
    from wmsctl import replication
    from wmsctl.clients import postgres

    member = invocation.inventory.member(node)
    verb, printer = "pause" if paused else "resume", invocation.printer
    steps = plan.replay(replication.observe(invocation.clients, Deadline.after(5.0)), node, paused=paused)
    if paused and not invocation.clients.patroni().paused():
        raise Refused(
            "Patroni would resume the replay at its next turn: it is not in maintenance mode",
            hint="turn it on for the time of the pause: wmsctl failover maintenance on",
        )
    document = {"node": node, "replay_paused": paused, "changed": bool(steps), "dry_run": dry_run}
    if not steps or dry_run:
        text = "; ".join(f"would {step}" for step in steps) or f"replay on {node} is {verb}d already"
        printer.document("replay", document, lambda p: p.text(text))
        return
    for step in steps:
        printer.progress(step)
    printer.confirm("Go on?", yes=yes)
    with (
        invocation.audit.mutation(f"replicas {verb}", node=node),
        invocation.clients.superuser(member).connect(limit=10.0) as connection,
    ):
        if not postgres.server_state(connection).in_recovery:
            raise Refused(f"{node} became the primary meanwhile", hint="look again: wmsctl replicas")
        postgres.set_replay(connection, paused=paused)
        wait_until(
            lambda: postgres.server_state(connection).replay_paused == paused,
            Deadline.after(5.0),
            0.05,
            f"the replay on {node} to {verb}",
            error=Failed,
        )
    note = f"; resume it with: wmsctl replicas resume {node}" if paused else ""
    printer.document("replay", document, lambda p: p.text(f"replay on {node} is {verb}d{note}"))


def _view(printer: Printer, report: plan.Report) -> None:
    def lag(row: plan.Replica) -> Cell:
        return Styled("-" if row.lag_ms is None else str(row.lag_ms), "good" if row.within else "bad")

    printer.text(
        f"primary {report.primary or 'none'}, timeline {report.timeline or '-'}, limit {report.limit_ms} ms"
    )
    rows: list[list[Cell]] = [
        [
            row.node,
            row.replica_role or "replica",
            row.state,
            row.timeline,
            row.sync or "-",
            size(row.lag_bytes),
            lag(row),
            Styled("paused", "warn") if row.replay_paused else "",
            "yes" if row.within else Styled("no", "bad"),
            row.trouble,
        ]
        for row in report.replicas
    ]
    printer.table(["NODE", "FOR", "STATE", "TL", "SYNC", "LAG", "LAG MS", "REPLAY", "WITHIN", ""], rows)
