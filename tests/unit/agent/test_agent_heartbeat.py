"""The heartbeat on a real PostgreSQL, beaten fast."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent import heartbeat
from agent.heartbeat import Heartbeat
from tests.support.postgres import BINARIES
from tests.support.sandbox import service_user

OPS = Path(__file__).resolve().parents[3] / "stacks/sql/ops.sql"


@dataclass
class Server:
    """A PostgreSQL on a unix socket, and a heartbeat that believes what `primary` says."""

    folder: Path
    primary: bool = False

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), dbname="postgres", user="postgres", autocommit=True)

    def rows(self) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute("SELECT id, at, lsn FROM ops.heartbeat").fetchall()

    def sessions(self) -> list[int]:
        with self.connect() as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'heartbeat'"
            )
            return [row[0] for row in found.fetchall()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="wms-beat-"))
    user = service_user()
    identity: dict[str, Any] = {}
    if user:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
    data = folder / "data"
    command: list[str | Path] = [
        BINARIES / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-N",
        "--locale=C.UTF-8",
    ]
    subprocess.run(command, cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL, **identity)
    options: list[str | Path] = ["-h", "", "-k", folder, "-c", "fsync=off", "-c", "shared_buffers=16MB"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [BINARIES / "postgres", "-D", data, *options],
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            **identity,
        )
    try:
        made = Server(folder)
        wait(lambda: reachable(made), 20)
        yield made
    finally:
        child.send_signal(2)
        child.wait(20)
        shutil.rmtree(folder)


def reachable(server: Server) -> bool:
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def wait(condition: Callable[[], object], seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def test_it_beats_while_this_is_the_primary(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One story, because the thread never ends: replica, no table yet, primary, a lost session, replica."""
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.05)
    with server.connect() as connection:
        connection.execute("DROP SCHEMA IF EXISTS ops CASCADE")
    Heartbeat(lambda: server.primary, str(server.folder), 5432, "postgres").start()
    time.sleep(0.3)
    assert server.sessions() == [], "a replica's agent does not even connect"

    server.primary = True
    time.sleep(0.3)
    with server.connect() as connection:
        connection.execute(OPS.read_bytes())
    wait(lambda: server.rows())
    ((number, at, lsn),) = server.rows()
    assert number == 1
    wait(lambda: server.rows()[0][1] > at)
    assert len(server.rows()) == 1, "each beat replaces the one before"
    with server.connect() as connection:
        row = connection.execute(
            "SELECT clock_timestamp() - at < interval '2 s', lsn >= %s::pg_lsn, lsn <= pg_current_wal_lsn()"
            " FROM ops.heartbeat",
            (lsn,),
        ).fetchone()
    assert row == (True, True, True)

    (session,) = server.sessions()
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (session,))
    wait(lambda: server.sessions() not in ([], [session]))
    at = server.rows()[0][1]
    wait(lambda: server.rows()[0][1] > at)

    server.primary = False
    wait(lambda: server.sessions() == [])
    at = server.rows()[0][1]
    time.sleep(0.3)
    assert server.rows()[0][1] == at


def test_a_beat_waits_for_no_replica(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is about lag: with a quorum that nobody fulfils it is written all the same."""
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.05)
    with server.connect() as connection:
        connection.execute(OPS.read_bytes())
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
    beating = True
    Heartbeat(lambda: beating, str(server.folder), 5432, "postgres").start()
    try:
        wait(lambda: server.rows())
        at = server.rows()[0][1]
        wait(lambda: server.rows()[0][1] > at)
    finally:
        beating = False
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
