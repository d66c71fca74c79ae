"""`wmsctl status`: the platform at a glance."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from wmsctl.deadline import Deadline
from wmsctl.invocation import Invocation, of
from wmsctl.status import observe, view
from wmsctl.status.snapshot import Snapshot
from wmsctl.status.verdict import EXIT, Verdict, verdict

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(
    ctx: typer.Context,
    every: Annotated[float, typer.Argument(metavar="SECONDS", min=0.2, help="Interval of --watch.")] = 2.0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every SECONDS until Ctrl-C.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.2, help="Overall limit of one look.")
    ] = 5.0,
) -> None:
    """The platform at a glance: verdict, nodes, lag, pools, Redis, web, alerts.

    Everything is asked at once; what does not answer in time is shown as such. With --watch and -o json every
    look is one line.

    \b
    Examples:
      wmsctl status
      wmsctl status --watch 5
      wmsctl status -o json | jq .verdict

    \b
    Exit codes: 0 healthy; 5 degraded; 1 down (writes or requests from outside fail);
    4 nothing at all answers.
    """
    invocation = of(ctx)
    while True:
        started = time.monotonic()
        snapshot = observe.observe(invocation.clients, invocation.context.name, Deadline.after(timeout))
        judged = verdict(snapshot)
        if watch:
            invocation.printer.clear()
        _print(invocation, snapshot, judged, stream=watch)
        if not watch:
            raise typer.Exit(EXIT[judged.state])
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def _print(invocation: Invocation, snapshot: Snapshot, judged: Verdict, *, stream: bool) -> None:
    import msgspec

    document = {"verdict": msgspec.to_builtins(judged), **msgspec.to_builtins(snapshot)}
    invocation.printer.document(
        "status", document, lambda printer: view.draw(printer, snapshot, judged), stream=stream
    )
