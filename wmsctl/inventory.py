"""The inventory: the one document between a stack that made a platform and wmsctl that operates it.

A stack exports it as its `inventory` output (and the local target writes it to a file). wmsctl reads nothing
else: it knows no template, no Pulumi resource and no directory layout beyond what stands here. Passwords are
not part of it; `secrets` says where they are, and every user below names the secret it logs in with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from wmsctl.errors import Usage

VERSION = "wms.inventory/v1"


class InventoryError(Usage, ValueError):
    """The document is not an inventory this wmsctl understands; the message names the
    place and the reason.
    """


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: immutable, and an unknown key is an error rather than a silent typo."""


class Node(Frozen, frozen=True):
    """One machine of the platform (on the local target: one loopback address and one folder)."""

    name: str
    role: str
    """etcd, postgres, proxy, redis, storage, app, gateway, edge or monitor."""
    zone: str
    address: str
    processes: tuple[str, ...] = ()
    """Names of the supervised processes on it."""


class Endpoint(Frozen, frozen=True):
    """A port that answers on a node."""

    node: str
    address: str
    port: int
    tls: bool = False
    path: str = ""
    """HTTP path of the health check, empty where the protocol is not HTTP."""

    @property
    def url(self) -> str:
        """scheme://address:port/path for HTTP endpoints."""
        return f"{'https' if self.tls else 'http'}://{self.address}:{self.port}{self.path}"


class Login(Frozen, frozen=True):
    """A user and the name of its secret."""

    user: str
    secret: str


class Member(Frozen, frozen=True):
    """One PostgreSQL member under Patroni."""

    node: str
    address: str
    port: int
    api_port: int
    replica_role: str = ""
    """analytics, reporting, reads (row D3), or empty for the preferred primary."""


class Dcs(Frozen, frozen=True):
    endpoints: tuple[Endpoint, ...]
    login: Login
    prefix: str
    """Key prefix of the cluster in the store: /<namespace>/<scope>/."""


class Postgres(Frozen, frozen=True):
    scope: str
    version: int
    members: tuple[Member, ...]
    database: str
    superuser: Login
    operator: Login
    api: Login
    dcs: Dcs
    synchronous_nodes: int
    ttl_s: int
    loop_wait_s: int


class Pooler(Frozen, frozen=True):
    """One PgBouncer."""

    node: str
    address: str
    port: int


class Pools(Frozen, frozen=True):
    poolers: tuple[Pooler, ...]
    admin: Login
    write_database: str
    read_database: str
    max_client_connections: int


class Proxies(Frozen, frozen=True):
    """HAProxy: where writes and reads go without the pooler."""

    stats: tuple[Endpoint, ...]
    write_port: int
    read_port: int
    role_ports: dict[str, int]
    """replica role → port."""


class Redis(Frozen, frozen=True):
    nodes: tuple[Endpoint, ...]
    admin: Login
    masters: int


class ObjectStore(Frozen, frozen=True):
    endpoint: Endpoint
    bucket: str
    access_key: str
    """Names of the secrets that hold the key pair."""
    secret_key: str
    region: str = "us-east-1"


class PartitionedTable(Frozen, frozen=True):
    """A table of the schema public, partitioned by range of time, and what becomes of its partitions (row D4)."""

    table: str
    interval: Literal["month", "week", "day"]
    """Of UTC; weeks begin on Monday."""
    premake: int
    """Partitions that are to be there beyond the current one."""
    online_months: int
    """Whole months before the current one that stay attached."""
    archive: bool
    """False: older partitions stay as they are."""
    keep_days: int
    """How long a partition stays in the database, detached, after its archive was proven."""
    archive_months: int
    """How long its archive stays in the store, counted from the partition's end."""
    carry: str = ""
    """Function (date) to call with the partition's first day before it is detached; empty: none."""


class Partitions(Frozen, frozen=True):
    login: Login
    """Logs in without rights, and may become `owner`."""
    owner: str
    """The role that owns the tables."""
    tables: tuple[PartitionedTable, ...]
    prefix: str
    """Of the archives' names in the object store."""


class Repository(Frozen, frozen=True):
    """A place that backups go to; `number` is pgBackRest's."""

    number: int
    bucket: str
    long_term: bool = False
    """It holds monthly backups and the archive; PostgreSQL sends it no WAL."""
    passphrase: str = ""
    """Name of the secret that its files are encrypted with."""
    path: str = ""
    """Its folder in the bucket."""


class BackupSchedule(Frozen, frozen=True):
    """Row R5. Times of day as HH:MM, in UTC."""

    daily: str
    """The first backup of a day: full on `full_day` and while there is none yet, else differential."""
    full_day: str
    """monday … sunday."""
    incremental: tuple[str, ...]


class Retention(Frozen, frozen=True):
    """Row R5: how long each tier is kept."""

    daily_days: int
    weekly_weeks: int
    monthly_months: int
    archive_years: int


class Backup(Frozen, frozen=True):
    """pgBackRest, on each PostgreSQL node."""

    stanza: str
    process: str
    """The process in whose folder on each node the configurations are."""
    program: str
    config: str
    """File of all repositories, in that folder."""
    archive_config: str
    """File of the repository that PostgreSQL archives to."""
    long_term_config: str
    """File of the long-term repository."""
    primary: str
    """Folder of folders, one per other node: what to add to either of the two when that node leads."""
    port: int
    """Of pgBackRest's server on each PostgreSQL node."""
    repositories: tuple[Repository, ...]
    schedule: BackupSchedule
    retention: Retention
    wal_wait_s: int
    """How long WAL may take to the store before it counts as not archived."""
    newest_age_s: int
    """How old the newest backup may be."""


class Web(Frozen, frozen=True):
    """The HTTP path from the outside in."""

    edges: tuple[Endpoint, ...] = ()
    gateways: tuple[Endpoint, ...] = ()
    services: tuple[Endpoint, ...] = ()
    purge: str = ""
    """Name of the secret that empties the edges' caches."""


class Monitoring(Frozen, frozen=True):
    prometheus: Endpoint | None = None
    alertmanager: Endpoint | None = None


class LocalHosts(Frozen, frozen=True, tag="local", tag_field="driver"):
    """How nodes of the local target are powered: processes of this machine under one supervisor."""

    home: str
    """The stack's folder; a node's processes have their working directory below nodes/<node>/."""
    supervisor: str
    """Path of the supervisor's unix socket."""


class Thresholds(Frozen, frozen=True):
    replication_lag_ms: int = 1000
    """Row D3."""
    replication_lag_bytes: int = 16 * 1024 * 1024
    """Beyond it a replica leaves the read pool."""
    rto_s: int = 900
    """Row R2."""
    rpo_s: int = 60
    """Row R2."""


class Inventory(Frozen, frozen=True):
    version: Literal["wms.inventory/v1"]
    platform: str
    environment: str
    target: Literal["local", "kubernetes"]
    secrets: str
    """Where the passwords are: file:<path of a 0600 JSON object>."""
    ca: str
    """Path of the private CA's certificate bundle, PEM."""
    nodes: tuple[Node, ...]
    postgres: Postgres
    pools: Pools
    proxies: Proxies
    redis: Redis | None = None
    store: ObjectStore | None = None
    partitions: Partitions | None = None
    backup: Backup | None = None
    web: Web = Web()
    monitoring: Monitoring = Monitoring()
    hosts: LocalHosts | None = None
    thresholds: Thresholds = Thresholds()

    def node(self, name: str) -> Node:
        """The node called `name`. Raises InventoryError naming those that exist."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(n.name for n in self.nodes)
        raise InventoryError(f"no node {name!r} in platform {self.platform}; there are: {known}")

    def member(self, name: str) -> Member:
        """The PostgreSQL member on node `name`. Raises InventoryError naming those that exist."""
        for member in self.postgres.members:
            if member.node == name:
                return member
        known = ", ".join(m.node for m in self.postgres.members)
        raise InventoryError(f"no PostgreSQL member {name!r} in platform {self.platform}; there are: {known}")


def decode(text: bytes | str, source: str) -> Inventory:
    """Read an inventory from JSON `text`; `source` names it in errors.

    Raises InventoryError with the JSON path of the first wrong value.
    """
    try:
        return msgspec.json.decode(text, type=Inventory)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InventoryError(f"{source}: not a {VERSION} document: {error}") from error


def load(path: Path) -> Inventory:
    """Read the inventory file at `path`. Raises InventoryError when it is missing,
    unreadable or malformed.
    """
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise InventoryError(f"cannot read the inventory {path}: {error.strerror}") from error


def encode(inventory: Inventory) -> str:
    """The inventory as indented JSON, keys in the order of the types above."""
    return msgspec.json.format(msgspec.json.encode(inventory), indent=2).decode()
