"""`wmsctl node`: power of the local target's nodes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wmsctl import context as contexts
from wmsctl import hosts
from wmsctl.deadline import Deadline
from wmsctl.invocation import Invocation, of
from wmsctl.output import Cell, Printer, Styled

app = typer.Typer(
    help="Power of the local target's nodes: for faults in drills, and for fencing.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NodeName = Annotated[
    str,
    typer.Argument(
        metavar="NODE", help="A node, see `wmsctl node list`.", autocompletion=contexts.complete_node
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Give up after this long.")
]

STYLES = {"on": "good", "off": "bad", "dying": "bad", "frozen": "warn", "partly": "warn"}


@app.command("list")
def list_nodes(ctx: typer.Context) -> None:
    """List the nodes with their power: on, partly (a process is away), frozen, off (fenced).

    \b
    Example:
      wmsctl node list -o json
    """
    invocation = of(ctx)
    found = hosts.driver(invocation.inventory).survey()

    def view(printer: Printer) -> None:
        rows: list[list[Cell]] = [
            [
                node.node,
                node.role,
                node.zone,
                node.address,
                Styled(node.power, STYLES[node.power]),
                node.processes,
                node.reason or ("without " + ", ".join(node.down) if node.down else ""),
            ]
            for node in found
        ]
        printer.table(["NODE", "ROLE", "ZONE", "ADDRESS", "POWER", "PIDS", "NOTE"], rows)

    invocation.printer.document("nodes", found, view)


@app.command("kill")
def kill(
    ctx: typer.Context,
    node: NodeName,
    reason: Annotated[
        str, typer.Option("--reason", help="Written into the power-off file.")
    ] = "wmsctl node kill",
    yes: Yes = False,
    dry_run: DryRun = False,
    timeout: Timeout = 10.0,
) -> None:
    """Power NODE off like a pulled plug: fence it, SIGKILL all its processes, and prove that it is dead.

    It stays off, whatever its supervisor does, until `wmsctl node power-on`. Without --yes it asks first.

    \b
    Example:
      wmsctl node kill pg-1 --yes --reason "drill 12"
    """
    invocation = of(ctx)
    power = hosts.driver(invocation.inventory)
    living = power.processes(node)
    if _stop_here(
        invocation, f"kill {node}: fence it and SIGKILL {len(living)} processes", yes=yes, dry_run=dry_run
    ):
        return
    with invocation.audit.mutation("node kill", node=node, reason=reason) as facts:
        evidence = power.kill(node, reason=reason, deadline=Deadline.after(timeout))
        facts["evidence"] = {
            "powered_off": evidence.powered_off,
            "ports": len(evidence.ports),
            "at": evidence.at,
        }
    refused = f"{len(evidence.ports)} ports refuse"
    invocation.printer.document(
        "evidence",
        {**_plain(evidence), "dead": True},
        lambda p: p.text(f"{node} is dead: fenced, no process, {refused}"),
    )


@app.command("freeze")
def freeze(
    ctx: typer.Context, node: NodeName, yes: Yes = False, dry_run: DryRun = False, timeout: Timeout = 5.0
) -> None:
    """Stop every process of NODE where it stands (SIGSTOP): its ports still accept, and nothing answers.

    \b
    Example:
      wmsctl node freeze pg-2 --yes
    """
    invocation = of(ctx)
    power = hosts.driver(invocation.inventory)
    living = power.processes(node)
    if _stop_here(invocation, f"freeze {node}: SIGSTOP {len(living)} processes", yes=yes, dry_run=dry_run):
        return
    with invocation.audit.mutation("node freeze", node=node):
        count = power.freeze(node, deadline=Deadline.after(timeout))
    _done(
        invocation,
        node,
        "frozen",
        f"{node} stands still: {count} processes; thaw it with: wmsctl node thaw {node}",
    )


@app.command("thaw")
def thaw(ctx: typer.Context, node: NodeName, dry_run: DryRun = False, timeout: Timeout = 5.0) -> None:
    """Let a frozen NODE go on (SIGCONT).

    \b
    Example:
      wmsctl node thaw pg-2
    """
    invocation = of(ctx)
    power = hosts.driver(invocation.inventory)
    stopped = [process for process in power.processes(node) if process.stopped]
    if _stop_here(invocation, f"thaw {node}: SIGCONT {len(stopped)} processes", yes=True, dry_run=dry_run):
        return
    with invocation.audit.mutation("node thaw", node=node):
        count = power.thaw(node, deadline=Deadline.after(timeout))
    _done(invocation, node, "thawed", f"{node} goes on: {count} processes")


@app.command("power-on")
def power_on(ctx: typer.Context, node: NodeName, dry_run: DryRun = False, timeout: Timeout = 60.0) -> None:
    """Remove the fence of NODE, start its processes through the supervisor, and wait until they run.

    A PostgreSQL member that was failed over from comes back through `wmsctl failover rejoin`, which uses
    this.

    \b
    Example:
      wmsctl node power-on pg-1
    """
    invocation = of(ctx)
    power = hosts.driver(invocation.inventory)
    processes = ", ".join(invocation.inventory.node(node).processes)
    if _stop_here(
        invocation, f"power {node} on: start {processes or 'its processes'}", yes=True, dry_run=dry_run
    ):
        return
    with invocation.audit.mutation("node power-on", node=node):
        names = power.power_on(node, deadline=Deadline.after(timeout))
    _done(invocation, node, "on", f"{node} is on: {', '.join(names)}")


def _stop_here(invocation: Invocation, plan: str, *, yes: bool, dry_run: bool) -> bool:
    """Say the plan; True when it was only a dry run. Asks unless `yes`; raises Refused
    when the answer is no.
    """
    if dry_run:
        invocation.printer.document(
            "plan", {"dry_run": True, "steps": [plan]}, lambda p: p.text(f"would {plan}")
        )
        return True
    invocation.printer.progress(plan)
    invocation.printer.confirm("Go on?", yes=yes)
    return False


def _done(invocation: Invocation, node: str, power: str, message: str) -> None:
    invocation.printer.document("node", {"node": node, "power": power}, lambda p: p.text(message))


def _plain(value: Any) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(value)
    return document
