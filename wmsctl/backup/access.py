"""How the repositories of a platform are reached: through pgBackRest on one of its PostgreSQL nodes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from wmsctl.backup import lock
from wmsctl.backup.engine import Engine
from wmsctl.backup.settings import section
from wmsctl.backup.source import ORDER
from wmsctl.clients.pgbackrest import PgBackRest, Shell
from wmsctl.deadline import Deadline
from wmsctl.errors import Unreachable
from wmsctl.execution import LocalShell
from wmsctl.inventory import Inventory, Member

if TYPE_CHECKING:
    from wmsctl.clients.connect import Clients
    from wmsctl.invocation import Invocation

STORE_S = 3.0
"""For the store to say that it lives. pgBackRest itself would try for minutes."""


class RepositoryAccess:
    """Of the platform that a command speaks to."""

    def engine(self, invocation: Invocation, deadline: Deadline) -> Engine:
        """pgBackRest on a node that is on. Raises Unreachable when the store does not answer, or no node is on."""
        return engine(invocation.inventory, LocalShell(invocation.inventory), deadline)

    def exclusively(self, invocation: Invocation, what: str) -> AbstractContextManager[None]:
        """Hold off the backups and expiries of every host during the body."""
        return lock.alone(invocation.clients.postgres(leader(invocation.clients)), what)


def engine(inventory: Inventory, shell: Shell, deadline: Deadline) -> Engine:
    """See RepositoryAccess.engine."""
    settings = section(inventory)
    store_answers(inventory)
    return Engine(PgBackRest(shell, settings, anywhere(inventory, shell)), settings.stanza, deadline)


def store_answers(inventory: Inventory) -> None:
    """Raises Unreachable when the object store does not answer its health check."""
    from wmsctl.clients.http import Http

    if inventory.store is None:
        return
    endpoint = inventory.store.endpoint
    http = Http(
        f"the object store on {endpoint.node}",
        endpoint.address,
        endpoint.port,
        ca=inventory.ca if endpoint.tls else "",
        timeout=STORE_S,
    )
    try:
        http.get(endpoint.path or "/", timeout=STORE_S, expect=None)
    except Unreachable as error:
        raise Unreachable(
            error.message,
            hint=f"bring it back (wmsctl node power-on {endpoint.node}); WAL waits on the primary meanwhile",
        ) from error
    finally:
        http.close()


def anywhere(inventory: Inventory, shell: Shell) -> str:
    """A PostgreSQL node that is on, one whose readers mind least. Raises Unreachable when none is."""

    def place(member: Member) -> tuple[int, str]:
        return ORDER.index(member.replica_role) if member.replica_role in ORDER else 1, member.node

    for member in sorted(inventory.postgres.members, key=place):
        if shell.available(member.node):
            return member.node
    raise Unreachable("no PostgreSQL node is on", hint="see: wmsctl node list")


def leader(clients: Clients) -> Member:
    """The member that leads. Raises Unreachable when nobody does."""
    found = clients.patroni().cluster().leader
    if found is None:
        raise Unreachable("no primary, so no lock can be taken", hint="see: wmsctl status")
    return clients.inventory.member(found.name)
