"""A throw-away PostgreSQL with a PgBouncer in front of it, both with TLS, as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from tests.support.pki import Authority
from tests.support.sandbox import service_user

BINARIES = Path("/usr/lib/postgresql/15/bin")
POSTGRES_PORT = 5432
POOLER_PORT = 6432
PASSWORDS = {
    "postgres": "pw-super",
    "wms_owner": "pw-owner",
    "wms_app": "pw-app",
    "wms_worker": "pw-worker",
    "wms_ops": "pw-ops",
    "wms_partitions": "pw-partitions",
}

_POSTGRES = """
listen_addresses = '{address}'
port = 5432
unix_socket_directories = ''
ssl = on
ssl_cert_file = '{home}/server.pem'
ssl_key_file = '{home}/server.pem'
password_encryption = 'scram-sha-256'
shared_preload_libraries = 'pg_stat_statements'
shared_buffers = '32MB'
max_connections = 60
# Thrown away in a minute: nothing need reach the disk.
fsync = off
"""
_POOLER = """
[databases]
wms = host={address} port=5432 dbname=wms
wms_read = host={address} port=5432 dbname=wms
wms_worker = host={address} port=5432 dbname=wms pool_size=3
wms_worker_read = host={address} port=5432 dbname=wms pool_size=3
[pgbouncer]
listen_addr = {address}
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/userlist.txt
admin_users = wms_ops
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
server_login_retry = 0.2
client_tls_sslmode = require
client_tls_cert_file = {home}/server.pem
client_tls_key_file = {home}/server.pem
server_tls_sslmode = verify-ca
server_tls_ca_file = {home}/ca.crt
"""


class Database:
    """The two servers; their files are below `home`."""

    def __init__(self, home: Path, address: str) -> None:
        self.home, self.address = home, address
        user = service_user()
        self._account = pwd.getpwnam(user) if user else None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        authority = Authority()
        authority.write_bundle(home / "ca.crt")
        authority.write_node(home / "server.pem", ("database",), address)
        (home / "password").write_text(PASSWORDS["postgres"])
        (home / "pgbouncer.ini").write_text(_POOLER.format(address=address, home=home))
        (home / "userlist.txt").write_text("".join(f'"{u}" "{p}"\n' for u, p in PASSWORDS.items()))
        for path in (home, *home.iterdir()):
            path.chmod(0o755 if path in (home, home / "ca.crt") else 0o600)
            if self._account:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self._run(
            BINARIES / "initdb", "-D", home / "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
            "-A", "scram-sha-256", "-N", f"--pwfile={home}/password",
        )  # fmt: skip
        with (home / "data/postgresql.conf").open("a") as file:
            file.write(_POSTGRES.format(address=address, home=home))
        with (home / "data/pg_hba.conf").open("a") as file:
            file.write("host all all 127.0.0.0/8 scram-sha-256\n")
        self.start("postgres")
        with self.connect("postgres", database="postgres") as connection:
            for role in ("wms_owner", "wms_app", "wms_worker", "wms_ops", "wms_partitions"):
                connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORDS[role]}'".encode())
            # As stacks/local/contents.py makes them.
            connection.execute("ALTER ROLE wms_partitions NOINHERIT")
            connection.execute("GRANT wms_owner TO wms_partitions")
            connection.execute("CREATE DATABASE wms OWNER wms_owner")
        with self.connect("postgres") as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        self.start("pgbouncer")

    def start(self, name: str) -> None:
        """Start `postgres` or `pgbouncer` and wait for its port. Raises TimeoutError with its log."""
        commands: dict[str, tuple[list[Any], int]] = {
            "postgres": ([BINARIES / "postgres", "-D", self.home / "data"], POSTGRES_PORT),
            "pgbouncer": (["/usr/sbin/pgbouncer", "-q", self.home / "pgbouncer.ini"], POOLER_PORT),
        }
        command, port = commands[name]
        log = self.home / f"{name}.log"
        with log.open("ab") as file:
            self._running[name] = subprocess.Popen(
                command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, **self._identity(),
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, psycopg.Error):
                socket.create_connection((self.address, port), timeout=1).close()
                if name == "postgres":
                    self.connect("postgres", database="postgres").close()
                return
            if self._running[name].poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError(f"{name} does not answer on {self.address}:{port}:\n{log.read_text()[-3000:]}")

    def signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of a server."""
        os.killpg(self._running[name].pid, number)
        # The postmaster's children lead sessions of their own.
        for pid in _descendants(self._running[name].pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, name: str) -> None:
        """End a server at once."""
        child = self._running.pop(name, None)
        if child is not None:
            child.kill()
            child.wait(10)

    def stop(self) -> None:
        """End both servers, the database without waiting for its clients."""
        self.kill("pgbouncer")
        child = self._running.pop("postgres", None)
        if child is not None:
            child.send_signal(2)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, 9)
                child.wait(10)

    def connect(
        self, role: str, *, database: str = "wms", port: int = POSTGRES_PORT
    ) -> psycopg.Connection[Any]:
        """A connection in autocommit, past the pooler unless `port` says otherwise."""
        return psycopg.connect(
            host=self.address, port=port, dbname=database, user=role, password=PASSWORDS[role],
            sslmode="verify-ca", sslrootcert=str(self.home / "ca.crt"), connect_timeout=5, autocommit=True,
            prepare_threshold=None,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What the service, its migrations and its sample data need to reach it, through the pooler."""
        return {
            "WMS_DB_HOSTS": f"{self.address}:{POOLER_PORT}",
            "WMS_DB_PASSWORD": PASSWORDS["wms_app"],
            "WMS_WORKER_PASSWORD": PASSWORDS["wms_worker"],
            "WMS_DB_CA": str(self.home / "ca.crt"),
            "WMS_OWNER_PASSWORD": PASSWORDS["wms_owner"],
        }

    def _run(self, *command: Any) -> None:
        subprocess.run(
            command, cwd=self.home, check=True, timeout=60, stdout=subprocess.DEVNULL, **self._identity()
        )

    def _identity(self) -> Mapping[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


@contextlib.contextmanager
def database(address: str) -> Iterator[Database]:
    """A Database on `address`, removed at the end. It has roles and an empty database `wms`, no schema."""
    home = Path(tempfile.mkdtemp(prefix="wms-db-"))
    made: Database | None = None
    try:
        made = Database(home, address)
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(home, ignore_errors=True)
