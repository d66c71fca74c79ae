"""The platform as backups need it: who leads, whose data are copied, pgBackRest there."""

from __future__ import annotations

from contextlib import AbstractContextManager

from wmsctl.backup import access, lock, settings
from wmsctl.backup.engine import Engine
from wmsctl.backup.source import Source, choose
from wmsctl.clients.connect import Clients
from wmsctl.clients.pgbackrest import PgBackRest, Shell
from wmsctl.deadline import Deadline
from wmsctl.errors import Refused
from wmsctl.inventory import Inventory


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

    def alone(self, primary: str) -> AbstractContextManager[None]:
        return lock.alone(self._clients.postgres(self._inventory.member(primary)), "backup run")

    def segment_bytes(self, primary: str) -> int:
        """Size of a WAL segment of this cluster."""
        server = self._clients.postgres(self._inventory.member(primary))
        return int(server.query("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")[0][0])
