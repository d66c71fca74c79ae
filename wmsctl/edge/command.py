"""`wmsctl edge`: the caches at the edge."""

from __future__ import annotations

from typing import Annotated

import typer

from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable
from wmsctl.invocation import of
from wmsctl.output import Cell, Printer, Styled

app = typer.Typer(
    help="The caches at the edge: make what is kept there go.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def edge() -> None:
    """The caches at the edge."""


@app.command("purge")
def purge(
    ctx: typer.Context,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="What has this surrogate key; may be repeated."),
    ] = None,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="One URL, in all its variants.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Everything; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Overall limit.")
    ] = 15.0,
) -> None:
    """Purge every edge. Exits with 4 when one cannot be reached, 1 when one refuses: purge again then.

    Behind the edges nothing public is kept. What gateways keep for tenants goes with a new generation of the
    tenant's data, within seconds.

    \b
    Examples:
      wmsctl edge purge --key web
      wmsctl edge purge --url '/images/parafuso?w=96'
      wmsctl edge purge --all --yes
    """
    from wmsctl.edge import purge as purging

    invocation = of(ctx)
    wanted = purging.wanted(key or (), url, everything)
    inventory, printer = invocation.inventory, invocation.printer
    nodes = [endpoint.node for endpoint in inventory.web.edges]
    if not nodes or not inventory.web.purge:
        raise Refused(
            f"the platform {inventory.platform} has no edge that can be purged",
            hint="import its inventory again after make up: wmsctl context import",
        )
    step = f"purge {wanted.text} on {', '.join(nodes)}"
    if dry_run:
        printer.document("plan", {"dry_run": True, "steps": [step]}, lambda p: p.text(f"would {step}"))
        return
    printer.progress(step)
    # Every request goes to the gateways until the caches are full again.
    printer.confirm("Go on?", yes=yes or not everything)
    token = invocation.secrets.get(inventory.web.purge)
    with invocation.audit.mutation("edge purge", what=wanted.text) as facts:
        results = purging.run(inventory, token, wanted, Deadline.after(timeout))
        facts["purged"] = [result.node for result in results if result.purged]
        document = {
            "what": wanted.text,
            "purged": all(result.purged for result in results),
            "nodes": [
                {"node": r.node, "purged": r.purged, "objects": r.objects, "trouble": r.trouble}
                for r in results
            ],
        }

        def view(p: Printer) -> None:
            rows: list[list[Cell]] = [
                [r.node, Styled("yes", "good") if r.purged else Styled("no", "bad"), r.objects, r.trouble]
                for r in results
            ]
            p.table(["NODE", "PURGED", "OBJECTS", ""], rows)

        printer.document("purge", document, view)
        left = [result for result in results if not result.purged]
        if left:
            error = Failed if all(result.reachable for result in left) else Unreachable
            raise error(
                f"not purged: {', '.join(result.node for result in left)}",
                hint="what they keep is old until it runs out; purge again when they answer",
            )
