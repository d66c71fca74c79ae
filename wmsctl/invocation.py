"""One run of wmsctl: its global options and what they lead to, made when first asked for.

A command takes `ctx: typer.Context`, calls `of(ctx)` and gets from there the printer, the inventory, the
clients, the journal and the audit log of the chosen context.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from wmsctl.context import Context, Contexts, state_directory
from wmsctl.output import Format, Printer

if TYPE_CHECKING:
    import typer

    from wmsctl.audit import Audit
    from wmsctl.clients.connect import Clients
    from wmsctl.inventory import Inventory
    from wmsctl.journal import Journal
    from wmsctl.secrets import Secrets


@dataclass
class Options:
    """The global options as given on the command line."""

    context: str = ""
    output: Format = Format.table
    color: bool | None = None
    quiet: bool = False
    debug: bool = False


class Invocation:
    """What a command needs, each part made on first use, so that a command pays only for what it touches."""

    def __init__(self, options: Options | None = None, command: str = "wmsctl") -> None:
        self.options = options or Options()
        self.command = command
        """The command line for journal and audit; flags only, no value of wmsctl is a secret."""

    @cached_property
    def printer(self) -> Printer:
        return Printer(self.options.output, color=self.options.color, quiet=self.options.quiet)

    @cached_property
    def contexts(self) -> Contexts:
        return Contexts()

    @cached_property
    def context(self) -> Context:
        """The chosen context. Raises Usage when there is none."""
        return self.contexts.choose(self.options.context)

    @cached_property
    def inventory(self) -> Inventory:
        return self.contexts.load(self.context)

    @cached_property
    def secrets(self) -> Secrets:
        from wmsctl.secrets import Secrets

        return Secrets.load(self.inventory.secrets)

    @cached_property
    def clients(self) -> Clients:
        from wmsctl.clients.connect import Clients

        return Clients(self.inventory, self.secrets)

    @cached_property
    def journal(self) -> Journal:
        from wmsctl.journal import Journal

        return Journal(state_directory(self.context.name))

    @cached_property
    def audit(self) -> Audit:
        from wmsctl.audit import Audit

        return Audit(state_directory(self.context.name) / "audit.jsonl", self.context.name)


def of(ctx: typer.Context) -> Invocation:
    """The invocation that a command runs in."""
    invocation = ctx.find_root().obj
    assert isinstance(invocation, Invocation)
    return invocation
