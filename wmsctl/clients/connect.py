"""The clients of one platform, made from its inventory and secrets. What operations take, and what tests
replace by fakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wmsctl.inventory import Inventory, Login, Member, Pooler
from wmsctl.secrets import Secrets

if TYPE_CHECKING:
    from wmsctl.clients.etcd import Etcd
    from wmsctl.clients.objectstore import ObjectStore
    from wmsctl.clients.patroni import Patroni, PatroniMember
    from wmsctl.clients.pgbouncer import PgBouncer
    from wmsctl.clients.postgres import Server
    from wmsctl.clients.prometheus import Alertmanager, Prometheus
    from wmsctl.clients.redis import RedisNode


class Clients:
    """Makes clients; each call a new one with its own connection, so that threads need not share any."""

    def __init__(self, inventory: Inventory, secrets: Secrets) -> None:
        self.inventory = inventory
        self.secrets = secrets

    def patroni(self) -> Patroni:
        """The cluster through whichever member answers."""
        from wmsctl.clients.patroni import Patroni

        return Patroni(tuple(self.patroni_member(member) for member in self.inventory.postgres.members))

    def patroni_member(self, member: Member) -> PatroniMember:
        from wmsctl.clients.patroni import member_client

        return member_client(self.inventory, self.secrets, member)

    def etcd(self) -> Etcd:
        """The store that holds the leader key."""
        from wmsctl.clients.etcd import Etcd, etcd_member

        dcs = self.inventory.postgres.dcs
        return Etcd(tuple(etcd_member(self.inventory, self.secrets, e) for e in dcs.endpoints), dcs.prefix)

    def postgres(self, member: Member, *, login: Login | None = None, database: str = "") -> Server:
        """A member's own port, as the operator unless another login (see `superuser`) is given."""
        from wmsctl.clients.postgres import member_server

        return member_server(self.inventory, self.secrets, member, login=login, database=database)

    def superuser(self, member: Member, *, database: str = "postgres") -> Server:
        """A member's own port as the superuser: for CHECKPOINT and the control of replay."""
        return self.postgres(member, login=self.inventory.postgres.superuser, database=database)

    def pooled(self, pooler: Pooler, *, login: Login | None = None, database: str = "") -> Server:
        """A database of a PgBouncer (the write database by default): the way that the service takes."""
        from wmsctl.clients.postgres import Server

        return Server(
            f"PgBouncer on {pooler.node}",
            pooler.address,
            pooler.port,
            database=database or self.inventory.pools.write_database,
            login=login or self.inventory.postgres.operator,
            secrets=self.secrets,
            ca=self.inventory.ca,
            pooled=True,
        )

    def pgbouncer(self, pooler: Pooler) -> PgBouncer:
        """The admin console of a PgBouncer."""
        from wmsctl.clients.pgbouncer import pgbouncer_client

        return pgbouncer_client(self.inventory, self.secrets, pooler)

    def pgbouncers(self) -> tuple[PgBouncer, ...]:
        return tuple(self.pgbouncer(pooler) for pooler in self.inventory.pools.poolers)

    def redis(self) -> tuple[RedisNode, ...]:
        """One client per Redis node; empty without Redis."""
        from wmsctl.clients.redis import redis_nodes

        return redis_nodes(self.inventory, self.secrets)

    def object_store(self) -> ObjectStore:
        """The bucket of the platform. Raises Usage when it has none."""
        from wmsctl.clients.objectstore import object_store

        return object_store(self.inventory, self.secrets)

    def alertmanager(self) -> Alertmanager | None:
        from wmsctl.clients.prometheus import alertmanager

        return alertmanager(self.inventory)

    def prometheus(self) -> Prometheus | None:
        from wmsctl.clients.prometheus import prometheus

        return prometheus(self.inventory)
