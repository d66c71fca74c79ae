"""What a platform is: every size, port, threshold, timeout and version in one frozen, self-validating tree.

`load` builds it from an environment file (`environments/<name>.toml`) and optional overrides (the stack's
configuration). Anything wrong raises SpecError before a resource is touched; the message names the file, the
key, what was found and what is allowed. Types of single values stand in `units`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from stacks import rules
from stacks.backup import Backup
from stacks.units import (
    Bucket,
    Megabytes,
    Milliseconds,
    Name,
    Natural,
    Port,
    Positive,
    Seconds,
    Section,
)

ENVIRONMENTS = Path(__file__).parent / "environments"

SETTING = r"^[a-z_.]+\Z"
SCALARS = (str, int, float, bool)


class SpecError(ValueError):
    """The platform described cannot exist; the message says where it is wrong, and what is allowed."""


class Etcd(Section, frozen=True):
    members: Literal[1, 3, 5] = 3
    client_port: Port = 2379
    peer_port: Port = 2380
    heartbeat_ms: Milliseconds = 100
    election_ms: Milliseconds = 1000
    """etcd wants at least five heartbeats."""
    quota_mb: Megabytes = 256


class Patroni(Section, frozen=True):
    api_port: Port = 8008
    ttl_s: Annotated[int, Meta(ge=20, le=300)] = 20
    """Life of the leader's lease; 20 is Patroni's floor."""
    loop_wait_s: Annotated[int, Meta(ge=1, le=60)] = 1
    retry_timeout_s: Annotated[int, Meta(ge=3, le=60)] = 5
    primary_start_timeout_s: Natural = 0
    """0: a crashed primary hands over at once instead of being restarted in place."""
    maximum_lag_on_failover_mb: Megabytes = 1
    synchronous_mode_strict: bool = True
    failsafe_mode: bool = True
    stop_poll_ms: Annotated[int, Meta(ge=5, le=1000)] = 20
    """How often the agent looks whether PostgreSQL has stopped (upstream: 1000)."""
    shorten_waits: bool = True
    """False: Patroni's own waits and no watch on the postmaster, whatever stop_poll_ms says; to compare with."""


class ReplicaRole(Section, frozen=True):
    """A kind of read traffic with a port of its own and a replica that serves it first (row D3)."""

    name: Name
    port: Port


class Postgres(Section, frozen=True):
    version: Literal[15] = 15
    port: Port = 5432
    database: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,30}\Z")] = "wms"
    replica_roles: Annotated[tuple[ReplicaRole, ...], Meta(max_length=16)] = (
        ReplicaRole(name="analytics", port=5002),
        ReplicaRole(name="reporting", port=5003),
        ReplicaRole(name="reads", port=5004),
    )
    """One replica each, in this order."""
    synchronous_nodes: Positive = 2
    """Replicas that confirm each commit: 2 of 3, so that the primary and one replica can be lost together."""
    max_connections: Annotated[int, Meta(ge=20, le=5000)] = 200
    superuser_reserved_connections: Annotated[int, Meta(ge=3, le=50)] = 10
    shared_buffers_mb: Megabytes = 64
    effective_cache_size_mb: Megabytes = 512
    work_mem_mb: Megabytes = 4
    maintenance_work_mem_mb: Megabytes = 64
    max_wal_size_mb: Megabytes = 1024
    min_wal_size_mb: Megabytes = 80
    max_slot_wal_keep_size_mb: Megabytes = 2048
    """A dead replica's slot may hold back this much WAL, and no more: a full disk on the primary is worse."""
    wal_keep_size_mb: Megabytes = 128
    checkpoint_timeout_s: Annotated[int, Meta(ge=30, le=86400)] = 300
    log_min_duration_statement_ms: Annotated[int, Meta(ge=-1, le=3_600_000)] = 300
    """Row O2: p99 of a query is under 300 ms, so slower ones are worth a line."""
    max_standby_streaming_delay_s: Positive = 30
    wal_retrieve_retry_ms: Annotated[int, Meta(ge=10, le=60_000)] = 100
    """A replica that is told to promote while it waits to ask for WAL again sleeps this out first; PostgreSQL's own
    5000 would be the length of that failover."""
    settings: dict[Annotated[str, Meta(pattern=SETTING)], str | int | float | bool] = msgspec.field(
        default_factory=dict
    )
    """Further PostgreSQL parameters, by name."""


class Proxy(Section, frozen=True):
    """HAProxy."""

    count: Annotated[int, Meta(ge=1, le=8)] = 2
    write_port: Port = 5000
    read_port: Port = 5001
    stats_port: Port = 8404
    check_ms: Milliseconds = 500
    """Between two health checks of a server that is up."""
    check_down_ms: Milliseconds = 250
    """Between two checks of one that is down: bounds how long a new primary waits for traffic."""
    fall: Annotated[int, Meta(ge=1, le=10)] = 2
    """Failed checks in a row that take a server out."""
    rise: Annotated[int, Meta(ge=1, le=10)] = 1
    """Passed checks in a row that bring it back."""
    connect_timeout_s: Seconds = 2
    write_retries: Annotated[int, Meta(ge=0, le=10)] = 0
    """Further attempts to connect to the primary, a second apart. The pooler tries again after login_retry_s by itself;
    meanwhile HAProxy would hold on to its one attempt, though another member may lead by now."""
    max_connections: Positive = 4000


class Pooler(Section, frozen=True):
    """PgBouncer; one beside each HAProxy."""

    port: Port = 6432
    max_client_connections: Annotated[int, Meta(ge=100, le=1000)] = 1000
    """Row D2: 100–1000."""
    write_pool: Positive = 25
    read_pool: Positive = 15
    role_pool: Positive = 5
    """Of each replica role."""
    worker_pool: Positive = 3
    """For what the service does for all tenants: so much of it at once, and no more, for writes and for reads."""
    reserve_pool: Natural = 5
    """More for the write and the read pool while clients wait."""
    server_lifetime_s: Seconds = 300
    """Without it the read pools stick to one replica."""
    login_retry_s: Seconds = 0.2
    """After a failed server login (default 15 s, which would dominate a failover)."""


class Redis(Section, frozen=True):
    """Redis Cluster: cache, sessions, and the streams that carry events."""

    masters: Annotated[int, Meta(ge=3, le=32)] = 3
    """A cluster needs a majority of masters to elect a replica, so three at least."""
    replicas_per_master: Annotated[int, Meta(ge=1, le=2)] = 1
    port: Port = 6379
    bus_port: Port = 16379
    node_timeout_ms: Milliseconds = 2000
    """After it a silent node is suspected; a replica takes over about a second later."""
    maxmemory_mb: Megabytes = 64
    maxmemory_policy: Literal["volatile-lfu", "volatile-lru", "volatile-ttl", "noeviction"] = "volatile-lfu"
    """Only keys with a TTL may go: an allkeys policy would evict the event streams."""
    min_replicas_to_write: Literal[0, 1] = 0
    """With one replica each, 1 would refuse writes after any failover."""
    max_clients: Annotated[int, Meta(ge=64, le=10000)] = 1000


class Storage(Section, frozen=True):
    """The S3 gateway that backups and archives go to."""

    port: Port = 7070
    bucket: Bucket = "wms-backup"
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")] = "us-east-1"


Rate = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class RateLimits(Section, frozen=True):
    """Row A3: requests a minute; 0: no limit."""

    anonymous: Rate = 100
    """Of an address."""
    authenticated: Rate = 1000
    """Of a tenant."""
    premium: Rate = 10_000
    """Of a tenant with a premium credential; the keys of the sample data are."""


class Service(Section, frozen=True):
    """The WMS service."""

    count: Annotated[int, Meta(ge=3, le=20)] = 3
    """Row H3: 3 to 20."""
    port: Port = 8000
    write_pool: Annotated[int, Meta(ge=1, le=200)] = 8
    read_pool: Annotated[int, Meta(ge=1, le=200)] = 8
    worker_pool: Annotated[int, Meta(ge=1, le=20)] = 2
    """Of the role for background work, for writes and for reads."""
    drain_s: Annotated[float, Meta(ge=0, le=60)] = 3
    """Told to stop, it answers "not ready" for so long before it accepts no more."""
    shutdown_s: Annotated[float, Meta(ge=1, le=120)] = 10
    """Then it has so long for the requests under way."""
    rate_limits: RateLimits = RateLimits()
    jwt_generation: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Raise it by one to rotate the keys of access tokens, by two to drop the one that signs (a leak)."""


class Gateway(Section, frozen=True):
    """nginx: load balancer and API gateway in front of the service."""

    count: Annotated[int, Meta(ge=1, le=8)] = 2
    port: Port = 8443
    status_port: Port = 8080
    """Plain: counters for the exporter and nothing else."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    worker_connections: Annotated[int, Meta(ge=256, le=65535)] = 2048
    max_body_kb: Annotated[int, Meta(ge=1, le=10240)] = 64
    connect_timeout_s: Seconds = 1
    retry_s: Seconds = 1.5
    """A request that fails within this time may go to another service; later the edge would not wait."""
    max_fails: Positive = 3
    fail_timeout_s: Positive = 10
    """Row R7: three failures in ten seconds take a service out, for as long."""
    keepalive: Positive = 32
    """Idle connections each worker keeps to the services."""
    cache_mb: Megabytes = 64
    cached: tuple[Name, ...] = ("configuration", "customers", "locations", "skus", "warehouses")
    """Resources below /api/v1/ whose answers are kept by tenant and role, where the service says for how long. Others
    are not looked up: that would cost each request a question and make equal ones wait for each other."""
    inactive_s: Annotated[int, Meta(ge=60, le=3600)] = 600
    """What nobody asked for this long is dropped; so old, beyond its lifetime, can be what is served while it is
    fetched anew."""
    lock_ms: Annotated[int, Meta(ge=10, le=10_000)] = 200
    """How long equal requests wait for the first one's answer; nginx does not wake them before."""
    asset_ttl_s: Annotated[int, Meta(ge=3600, le=14400)] = 14400
    """Row K1: the edge keeps 1 to 4 h; this is for the frontend's code and styles, whose names change with them."""
    image_ttl_s: Annotated[int, Meta(ge=3600, le=14400)] = 14400
    """For pictures. Each is made anew once in this time, per edge."""
    log_percent: Annotated[int, Meta(ge=0, le=100)] = 10
    """Share of the fast successes in the access log; failures and slow requests are always in it."""
    log_slow_s: Annotated[int, Meta(ge=1, le=60)] = 1


class Edge(Section, frozen=True):
    """Varnish as CDN, with HAProxy for TLS on both of its sides."""

    count: Annotated[int, Meta(ge=1, le=8)] = 2
    port: Port = 8443
    stats_port: Port = 8404
    management_port: Port = 6082
    """varnishadm; it proves itself by a secret that varnishd makes at its start."""
    max_connections: Annotated[int, Meta(ge=64, le=100_000)] = 4000
    cache_mb: Megabytes = 64
    threads_min: Annotated[int, Meta(ge=5, le=1000)] = 20
    threads_max: Annotated[int, Meta(ge=10, le=5000)] = 500
    connect_timeout_s: Seconds = 1
    check_ms: Milliseconds = 1000
    ttl_max_s: Annotated[int, Meta(ge=3600, le=14400)] = 14400
    """Row K1: 1 to 4 h. Nothing is kept longer, whatever a browser may do."""
    healthy_grace_s: Natural = 60
    """How long past its lifetime an object is served while it is fetched anew."""
    sick_grace_s: Natural = 3600
    """The same while no gateway is healthy, or the one that was asked failed."""


class Monitor(Section, frozen=True):
    """Prometheus, Alertmanager and the exporters. Counters only, so they speak plain HTTP."""

    prometheus_port: Port = 9090
    alertmanager_port: Port = 9093
    scrape_interval_s: Annotated[int, Meta(ge=1, le=300)] = 5
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 15
    retention_mb: Megabytes = 512
    """Whichever of the two is reached first."""
    node_port: Port = 9100
    nginx_port: Port = 9113
    blackbox_port: Port = 9115
    redis_port: Port = 9121
    pooler_port: Port = 9127
    varnish_port: Port = 9131
    postgres_port: Port = 9187


class Timeouts(Section, frozen=True):
    """The ladder: each rung is shorter than the one before it, so that the innermost gives up first."""

    client_s: Seconds = 30
    edge_s: Seconds = 28
    gateway_s: Seconds = 26
    service_s: Seconds = 24
    pool_wait_s: Seconds = 22
    """query_wait_timeout of PgBouncer: rides out a failover that waits for the lease."""
    statement_s: Seconds = 10
    lock_s: Seconds = 2
    idle_in_transaction_s: Seconds = 15


TableName = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,39}\Z")]
"""Of the schema public, and short enough for the names of its partitions."""


class PartitionedTable(Section, frozen=True):
    """A table partitioned by range of time (row D4), and what becomes of its partitions. Periods are of UTC."""

    table: TableName
    interval: Literal["month", "week", "day"] = "month"
    """Weeks begin on Monday (ISO 8601)."""
    premake: Annotated[int, Meta(ge=1, le=400)] = 6
    """Partitions that are there beyond the current one."""
    online_months: Annotated[int, Meta(ge=1, le=1200)] = 13
    """Whole months before the current one that stay attached: a year to compare with, and one to close the books."""
    archive: bool = True
    """False: older partitions stay as they are, for ever."""
    keep_days: Annotated[int, Meta(ge=0, le=365)] = 7
    """How long an archived partition is kept in the database, detached, after its archive was proven."""
    archive_months: Annotated[int, Meta(ge=1, le=1200)] = 84
    """How long its archive is kept in the store: 7 years, as row R5's."""
    carry: Annotated[str, Meta(pattern=r"^([a-z_][a-z0-9_]{0,62})?\Z")] = ""
    """Function (date) of the schema public that writes what the rest must know of a partition before it goes."""


class Partitions(Section, frozen=True):
    tables: Annotated[tuple[PartitionedTable, ...], Meta(max_length=64)] = (
        PartitionedTable(table="inventory_transactions", carry="carry_forward"),
    )
    prefix: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}\Z")] = "partitions"
    """Of the archives' names in the bucket."""


class Thresholds(Section, frozen=True):
    replication_lag_ms: Milliseconds = 1000
    """Row D3."""
    replication_lag_mb: Megabytes = 16
    """Beyond it a replica leaves the read pool."""
    rto_s: Positive = 900
    """Row R2."""
    rpo_s: Positive = 60
    """Row R2."""


class Pki(Section, frozen=True):
    authority_days: Annotated[int, Meta(ge=30, le=3650)] = 730
    certificate_days: Annotated[int, Meta(ge=2, le=825)] = 90
    renew_before_days: Annotated[int, Meta(ge=1, le=365)] = 30
    generation: Positive = 1
    """Raise it to rotate the authority."""


class Platform(Section, frozen=True, kw_only=True):
    name: Name = "wms"
    environment: Name
    network: Annotated[str, Meta(pattern=r"^127\.(0|[1-9][0-9]{0,2})\Z")] = "127.40"
    """First two octets of the nodes' addresses; node addresses are <network>.<role>.<index>."""
    zones: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8)] = ("a", "b", "c")
    etcd: Etcd = Etcd()
    patroni: Patroni = Patroni()
    postgres: Postgres = Postgres()
    proxy: Proxy = Proxy()
    pooler: Pooler = Pooler()
    redis: Redis = Redis()
    storage: Storage = Storage()
    backup: Backup = Backup()
    service: Service = Service()
    gateway: Gateway = Gateway()
    edge: Edge = Edge()
    monitor: Monitor = Monitor()
    timeouts: Timeouts = Timeouts()
    partitions: Partitions = Partitions()
    thresholds: Thresholds = Thresholds()
    pki: Pki = Pki()


def build(values: Mapping[str, Any], source: str) -> Platform:
    """Turn plain nested `values` into a Platform; `source` names their origin in errors.

    Raises SpecError for an unknown key, a wrong type, a value out of range, or values at odds.
    """
    unknown = _unknown_key(values, Platform, "")
    if unknown:
        raise SpecError(f"{source}: {unknown}")
    try:
        platform = msgspec.convert(dict(values), Platform)
    except msgspec.ValidationError as error:
        raise SpecError(f"{source}: {_explain(error, values)}") from None
    problems = rules.problems(platform)
    if problems:
        raise SpecError("\n".join(f"{source}: {problem}" for problem in problems))
    return platform


def load(
    environment: str, overrides: Mapping[str, Any] | None = None, folder: Path = ENVIRONMENTS
) -> Platform:
    """The platform of `environment` (a file of `folder`), with `overrides` laid over it key by key.

    Raises SpecError when there is no such environment, when its file is not TOML, or when a value is wrong.
    """
    if overrides is not None and not isinstance(overrides, Mapping):
        raise SpecError(
            f"the stack's overrides: found {overrides!r}; allowed: keys with values, as an object"
        )
    if overrides and overrides.get("environment", environment) != environment:
        raise SpecError(
            f"the stack's overrides: environment: found {overrides['environment']!r}; allowed: {environment!r}, "
            "whose file is loaded (another one: pulumi config set wms:environment NAME)"
        )
    path = folder / f"{environment}.toml"
    known = sorted(p.stem for p in folder.glob("*.toml"))
    if environment not in known:
        raise SpecError(f"no environment {environment!r} in {folder.name}/; there are: {', '.join(known)}")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path.name}: not TOML: {error}") from None
    source = f"environments/{path.name}"
    platform = build({**values, "environment": environment}, source)
    if not overrides:
        return platform
    return build(
        _merge({**values, "environment": environment}, overrides), f"{source} with the stack's overrides"
    )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


WHERE = re.compile(r" - at `(?P<key>key` in `)?\$\.(?P<path>.*)`\Z")


def _explain(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """msgspec says what is allowed and where; add what was found there."""
    text = str(error)
    place = WHERE.search(text)
    if not place:
        return text
    allowed, path = text[: place.start()], place["path"]
    if place["key"]:
        names = _at(values, path)
        wrong = next((name for name in names if not re.match(SETTING, str(name))), "?")
        return f"{path}: found the name {wrong!r}; {_lower(allowed)}"
    if path.endswith("[...]"):  # in a mapping, whose item msgspec does not name
        path = path.removesuffix("[...]")
        names = _at(values, path)
        path = f"{path}." + next((str(n) for n, v in names.items() if not isinstance(v, SCALARS)), "?")
    try:
        found = _at(values, path)
    except (KeyError, IndexError, TypeError):
        return f"{path}: {allowed}"
    choices = _choices(path)
    if choices:
        allowed = f"allowed: {', '.join(map(str, choices))}"
    return f"{path}: found {found!r}; {_lower(allowed)}"


def _at(values: Any, path: str) -> Any:
    """What stands at `path` (a.b[0].c). Raises KeyError, IndexError or TypeError when nothing does."""
    for part in _parts(path):
        values = values[int(part)] if part.isdigit() else values[part]
    return values


def _parts(path: str) -> list[str]:
    return path.replace("[", ".").replace("]", "").split(".")


def _choices(path: str) -> tuple[Any, ...]:
    """The values that a key with a short list of them may have; empty for every other key."""
    kind: Any = Platform
    for part in _parts(path):
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return ()
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), None)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _unknown_key(values: Any, kind: Any, path: str) -> str:
    """The first key of `values` that `kind` does not have, with those that it has; empty when all are."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(values, list | tuple):
        inner = next((k for k in get_args(kind) if isinstance(k, type)), None)
        for index, value in enumerate(values):
            if inner and (problem := _unknown_key(value, inner, f"{path}[{index}]")):
                return problem
        return ""
    if not (isinstance(values, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return ""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            return f"{where}: unknown key; allowed here: {', '.join(sorted(fields))}"
        if problem := _unknown_key(value, fields[key], where):
            return problem
    return ""
