"""`wmsctl context`: which platform wmsctl speaks to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wmsctl import context as contexts
from wmsctl.errors import Usage
from wmsctl.invocation import of
from wmsctl.output import Printer, Styled

app = typer.Typer(
    help="Which platform wmsctl speaks to: --context, else $WMSCTL_CONTEXT, else the one chosen by `use`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A context.", autocompletion=contexts.complete)]


@app.command("list")
def list_contexts(ctx: typer.Context) -> None:
    """List the contexts; the current one is marked.

    \b
    Example:
      wmsctl context list -o json
    """
    invocation = of(ctx)
    found = [_row(context) for context in invocation.contexts.all()]

    def view(printer: Printer) -> None:
        if not found:
            printer.text(f"no context in {invocation.contexts.folder}; {contexts.IMPORT_HINT}")
            return
        rows = [
            [
                Styled("*", "good") if row["current"] else "",
                row["name"],
                "link" if row["linked"] else "copy",
                row["source"],
            ]
            for row in found
        ]
        printer.table(["", "NAME", "KIND", "INVENTORY"], rows)

    invocation.printer.document("contexts", found, view)


@app.command("use")
def use(ctx: typer.Context, name: Name) -> None:
    """Choose the context that commands speak to from now on.

    \b
    Example:
      wmsctl context use staging
    """
    invocation = of(ctx)
    context = invocation.contexts.use(name)
    invocation.printer.document("context", _row(context), lambda p: p.text(f"now speaking to {context.name}"))


@app.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Forget a context. The platform, and the inventory that a link leads to, stay as they are.

    \b
    Example:
      wmsctl context remove staging
    """
    invocation = of(ctx)
    context = invocation.contexts.remove(name)
    chosen = "; no context is chosen now" if context.current else ""
    invocation.printer.document(
        "context", {**_row(context), "current": False}, lambda p: p.text(f"forgot {context.name}{chosen}")
    )


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=contexts.complete)] = "",
) -> None:
    """Show a context (the chosen one without NAME) and the inventory it leads to.

    \b
    Examples:
      wmsctl context show
      wmsctl context show local -o json
    """
    import msgspec

    invocation = of(ctx)
    context = invocation.contexts.get(name) if name else invocation.context
    inventory = invocation.contexts.load(context)

    def view(printer: Printer) -> None:
        printer.text(
            f"{context.name}: platform {inventory.platform}, {inventory.environment}, {inventory.target}",
            "bold",
        )
        printer.text(f"inventory  {context.source}{' (link)' if context.linked else ''}")
        printer.text(f"secrets    {inventory.secrets}")
        printer.table(
            ["NODE", "ROLE", "ZONE", "ADDRESS", "PROCESSES"],
            [
                [node.name, node.role, node.zone, node.address, " ".join(node.processes)]
                for node in inventory.nodes
            ],
        )

    document: dict[str, Any] = {**_row(context), "inventory": msgspec.to_builtins(inventory)}
    invocation.printer.document("context", document, view)


@app.command("import")
def import_context(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="An inventory file, or - for standard input.")
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the context [default: the environment].")] = "",
    use_it: Annotated[bool, typer.Option("--use", help="Also choose it.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Keep a reference to FILE, read anew each time, not a copy.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Replace a context that means another platform.")
    ] = False,
) -> None:
    """Import the inventory of a platform as a context. The first one imported is chosen by itself.

    \b
    Examples:
      wmsctl context import /var/lib/wms-platform/local/inventory.json --link --use
      pulumi stack output inventory | wmsctl context import - --name staging
    """
    invocation = of(ctx)
    if link and source == "-":
        raise Usage("--link needs a file, not standard input")
    text, path = _read(source)
    store = invocation.contexts
    context = store.store(text, source, name=name, link=path if link else None, replace=yes)
    if use_it:
        context = store.use(context.name)

    def view(printer: Printer) -> None:
        chosen = "and chosen" if context.current else f"; choose it with: wmsctl context use {context.name}"
        printer.text(f"imported {context.name} {chosen}".replace(" ;", ";"))

    invocation.printer.document("context", _row(context), view)


def _read(source: str) -> tuple[bytes, Path | None]:
    if source == "-":
        return sys.stdin.buffer.read(), None
    path = Path(source)
    try:
        return path.read_bytes(), path
    except OSError as error:
        raise Usage(
            f"cannot read the inventory {path}: {error.strerror}",
            hint="a local platform writes inventory.json into its home; else: pulumi stack output inventory",
        ) from error


def _row(context: contexts.Context) -> dict[str, Any]:
    return {
        "name": context.name,
        "current": context.current,
        "linked": context.linked,
        "source": str(context.source),
    }
