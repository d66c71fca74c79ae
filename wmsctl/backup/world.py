"""The platform as backups need it: who leads, whose data are copied, pgBackRest there."""

from __future__ import annotations

from contextlib import AbstractContextManager

from wmsctl.backup import access, lock, settings
from wmsctl.backup.engine import Engine
from wmsctl.backup.scratch import Place, Scratch, instances
from wmsctl.backup.source import Source, choose
from wmsctl.clients.connect import Clients
from wmsctl.clients.pgbackrest import PgBackRest, Shell
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Refused
from wmsctl.inventory import Inventory

SWITCH_POLL_S = 0.2


class World:
    """See run.World."""

    def __init__(self, inventory: Inventory, clients: Clients, shell: Shell) -> None:
        self._inventory, self._clients, self._shell = inventory, clients, shell
        self._settings = settings.section(inventory)
        self.schedule = settings.schedule(self._settings)
        self.long_term = frozenset(each.number for each in self._settings.repositories if each.long_term)
        self.wal_wait_s = float(self._settings.wal_wait_s)

    def engine(self, deadline: Deadline) -> Engine:
        return access.engine(self._inventory, self._shell, deadline)

    def source(self, node: str) -> Source:
        """Whose data to copy. Raises Refused when pgBackRest cannot run there."""
        inventory = self._inventory
        found = choose(
            self._clients.patroni().cluster(),
            inventory.postgres.members,
            inventory.thresholds.replication_lag_bytes,
            node,
        )
        if not self._shell.available(found.node):
            raise Refused(f"the node {found.node} is off", hint=f"wmsctl node power-on {found.node}")
        return found

    def tool(self, node: str) -> PgBackRest:
        return PgBackRest(self._shell, self._settings, node)

    def alone(self, primary: str, what: str = "backup run") -> AbstractContextManager[None]:
        return lock.alone(self._clients.postgres(self._inventory.member(primary)), what)

    def segment_bytes(self, primary: str) -> int:
        """Size of a WAL segment of this cluster."""
        server = self._clients.postgres(self._inventory.member(primary))
        return int(server.query("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")[0][0])

    def primary(self) -> str:
        """Name of the member that leads. Raises Unreachable when nobody does."""
        return access.leader(self._clients).node

    def where(self, node: str) -> str:
        """The node to restore on: `node`, or one that is on and whose readers mind least."""
        if not node:
            return access.anywhere(self._inventory, self._shell)
        if node not in {member.node for member in self._inventory.postgres.members}:
            raise Refused(f"{node} is no PostgreSQL node")
        if not self._shell.available(node):
            raise Refused(f"the node {node} is off", hint=f"wmsctl node power-on {node}")
        return node

    def place(self, node: str, name: str) -> Place:
        return Place(self._shell, self._settings, self._inventory.postgres.version, node, name)

    def scratches(self, deadline: Deadline) -> list[Scratch]:
        """Every scratch instance of the platform, on nodes that are on."""
        nodes = [member.node for member in self._inventory.postgres.members]
        return instances(self._shell, self._settings, nodes, deadline)

    def switch_wal(self, primary: str, deadline: Deadline) -> None:
        """Have the primary end its segment and wait until it is in the archive. Raises Failed when
        it is not in time."""
        server = self._clients.superuser(self._inventory.member(primary))
        # Recovery to a time ends at a commit after it: make sure that there is one, and something to switch.
        server.query("SELECT pg_logical_emit_message(true, 'wmsctl', 'restore')")
        segment = server.query("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        waiting = deadline.within(self.wal_wait_s)
        wait_until(
            lambda: (server.query("SELECT last_archived_wal FROM pg_stat_archiver")[0][0] or "") >= segment,
            waiting,
            SWITCH_POLL_S,
            f"segment {segment} in the archive",
            error=Failed,
        )

    def processes(self) -> int:
        """Of pgBackRest at once: not in the inventory, so the least is assumed."""
        return 1
