"""`wmsctl partitions` on the whole platform: queries on the replicas while a month goes and comes back, the loss of the
primary in the middle of an archive, and what the platform tells Prometheus. Budget: two minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from signal import SIGKILL
from typing import Any

import psycopg
import pytest
import urllib3

from tests.support.partitioned import HISTORY
from tests.support.platform import Live, eventually, signal_one
from wmsctl.clients.postgres import rows

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

MONTHS = (f"{2012 + n // 12}-{n % 12 + 1:02d}" for n in count(int(time.time()) % 60))
"""Another month for each test, and most likely for each run on a platform that stays."""
ROWS = 50_000


@contextmanager
def owner(platform: Live) -> Iterator[Any]:
    """A session of the tables' owner on the primary, as `wmsctl partitions` has it."""
    member = platform.inventory.member(platform.leader())
    partitions = platform.inventory.partitions
    assert partitions is not None
    server = platform.clients.postgres(member, login=partitions.login)
    with server.connect(statement_timeout=60, limit=90) as connection:
        connection.execute(f"SET ROLE {partitions.owner}")
        connection.execute("SET timezone = 'UTC'")
        yield connection


def history(platform: Live, month: str) -> str:
    """An old month with movements of a tenant of the sample data: the name of its partition."""
    tenant = platform.tenants[0]
    with owner(platform) as c:
        c.execute("SELECT ensure_transaction_partitions(%s, 1)", (f"{month}-01",))
        skus = rows(c, "SELECT array_agg(sku_id) FROM skus WHERE tenant_id = %s", (tenant.tenant_id,))[0][0]
        places = rows(
            c, "SELECT array_agg(location_id) FROM locations WHERE warehouse_id = %s", (tenant.warehouses[0],)
        )[0][0]
        c.execute(
            HISTORY,
            {
                "tenant": tenant.tenant_id, "warehouse": tenant.warehouses[0], "skus": skus, "locations": places,
                "month": f"{month}-01 00:00:00+00", "rows": ROWS,
            },
        )  # fmt: skip
    return f"inventory_transactions_{month.replace('-', '_')}"


def differences(platform: Live) -> list[tuple[Any, ...]]:
    with owner(platform) as c:
        return rows(c, "SELECT * FROM ledger_differences()")


def let_days_pass(platform: Live, name: str) -> None:
    with owner(platform) as c:
        c.execute(
            "UPDATE ops.partition_archives SET proven_at = now() - interval '8 days'"
            " WHERE partition = %s AND state = 'proven'",
            (name,),
        )


class Readers:
    """One client on each replica that asks for the same two sums again and again."""

    def __init__(self, platform: Live, month: str) -> None:
        self.seen: dict[str, set[int]] = {}
        self.asked = 0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._month = month
        self._threads = [
            threading.Thread(target=self._read, args=(platform, name), daemon=True)
            for name in platform.replicas()
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, platform: Live, node: str) -> None:
        member = platform.inventory.member(node)
        server = platform.clients.superuser(member, database=platform.inventory.postgres.database)
        found = self.seen.setdefault(node, set())
        with server.connect(statement_timeout=30, limit=200) as connection:
            while not self._stop.is_set():
                try:
                    rows_of_month = connection.execute(
                        "SELECT count(*) FROM inventory_transactions WHERE created_at >= %s::timestamptz"
                        " AND created_at < %s::timestamptz + interval '1 month'",
                        (f"{self._month}-01 00:00+00", f"{self._month}-01 00:00+00"),
                    ).fetchone()
                    whole = connection.execute("SELECT count(*) FROM inventory_transactions").fetchone()
                    assert rows_of_month is not None and whole is not None
                    found.add(rows_of_month[0])
                    self.asked += 2
                except psycopg.Error as error:
                    self.errors.append(f"{node}: {error}")
                    if connection.broken:
                        return

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_d4_queries_on_replicas_go_on_while_a_month_leaves_and_comes_back(platform: Live) -> None:
    month = next(MONTHS)
    name = history(platform, month)
    readers = Readers(platform, month)
    try:
        eventually(lambda: readers.asked > 10, 20, "the replicas do not answer")
        for command in (("archive", name), ("maintain",), ("unarchive", name)):
            done = platform.cli("partitions", *command, "--yes")
            assert done.code == 0, done.text
            let_days_pass(platform, name)
        # Each replica replays it sooner or later.
        asked = readers.asked
        eventually(lambda: readers.asked > asked + 50, 20, "the replicas do not answer any more")
    finally:
        readers.stop()
    assert readers.errors == []
    for node, seen in readers.seen.items():
        # All of the month or nothing of it, and both were seen: never a part.
        assert seen == {0, ROWS}, (node, seen)
    assert differences(platform) == []
    assert platform.cli("partitions", "verify", name, "--load").code == 0


def killing_the_primary_at(platform: Live, moment: Callable[[], bool], *arguments: str) -> int:
    """Run wmsctl, kill the primary's postmaster when the moment has come; the exit code."""
    leader = platform.leader()
    pid = platform.postmaster(leader)
    running = platform.start_cli("partitions", *arguments)
    eventually(moment, 60, "the moment does not come", every=0.02)
    signal_one(platform, leader, pid, SIGKILL)
    running.communicate(timeout=120)
    return running.returncode


def test_d4_an_archive_goes_on_with_the_next_primary(platform: Live) -> None:
    name = history(platform, next(MONTHS))
    leader = platform.leader()

    def detached() -> bool:
        found = platform.on(leader, "SELECT relispartition FROM pg_class WHERE relname = %s", (name,))
        return not found[0][0]

    with platform.writing() as load:
        code = killing_the_primary_at(platform, detached, "archive", name, "--yes", "--part-mb", "1")
        assert code in (1, 4), code
        load.fault()
        load.flowing(60)
        platform.make_whole()
        done = platform.cli("partitions", "archive", name, "--yes", "--part-mb", "1")
        assert done.code == 0, done.text
        load.account()
    assert platform.leader() != leader
    assert differences(platform) == []
    found = platform.document("partitions", "verify", name, "--load")
    assert found["whole"] and found["archives"][0]["rows"] == ROWS
    assert platform.cli("partitions", "unarchive", name, "--yes").code == 0
    assert differences(platform) == []


def test_d4_every_member_tells_prometheus_whether_the_next_month_is_there(platform: Live) -> None:
    prometheus = platform.inventory.monitoring.prometheus
    assert prometheus is not None
    http = urllib3.PoolManager(retries=False, timeout=10)

    def told() -> list[str]:
        url = f"http://{prometheus.address}:{prometheus.port}/api/v1/query?query=wms_partitions_next_missing"
        answer = http.request("GET", url).json()["data"]["result"]
        return [f"{each['metric']['node']} {each['value'][1]}" for each in answer]

    wanted = sorted(f"{member} 0" for member in platform.members)
    eventually(lambda: sorted(told()) == wanted, 60, lambda: f"Prometheus was told {told()}", every=1)
    (table,) = platform.document("partitions", "status")["tables"]
    assert table["missing"] == [] and table["table"] == "inventory_transactions"
