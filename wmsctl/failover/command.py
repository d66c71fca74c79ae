"""`wmsctl failover`: move the leadership, replace a lost primary, bring members back, and tell what
happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl import context as contexts
from wmsctl.invocation import Invocation, of
from wmsctl.output import Cell, Printer, Styled

if TYPE_CHECKING:
    from wmsctl.failover.history import Event
    from wmsctl.failover.run import Result, Runner

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

To = Annotated[
    str,
    typer.Option("--to", metavar="NODE", help="The member to lead.", autocompletion=contexts.complete_node),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]

STYLES = {"done": "good", "already": "good", "undone": "warn", "planned": "dim", "moved": "bad"}


@app.callback()
def failover() -> None:
    """Switchover, promotion, rejoin, and the history of them."""


@app.command("switchover")
def switchover(
    ctx: typer.Context,
    to: To = "",
    pause_deadline: Annotated[
        float,
        typer.Option(
            "--pause-deadline", metavar="SECONDS", min=0.1, max=20, help="Until the poolers are at rest."
        ),
    ] = 5.0,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="For everything after the pause.")
    ] = 30.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Hand the leadership to another member without an error for clients of the poolers: they are paused, the
    leadership moves, a write is proven through every proxy, and they are resumed.

    Without --to the best synchronous standby takes over. Sessions that bypass the poolers are cut.

    \b
    Examples:
      wmsctl failover switchover --dry-run
      wmsctl failover switchover --to pg-2 --yes
    """
    invocation = of(ctx)
    result = _runner(invocation, yes=yes).switchover(
        to, pause_s=pause_deadline, deadline_s=deadline, dry_run=dry_run
    )
    _print(invocation, "failover.switchover", result)


@app.command("promote")
def promote(
    ctx: typer.Context,
    to: To = "",
    fence: Annotated[
        bool,
        typer.Option("--fence", help="Power the lost node off, prove it dead, and end its lease at once."),
    ] = False,
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Promote although acknowledged commits may be lost.")
    ] = False,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 60.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Get a new primary after the loss of the old one, and prove that writes work.

    Refuses while the primary is well, and when an acknowledged commit could be lost. Without --fence it waits
    until the lease of the lost primary has run out. When Patroni was faster it proves the writes and is
    content.

    \b
    Examples:
      wmsctl failover promote --fence --yes
      wmsctl failover promote --allow-data-loss --dry-run
    """
    invocation = of(ctx)
    result = _runner(invocation, yes=yes).promote(
        to, fence=fence, allow_data_loss=allow_data_loss, deadline_s=deadline, dry_run=dry_run
    )
    _print(invocation, "failover.promote", result)


@app.command("rejoin")
def rejoin(
    ctx: typer.Context,
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE", help="The member to bring back.", autocompletion=contexts.complete_node
        ),
    ],
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Discard the member's data and copy the leader's.")
    ] = False,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 180.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Bring a former primary or a failed replica back as a streaming replica that counts for commits.

    Powers the node on if it is fenced. Patroni rewinds its data; when that is not enough it is rebuilt, after
    asking (--yes answers that, too).

    \b
    Examples:
      wmsctl failover rejoin pg-1
      wmsctl failover rejoin pg-1 --rebuild --yes
    """
    invocation = of(ctx)
    result = _runner(invocation, yes=yes).rejoin(node, rebuild=rebuild, deadline_s=deadline, dry_run=dry_run)
    _print(invocation, "failover.rejoin", result)


@app.command("resume")
def resume(
    ctx: typer.Context,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Per operation.")
    ] = 60.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Finish or undo what an interrupted wmsctl left: poolers are resumed, it is found out who leads, a write
    is proven, and the journal is closed. Nothing unfinished: nothing to do.

    \b
    Example:
      wmsctl failover resume
    """
    invocation = of(ctx)
    results = _runner(invocation, yes=yes).resume(deadline_s=deadline, dry_run=dry_run)

    def view(printer: Printer) -> None:
        if not results:
            printer.text("nothing is unfinished")
        for result in results:
            _view(printer, result)

    invocation.printer.document("failover.resume", results, view)


@app.command("maintenance")
def maintenance(
    ctx: typer.Context,
    state: Annotated[
        str, typer.Argument(metavar="[on|off|show]", help="on: Patroni watches but does not act.")
    ] = "show",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Patroni's maintenance mode. While it is on nothing fails over by itself, and wmsctl refuses to switch over,
    promote or rejoin.

    \b
    Examples:
      wmsctl failover maintenance
      wmsctl failover maintenance off
    """
    from wmsctl.deadline import Deadline
    from wmsctl.failover import maintenance as mode

    invocation = of(ctx)
    wanted = mode.parse(state)
    cluster = invocation.clients.patroni()
    if wanted is None or dry_run:
        on = cluster.paused()
        change = "" if wanted is None or wanted == on else f"; it would be turned {mode.word(wanted)}"
        invocation.printer.document(
            "failover.maintenance",
            {"maintenance": on, "dry_run": dry_run},
            lambda p: p.text(f"maintenance mode is {mode.word(on)}{change}"),
        )
        return
    if wanted:
        invocation.printer.progress("while it is on, a lost primary is not replaced")
        invocation.printer.confirm("Go on?", yes=yes)
    with invocation.audit.mutation("failover maintenance", state=mode.word(wanted)):
        mode.turn(cluster, wanted, Deadline.after(10.0))
    invocation.printer.document(
        "failover.maintenance",
        {"maintenance": wanted, "dry_run": False},
        lambda p: p.text(f"maintenance mode is {mode.word(wanted)}", "warn" if wanted else "good"),
    )


@app.command("history")
def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=0, help="At most N; 0: all.")] = 20,
) -> None:
    """Who led when, newest first: Patroni's changes of the timeline and wmsctl's operations as one list.

    \b
    Example:
      wmsctl failover history -o json
    """
    invocation = of(ctx)
    events = _runner(invocation, yes=False).history(limit)
    invocation.printer.document("failover.history", events, lambda printer: _events(printer, events))


def _runner(invocation: Invocation, *, yes: bool) -> Runner:
    from wmsctl.failover.run import Runner
    from wmsctl.failover.world import World

    world = World(invocation.inventory, invocation.clients, invocation.journal)
    return Runner(
        world, invocation.journal, invocation.audit, invocation.printer, invocation.command, yes=yes
    )


def _print(invocation: Invocation, thing: str, result: Result) -> None:
    invocation.printer.document(thing, result, lambda printer: _view(printer, result))


def _view(printer: Printer, result: Result) -> None:
    printer.text(f"{result.kind}: {result.result}", STYLES.get(result.result, ""))
    printer.text(f"  {result.summary}")
    for number, step in enumerate(result.steps, 1):
        printer.text(f"  {number}. {step}")
    if result.loss is not None:
        printer.text(f"  may be lost: {result.loss}", "bad")
    for name, value in result.measured.items():
        printer.text(f"  {name.replace('_', ' ')}: {value:.0f} ms")
    if result.proofs:
        printer.table(
            ["WRITE PROVEN VIA", "TIMELINE", "TRANSACTION", "MS"],
            [[p.via, p.timeline, p.transaction, p.took_ms] for p in result.proofs],
            indent=2,
        )


def _events(printer: Printer, events: list[Event]) -> None:
    rows: list[list[Cell]] = [
        [
            event.at[:19].replace("T", " "),
            event.kind,
            Styled(
                event.result, {"done": "good", "failed": "bad", "unfinished": "bad"}.get(event.result, "warn")
            ),
            event.old_leader or "-",
            event.leader or "-",
            event.timeline,
            event.operator,
            event.write_gap_ms,
            event.note[:40],
        ]
        for event in events
    ]
    printer.table(["AT (UTC)", "KIND", "RESULT", "FROM", "TO", "TL", "BY", "GAP MS", ""], rows)
