"""What the service can be told, from environment variables only. Empty counts as not set.

Name (default; allowed) and meaning:

    WMS_INSTANCE            ($WMS_NODE, else the host name) this process in logs, metrics and readiness
    WMS_ZONE                (default)               zone it runs in
    WMS_BIND_ADDRESS        (127.0.0.1)             address of its port
    WMS_BIND_PORT           (8000; 1-65535)         its port
    WMS_TLS_CERT            ()                      certificate chain of its port, PEM; without it: plain HTTP
    WMS_TLS_KEY             ()                      its key, PEM; both or neither
    WMS_DB_HOSTS            (127.0.0.1:6432)        poolers, host[:port],…, tried in random order
    WMS_DB_WRITE_NAME       (wms)                   database name for writes
    WMS_DB_READ_NAME        (wms_read)              database name for reads
    WMS_DB_USER             (wms_app)               role of the service
    WMS_DB_PASSWORD         (required)              its password
    WMS_DB_SSLMODE          (verify-ca; disable, require, verify-ca, verify-full)
    WMS_DB_CA               (required by verify-*)  CA certificates that sign the poolers' certificates, PEM
    WMS_DB_CONNECT_TIMEOUT_S (2; 2-30)              for each pooler
    WMS_DB_WRITE_POOL       (8; 1-200)              most connections for writes
    WMS_DB_READ_POOL        (8; 1-200)              most connections for reads
    WMS_WORKER_USER         (wms_worker)            role of what the service does for all tenants: relay, jobs,
                                                    warming, forgetting
    WMS_WORKER_PASSWORD     (required)              its password
    WMS_WORKER_WRITE_NAME   (wms_worker)            database name for its writes
    WMS_WORKER_READ_NAME    (wms_worker_read)       database name for its reads
    WMS_WORKER_POOL         (2; 1-20)               most connections for each of both
    WMS_READ_DEADLINE_MS    (2000; 100-600000)      a read is answered by then, with 503 if need be
    WMS_READ_ATTEMPT_MS     (700; 50-its deadline)  an attempt is given up by then and made again
    WMS_WRITE_DEADLINE_MS   (5000; 100-600000)      the same for a write
    WMS_WRITE_ATTEMPT_MS    (3000; 50-its deadline)
    WMS_BODY_TIMEOUT_MS     (5000; 100-60000)       a request body has arrived by then
    WMS_MAX_BODY_BYTES      (65536; 1024-1048576)
    WMS_REQUEST_TIMEOUT_MS  (its default: the longer deadline + 2000; 1000-700000)  a handler has answered by then
    WMS_CURSOR_KEY          (32-256 characters)     secret that signs the cursors of pages, the same in all
                                                    processes; without it a random one: a cursor is then good for
                                                    the process that gave it only
    WMS_API_KEY_TTL_S       (30; 0-300)             how long a looked-up API key is believed
    WMS_JWT_KEYS            (id:secret,…)           keys of access tokens, secrets of 32 to 256 characters: the
                                                    first one signs, all verify; without any nobody can sign in
    WMS_RATE_ANONYMOUS      (100; 0-1000000000)     requests a minute of an address without credential; 0: no limit
    WMS_RATE_AUTHENTICATED  (1000; the same)        of a tenant
    WMS_RATE_PREMIUM        (10000; the same)       of a tenant with a premium credential
    WMS_RATE_SIGN_IN        (10; the same)          attempts a minute to sign in as one user
    WMS_RATE_PROCESSES      (1; 1-1000)             processes that share the limits; while Redis is away each of
                                                    them allows its share
    WMS_TRUSTED_PROXIES     ()                      addresses or networks, comma-separated, whose X-Real-IP is believed
    WMS_REDIS_NODES         ()                      nodes of the Redis Cluster to ask first, host:port,…; without it:
                                                    no Redis, and each process caches for itself
    WMS_REDIS_USER          (app)                   ACL user
    WMS_REDIS_PASSWORD      (required with nodes)   its password
    WMS_REDIS_CA            ()                      CA certificates that sign the nodes' certificates, PEM; without
                                                    it: no TLS
    WMS_REDIS_TIMEOUT_MS    (100; 10-5000)          a call to Redis is given up by then
    WMS_CACHE_NEAR_ENTRIES  (10000; 0-1000000)      entries of each process's own cache; 0: it has none
    WMS_PROBE_INTERVAL_MS   (1000; 100-60000)       how often the database is asked whether it is there
    WMS_DRAIN_MS            (3000; 0-60000)         from SIGTERM (readiness 503) until nothing is accepted
    WMS_SHUTDOWN_MS         (10000; 100-120000)     then, at most, until the last answer and the exit
    WMS_ACCESS_LOG          (all; all, errors, off)
    WMS_LOG_LEVEL           (info; debug, info, warning, error)

Migrations and sample data (`python -m wms.migrations`, `python -m wms.seed`) use WMS_DB_HOSTS,
WMS_DB_WRITE_NAME, WMS_DB_SSLMODE, WMS_DB_CA and WMS_DB_CONNECT_TIMEOUT_S, and:

    WMS_OWNER_USER          (wms_owner)             role that owns the schema
    WMS_OWNER_PASSWORD      (required)
    WMS_MIGRATE_LOCK_MS     (3000; 100-600000)      longest wait for a lock: migrations must not queue others
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

MAX_RATE = 1_000_000_000
KEYS_RULE = (
    "id:secret, comma-separated; ids differ, 1 to 32 of A-Z a-z 0-9 . _ -; secrets have 32 to 256 characters"
)
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
SSL_MODES = ("disable", "require", "verify-ca", "verify-full")


class SettingsError(ValueError):
    """One line per wrong variable: its name, what was found, what is allowed."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How a role reaches the database; `hosts` are (host, port)."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    sslmode: str
    ca: Path | None
    connect_timeout_s: int


@dataclass(frozen=True, slots=True)
class Pools:
    """A role's connections: databases' names at the poolers, and how many at most."""

    database: DatabaseSettings
    write_name: str
    read_name: str
    write_size: int
    read_size: int


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How the service reaches Redis Cluster; `nodes` are (host, port), empty without Redis; `ca` None: no TLS."""

    nodes: tuple[tuple[str, int], ...] = ()
    user: str = "app"
    password: str = field(default="", repr=False)
    ca: Path | None = None
    timeout_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's own; times in seconds, sizes in bytes."""

    instance: str
    zone: str
    bind_address: str
    bind_port: int
    tls_cert: Path | None
    tls_key: Path | None
    app: Pools
    """Of requests: the rows of one tenant at a time."""
    worker: Pools
    """Of the work for all tenants."""
    read_deadline_s: float
    read_attempt_s: float
    write_deadline_s: float
    write_attempt_s: float
    body_timeout_s: float
    max_body_bytes: int
    request_timeout_s: float
    cursor_key: bytes = field(repr=False)
    api_key_ttl_s: float
    jwt_keys: Mapping[str, bytes] = field(repr=False)
    rate_anonymous: int
    rate_authenticated: int
    rate_premium: int
    rate_sign_in: int
    rate_processes: int
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    redis: RedisSettings
    near_entries: int
    probe_interval_s: float
    drain_s: float
    shutdown_s: float
    access_log: str
    log_level: str


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """What migrations and sample data need."""

    database: DatabaseSettings
    name: str
    lock_timeout_ms: int


class _Reader:
    """Reads variables and collects what is wrong, so that one start tells all."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._wrong: list[str] = []

    def wrong(self, name: str, found: str, allowed: str) -> None:
        self._wrong.append(f"{name}: found {found}, allowed: {allowed}")

    def finish(self) -> None:
        if self._wrong:
            raise SettingsError("\n".join(self._wrong))

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, "").strip() or default

    def required(self, name: str, what: str) -> str:
        value = self._environment.get(name, "")
        if not value:
            self.wrong(name, "nothing", what)
        return value

    def secret_key(self, name: str) -> bytes:
        """A secret of 32 to 256 characters, or a random one when it is not set."""
        value = self._environment.get(name, "").encode()
        if not value:
            return secrets.token_bytes(32)
        if not 32 <= len(value) <= 256:
            self.wrong(name, f"{len(value)} characters", "32 to 256 characters")
        return value

    def named_keys(self, name: str) -> Mapping[str, bytes]:
        """id:secret,… in order; empty when it is not set."""
        found: dict[str, bytes] = {}
        for number, part in enumerate(filter(None, self._environment.get(name, "").split(",")), 1):
            key_id, _, value = part.partition(":")
            if not _KEY_ID.fullmatch(key_id) or key_id in found or not 32 <= len(value) <= 256:
                # Not the part itself: it holds a secret.
                self.wrong(name, f"something else as key number {number}", KEYS_RULE)
                continue
            found[key_id] = value.encode()
        return found

    def networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        found = []
        for part in filter(None, (part.strip() for part in self.text(name, "").split(","))):
            try:
                found.append(ip_network(part))
            except ValueError:
                self.wrong(name, repr(part), "IP addresses or networks, comma-separated")
        return tuple(found)

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.wrong(name, repr(value), ", ".join(allowed))
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name, str(default))
        number = _integer(value)
        if number is None or not low <= number <= high:
            self.wrong(name, repr(value), f"a whole number from {low} to {high}")
            return default
        return number

    def seconds(self, name: str, default_ms: int, low_ms: int, high_ms: int) -> float:
        """A variable in milliseconds, in seconds."""
        return self.integer(name, default_ms, low_ms, high_ms) / 1000

    def file(self, name: str) -> Path | None:
        value = self.text(name, "")
        if not value:
            return None
        try:
            with open(value, "rb"):
                return Path(value)
        except OSError as error:
            self.wrong(name, f"{value!r} ({error.strerror})", "the path of a readable file")
            return None

    def hosts(self, name: str, default: str, port_default: int = 6432) -> tuple[tuple[str, int], ...]:
        found = []
        for part in self.text(name, default).split(","):
            host, _, port = part.strip().partition(":")
            number = _integer(port or str(port_default))
            if not host or number is None or not 1 <= number <= 65535:
                self.wrong(name, repr(part), "host or host:port, comma-separated, port from 1 to 65535")
                continue
            found.append((host, number))
        return tuple(found)

    def database(self, user: str, password_name: str) -> DatabaseSettings:
        sslmode = self.choice("WMS_DB_SSLMODE", "verify-ca", SSL_MODES)
        ca = self.file("WMS_DB_CA")
        if sslmode.startswith("verify") and not self.text("WMS_DB_CA", ""):
            self.wrong("WMS_DB_CA", "nothing", f"the path of a CA bundle, since WMS_DB_SSLMODE is {sslmode}")
        return DatabaseSettings(
            hosts=self.hosts("WMS_DB_HOSTS", "127.0.0.1:6432"),
            user=user,
            password=self.required(password_name, f"the password of the role {user}"),
            sslmode=sslmode,
            ca=ca,
            connect_timeout_s=self.integer("WMS_DB_CONNECT_TIMEOUT_S", 2, 2, 30),
        )

    def app(self) -> Pools:
        return Pools(
            database=self.database(self.text("WMS_DB_USER", "wms_app"), "WMS_DB_PASSWORD"),
            write_name=self.text("WMS_DB_WRITE_NAME", "wms"),
            read_name=self.text("WMS_DB_READ_NAME", "wms_read"),
            write_size=self.integer("WMS_DB_WRITE_POOL", 8, 1, 200),
            read_size=self.integer("WMS_DB_READ_POOL", 8, 1, 200),
        )

    def worker(self, database: DatabaseSettings) -> Pools:
        """Those of the worker, by the way of `database`."""
        user = self.text("WMS_WORKER_USER", "wms_worker")
        password = self.required("WMS_WORKER_PASSWORD", f"the password of the role {user}")
        size = self.integer("WMS_WORKER_POOL", 2, 1, 20)
        return Pools(
            database=replace(database, user=user, password=password),
            write_name=self.text("WMS_WORKER_WRITE_NAME", "wms_worker"),
            read_name=self.text("WMS_WORKER_READ_NAME", "wms_worker_read"),
            write_size=size,
            read_size=size,
        )

    def redis(self) -> RedisSettings:
        if not self.text("WMS_REDIS_NODES", ""):
            return RedisSettings()
        return RedisSettings(
            nodes=self.hosts("WMS_REDIS_NODES", "", 6379),
            user=self.text("WMS_REDIS_USER", "app"),
            password=self.required("WMS_REDIS_PASSWORD", "the password of WMS_REDIS_USER"),
            ca=self.file("WMS_REDIS_CA"),
            timeout_s=self.seconds("WMS_REDIS_TIMEOUT_MS", 100, 10, 5000),
        )


def _integer(text: str) -> int | None:
    """A plain decimal number, or None: int() would also take '1_0' and '٣'."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def load(environment: Mapping[str, str]) -> Settings:
    """The service's settings. Raises SettingsError naming every wrong variable; no secret is in its text."""
    read = _Reader(environment)
    read_deadline_ms = read.integer("WMS_READ_DEADLINE_MS", 2000, 100, 600_000)
    write_deadline_ms = read.integer("WMS_WRITE_DEADLINE_MS", 5000, 100, 600_000)
    app = read.app()
    settings = Settings(
        instance=read.text("WMS_INSTANCE", read.text("WMS_NODE", socket.gethostname())),
        zone=read.text("WMS_ZONE", "default"),
        bind_address=read.text("WMS_BIND_ADDRESS", "127.0.0.1"),
        bind_port=read.integer("WMS_BIND_PORT", 8000, 1, 65535),
        tls_cert=read.file("WMS_TLS_CERT"),
        tls_key=read.file("WMS_TLS_KEY"),
        app=app,
        worker=read.worker(app.database),
        read_deadline_s=read_deadline_ms / 1000,
        read_attempt_s=read.seconds("WMS_READ_ATTEMPT_MS", min(700, read_deadline_ms), 50, read_deadline_ms),
        write_deadline_s=write_deadline_ms / 1000,
        write_attempt_s=read.seconds(
            "WMS_WRITE_ATTEMPT_MS", min(3000, write_deadline_ms), 50, write_deadline_ms
        ),
        body_timeout_s=read.seconds("WMS_BODY_TIMEOUT_MS", 5000, 100, 60_000),
        max_body_bytes=read.integer("WMS_MAX_BODY_BYTES", 65_536, 1024, 1_048_576),
        request_timeout_s=read.seconds(
            "WMS_REQUEST_TIMEOUT_MS", max(read_deadline_ms, write_deadline_ms) + 2000, 1000, 700_000
        ),
        cursor_key=read.secret_key("WMS_CURSOR_KEY"),
        api_key_ttl_s=float(read.integer("WMS_API_KEY_TTL_S", 30, 0, 300)),
        jwt_keys=read.named_keys("WMS_JWT_KEYS"),
        rate_anonymous=read.integer("WMS_RATE_ANONYMOUS", 100, 0, MAX_RATE),
        rate_authenticated=read.integer("WMS_RATE_AUTHENTICATED", 1000, 0, MAX_RATE),
        rate_premium=read.integer("WMS_RATE_PREMIUM", 10_000, 0, MAX_RATE),
        rate_sign_in=read.integer("WMS_RATE_SIGN_IN", 10, 0, MAX_RATE),
        rate_processes=read.integer("WMS_RATE_PROCESSES", 1, 1, 1000),
        trusted_proxies=read.networks("WMS_TRUSTED_PROXIES"),
        redis=read.redis(),
        near_entries=read.integer("WMS_CACHE_NEAR_ENTRIES", 10_000, 0, 1_000_000),
        probe_interval_s=read.seconds("WMS_PROBE_INTERVAL_MS", 1000, 100, 60_000),
        drain_s=read.seconds("WMS_DRAIN_MS", 3000, 0, 60_000),
        shutdown_s=read.seconds("WMS_SHUTDOWN_MS", 10_000, 100, 120_000),
        access_log=read.choice("WMS_ACCESS_LOG", "all", ("all", "errors", "off")),
        log_level=read.choice("WMS_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
    )
    set_names = [name for name in ("WMS_TLS_CERT", "WMS_TLS_KEY") if read.text(name, "")]
    if len(set_names) == 1:
        read.wrong(set_names[0], "this one alone", "WMS_TLS_CERT and WMS_TLS_KEY together, or neither")
    read.finish()
    return settings


def load_owner(environment: Mapping[str, str]) -> OwnerSettings:
    """The settings of migrations and sample data. Raises SettingsError as `load` does."""
    read = _Reader(environment)
    settings = OwnerSettings(
        database=read.database(read.text("WMS_OWNER_USER", "wms_owner"), "WMS_OWNER_PASSWORD"),
        name=read.text("WMS_DB_WRITE_NAME", "wms"),
        lock_timeout_ms=read.integer("WMS_MIGRATE_LOCK_MS", 3000, 100, 600_000),
    )
    read.finish()
    return settings
