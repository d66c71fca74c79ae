"""The pooler's exporter on a real PgBouncer, asked over HTTP."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from agent.pooler_metrics import TABLES, Console, handler
from tests.support.sandbox import service_user

ADDRESS = f"127.83.{os.getpid() // 250 % 250}.{1 + os.getpid() % 250}"
"""By process, so that two runs on one machine do not meet."""
PORT = 6432
NAME = "unit"
CONFIGURATION = f"""
[databases]
wms = host=127.0.0.1 port=1 dbname=wms pool_size=7
[pgbouncer]
listen_addr = {ADDRESS}
listen_port = {PORT}
unix_socket_dir =
auth_type = any
admin_users = pooler_admin
stats_users = pooler_stats
"""


class Pooler:
    """A PgBouncer that can be restarted; `auth_type = any` takes every user as the first admin."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "pgbouncer.ini").write_text(CONFIGURATION)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        user = service_user()
        identity: dict[str, Any] = {}
        if user:
            account = pwd.getpwnam(user)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
        with (self._folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                ["/usr/sbin/pgbouncer", self._folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **identity,
            )
        limit = time.monotonic() + 10
        while time.monotonic() < limit and self._child.poll() is None:
            try:
                socket.create_connection((ADDRESS, PORT), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError((self._folder / "log").read_text())

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait(10)
            self._child = None


@pytest.fixture
def pooler() -> Iterator[Pooler]:
    folder = Path(tempfile.mkdtemp(prefix="wms-pooler-"))
    folder.chmod(0o755)
    made = Pooler(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


@pytest.fixture
def console() -> Console:
    return Console(
        {
            "host": ADDRESS,
            "port": PORT,
            "user": "pooler_stats",
            "dbname": "pgbouncer",
            "sslmode": "disable",
            "connect_timeout": 3,
            "application_name": NAME,
        }
    )


@pytest.fixture
def exporter(console: Console) -> Iterator[str]:
    """URL of the exporter's own server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(console))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def values(text: str) -> dict[str, float]:
    """Metric with its labels → value."""
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_column_exists_in_the_pooler_that_is_installed(pooler: Pooler, console: Console) -> None:
    found = dict(zip((table.command for table in TABLES), console.read(), strict=True))
    for table in TABLES:
        _, rows = found[table.command]
        assert rows
        wanted = {column.column for column in table.columns} | {source for _, source in table.labels}
        assert wanted <= rows[0].keys()


def test_a_scrape_shows_the_pool(pooler: Pooler, exporter: str) -> None:
    status, text = get(f"{exporter}/metrics")
    found = values(text)
    assert status == 200
    assert found["pgbouncer_up[]"] == 1
    assert found["pgbouncer_databases_pool_size['wms']"] == 7
    assert found["pgbouncer_databases_paused['wms']"] == 0


def admin() -> psycopg.Connection[dict[str, Any]]:
    """A console of the pooler's administrator."""
    return psycopg.connect(
        host=ADDRESS,
        port=PORT,
        user="pooler_admin",
        dbname="pgbouncer",
        sslmode="disable",
        autocommit=True,
        prepare_threshold=None,
        row_factory=dict_row,
    )


def test_a_paused_database_is_seen(pooler: Pooler, exporter: str) -> None:
    with admin() as connection:
        connection.execute("PAUSE wms")
        assert values(get(f"{exporter}/metrics")[1])["pgbouncer_databases_paused['wms']"] == 1
        connection.execute("RESUME wms")
        assert values(get(f"{exporter}/metrics")[1])["pgbouncer_databases_paused['wms']"] == 0


def test_many_scrapes_need_one_connection(pooler: Pooler, exporter: str) -> None:
    """psycopg prepares a statement that it has sent five times, which the console refuses."""
    ports = set()
    for _ in range(8):
        assert values(get(f"{exporter}/metrics")[1])["pgbouncer_up[]"] == 1
        with admin() as connection:
            clients = connection.execute("SHOW CLIENTS").fetchall()
        ports |= {row["port"] for row in clients if row["application_name"] == NAME}
    assert len(ports) == 1


def test_a_restart_costs_no_scrape_and_an_absence_says_so(
    pooler: Pooler, exporter: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert values(get(f"{exporter}/metrics")[1])["pgbouncer_up[]"] == 1
    pooler.stop()
    pooler.start()
    assert values(get(f"{exporter}/metrics")[1])["pgbouncer_up[]"] == 1
    pooler.stop()
    status, text = get(f"{exporter}/metrics")
    assert status == 200, "the exporter is there, only the pooler is not"
    assert values(text) == {"pgbouncer_up[]": 0}
    assert ADDRESS not in capfd.readouterr().err
    assert get(f"{exporter}/")[0] == 200, "its own readiness does not depend on the pooler"
    pooler.start()
    assert values(get(f"{exporter}/metrics")[1])["pgbouncer_up[]"] == 1


def test_scrapes_at_once_share_the_connection(pooler: Pooler, exporter: str) -> None:
    answers: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(get(f"{exporter}/metrics"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [values(text)["pgbouncer_up[]"] for _, text in answers] == [1] * 6


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/metrics", 200), ("/x", 404), ("/metrics/", 404)])
def test_paths(pooler: Pooler, exporter: str, path: str, status: int) -> None:
    assert get(f"{exporter}{path}")[0] == status
