"""`wmsctl partitions status` and `maintain` against a real PostgreSQL with the service's schema: beside a load, killed
at every step, against whatever else works on the table. Budget: a minute.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
import yaml

from stacks import spec
from stacks.engines import exporters
from tests.stacks import golden
from tests.support.partitioned import LEDGER, Site, Warehouse, kept, load, lock_waits, warehouse
from tests.support.postgres import Database, database
from wmsctl.inventory import PartitionedTable
from wmsctl.partitions.database import ADVISORY
from wmsctl.partitions.periods import Period, following, period_of

pytestmark = [pytest.mark.live, pytest.mark.timeout(90)]
ADDRESS = "127.57.101.1"
STALL_MS = 100
"""The aim: no client waits longer because of us."""


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def site(db: Database, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), db)


@pytest.fixture(scope="module")
def place(site: Site) -> Warehouse:
    return warehouse(site, "maintenance")


@pytest.fixture(autouse=True)
def _whole(site: Site) -> Iterator[None]:
    """Each test begins with the ledger declared and whole."""
    site.declare(LEDGER)
    yield
    site.declare(LEDGER)
    done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 0, done.text


def month(ahead: int = 0) -> Period:
    """The month of now, or one ahead of it."""
    return list(following(period_of(datetime.now(UTC), "month"), ahead))[-1]


def drop_ahead_names(first: int, last: int) -> list[str]:
    """The partitions of months ahead."""
    return [month(n).name("inventory_transactions") for n in range(first, last + 1)]


def drop_ahead(site: Site, first: int = 1, last: int = 6) -> list[str]:
    """Drop the empty partitions of months ahead; their names."""
    names = drop_ahead_names(first, last)
    with site.owner() as c:
        for name in names:
            c.execute(f"DROP TABLE IF EXISTS {name}".encode())
    return names


def plain_table(site: Site, name: str, *, key: str = "timestamptz", default: bool = False) -> None:
    """A partitioned table of somebody else, without partitions."""
    with site.owner() as c:
        c.execute(f"DROP TABLE IF EXISTS {name}".encode())
        c.execute(
            f"CREATE TABLE {name} (id bigint NOT NULL, at {key} NOT NULL, note text DEFAULT 'x', "
            "PRIMARY KEY (id, at), CHECK (id > 0)) PARTITION BY RANGE (at)".encode()
        )
        c.execute(f"CREATE INDEX {name}_note ON {name} (note)".encode())
        if default:
            c.execute(f"CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT".encode())


def declared(name: str, interval: Any = "month", premake: int = 2) -> PartitionedTable:
    return msgspec.structs.replace(
        LEDGER, table=name, interval=interval, premake=premake, archive=False, carry=""
    )


# status


def test_d4_status_shows_what_is_there_and_exits_with_5_when_the_next_month_is_missing(site: Site) -> None:
    found = site.document("partitions", "status")
    (table,) = found["tables"]
    assert found["schema"] == "wmsctl.partitions/v1" and found["server"] == "pg-1"
    assert (table["table"], table["key"], table["trouble"]) == ("inventory_transactions", "created_at", "")
    states = {row["partition"]: row["state"] for row in table["partitions"]}
    assert states[month().name("inventory_transactions")] == "current"
    assert states[month(6).name("inventory_transactions")] == "future"
    assert table["covered_until"] == month(6).upper.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert all(row["bytes"] > 0 for row in table["partitions"])

    (gone,) = drop_ahead(site, 1, 1)
    found = site.document("partitions", "status", codes=(5,))
    assert found["tables"][0]["missing"] == [gone]
    assert found["tables"][0]["covered_until"] == month().upper.strftime("%Y-%m-%dT%H:%M:%SZ")
    done = site.cli("partitions", "status")
    assert done.code == 5 and f"missing: {gone}" in done.out and "wmsctl partitions maintain" in done.err


def test_d4_status_tells_of_a_table_that_is_not_as_declared(site: Site) -> None:
    site.declare(LEDGER, declared("nowhere"), declared("skus"))
    done = site.cli("partitions", "status")
    assert (
        done.code == 1
        and "there is no table public.nowhere" in done.err
        and "skus is not partitioned" in done.err
    )
    # The others are maintained all the same.
    drop_ahead(site, 6, 6)
    done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 1 and "nowhere" in done.err
    assert month(6).name("inventory_transactions") in site.partitions()


# maintain


def test_d4_partitions_are_made_ahead_and_a_second_run_changes_nothing(site: Site) -> None:
    names = drop_ahead(site)
    planned = site.document("partitions", "maintain", "--dry-run")
    assert planned["result"] == "planned" and [s["partition"] for s in planned["steps"]] == names
    assert not set(names) & set(site.partitions())
    refused = site.cli("partitions", "maintain")
    assert refused.code == 3 and "--yes" in refused.err
    done = site.document("partitions", "maintain", "--yes")
    assert done["result"] == "done" and {s["result"] for s in done["steps"]} == {"done"}
    assert set(names) <= set(site.partitions())
    assert site.document("partitions", "maintain", "--yes")["result"] == "already"
    assert site.operations_of("maintain")[-1]["result"] == "done"
    audited = site.audited()[-1]
    assert (audited["action"], audited["result"]) == ("partitions maintain", "done")
    # As the migrations make them: constraints, indexes, owner; no right of the service past the table.
    with site.owner() as c:
        made, by_hand = (
            c.execute(
                "SELECT pg_get_userbyid(relowner), relacl, (SELECT array_agg(pg_get_constraintdef(k.oid)"
                " ORDER BY pg_get_constraintdef(k.oid))"
                " FROM pg_constraint k WHERE k.conrelid = c.oid), (SELECT array_agg(x.indisvalid) FROM pg_index x"
                " WHERE x.indrelid = c.oid) FROM pg_class c WHERE c.oid = %s::regclass",
                (name,),
            ).fetchone()
            for name in (names[0], month().name("inventory_transactions"))
        )
    assert made and made == by_hand and made[0] == "wms_owner"


@pytest.mark.parametrize("interval", ["month", "week", "day"])
@pytest.mark.parametrize("key", ["timestamptz", "timestamp", "date"])
def test_d4_periods_of_every_kind_and_type_hold_their_rows(site: Site, interval: str, key: str) -> None:
    name = f"t_{interval}_{key}"
    plain_table(site, name, key=key)
    site.declare(declared(name, interval))
    assert site.document("partitions", "maintain", "--yes")["result"] == "done"
    here = period_of(datetime.now(UTC), interval)  # type: ignore[arg-type]
    wanted = [here.previous(), *following(here, 2)]
    assert site.partitions(name) == sorted(period.name(name) for period in wanted)
    with site.owner() as c:
        # Whatever zone a session is in, the first and the last moment of a period of UTC are in it.
        c.execute("SET timezone = 'America/Sao_Paulo'" if key == "timestamptz" else "SET timezone = 'UTC'")
        for number, period in enumerate(wanted, 1):
            for moment in (period.lower, period.upper.replace() - (period.upper - period.lower) / 1_000_000):
                value = (
                    moment.date()
                    if key == "date"
                    else moment.replace(tzinfo=None)
                    if key == "timestamp"
                    else moment
                )
                row = c.execute(
                    f"INSERT INTO {name} (id, at) VALUES (%s, %s) RETURNING tableoid::regclass::text".encode(),
                    (number * 10 + (moment != period.lower), value),
                ).fetchone()
                assert row == (period.name(name),)
    site.execute(f"DROP TABLE {name}")


def test_d4_rows_of_a_default_partition_come_home_beside_its_writers(site: Site) -> None:
    plain_table(site, "strays", default=True)
    days = [month(), month(1), month(2), period_of(datetime(2023, 5, 20, tzinfo=UTC), "month")]
    with site.owner() as c:
        for number, period in enumerate(days):
            c.execute(
                "INSERT INTO strays (id, at) SELECT %s + g, %s::timestamptz + g * interval '1 minute'"
                " FROM generate_series(1, 2000) g",
                (number * 10_000, period.lower),
            )
    site.declare(declared("strays", premake=1))
    (table,) = site.document("partitions", "status", codes=(5,))["tables"]
    assert (table["default_partition"], table["default_rows"]) == ("strays_rest", 8000)

    stop, took, wrong = [False], [], []

    def write() -> None:
        try:
            with site.db.connect("wms_owner") as c:
                number = 1_000_000
                while not stop[0]:
                    number += 1
                    started = time.monotonic()
                    c.execute("INSERT INTO strays (id, at) VALUES (%s, %s)", (number, days[number % 4].lower))
                    took.append(time.monotonic() - started)
        except psycopg.Error as error:
            wrong.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.3)
        done = site.document("partitions", "maintain", "--yes")
        time.sleep(0.3)
    finally:
        stop[0] = True
        writer.join(10)
    assert not wrong and len(took) > 100
    assert {s["partition"] for s in done["steps"] if s["action"] == "create"} >= {
        p.name("strays") for p in days
    }
    assert site.value("SELECT count(*) FROM ONLY strays_rest") == 0
    assert site.value("SELECT count(*) FROM strays") == 8000 + len(took)
    assert site.document("partitions", "maintain", "--yes")["result"] == "already"
    print(
        f"\n2000 rows each came home from a default partition: {max(took) * 1000:.0f} ms was the longest insert"
    )
    site.execute("DROP TABLE strays")


def test_d4_too_many_rows_of_a_default_partition_are_left_and_said(site: Site) -> None:
    plain_table(site, "crowd", default=True)
    with site.owner() as c:
        c.execute("INSERT INTO crowd (id, at) SELECT g, '2023-05-05' FROM generate_series(1, 5001) g")
    site.declare(declared("crowd", premake=1))
    done = site.document("partitions", "maintain", "--yes")
    assert any("5001 rows of 2023_05, too many" in note for note in done["notes"])
    assert site.value("SELECT count(*) FROM ONLY crowd_rest") == 5001
    site.execute("DROP TABLE crowd")


def test_d4_missing_and_half_built_indexes_are_mended_beside_the_traffic(site: Site) -> None:
    ahead, here = month(3).name("inventory_transactions"), month().name("inventory_transactions")
    with site.owner() as c:
        # An index of the table that two partitions lack, one of them with the rest of an interrupted build.
        c.execute("CREATE INDEX inventory_transactions_reference ON ONLY inventory_transactions (reference)")
        for name in site.partitions():
            if name not in (ahead, here):
                c.execute(f"CREATE INDEX {name}_reference ON {name} (reference)".encode())
                c.execute(
                    f"ALTER INDEX inventory_transactions_reference ATTACH PARTITION {name}_reference".encode()
                )
        c.execute(f"CREATE INDEX {here}_reference ON {here} (reference)".encode())
    with site.db.connect("postgres") as c:
        c.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (f"{here}_reference",)
        )
    gaps = site.document("partitions", "status")["tables"][0]["index_gaps"]
    assert sorted(gaps) == sorted(
        [
            f"{here}: inventory_transactions_reference is invalid",
            f"{ahead}: inventory_transactions_reference is missing",
        ]
    )
    done = site.document("partitions", "maintain", "--yes")
    assert [s["action"] for s in done["steps"]] == ["index", "index"]
    assert site.value(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'inventory_transactions_reference'::regclass"
    )
    assert site.document("partitions", "status")["tables"][0]["index_gaps"] == []
    site.execute("DROP INDEX inventory_transactions_reference")


def test_d4_an_interrupted_detach_is_finished(site: Site) -> None:
    site.value("SELECT ensure_transaction_partitions('2021-03-01', 1)")
    name = "inventory_transactions_2021_03"
    with site.owner() as reader, site.owner() as c:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM inventory_transactions")
        c.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            c.execute(f"ALTER TABLE inventory_transactions DETACH PARTITION {name} CONCURRENTLY".encode())
        reader.execute("COMMIT")
    (table,) = site.document("partitions", "status")["tables"]
    assert {row["partition"]: row["state"] for row in table["partitions"]}[name] == "detaching"
    done = site.document("partitions", "maintain", "--yes")
    assert ("finalize", name) in {(s["action"], s["partition"]) for s in done["steps"]}
    assert site.value("SELECT relispartition FROM pg_class WHERE relname = %s", name) is False
    site.execute(f"DROP TABLE {name}")


# Beside others


def test_waits_for_locks_are_seen_where_there_are_any(site: Site, place: Warehouse) -> None:
    """The control of the tests below: a lock that is held for a quarter of a second is felt as long."""
    with lock_waits(site.db) as waits, load(site, place):
        with site.owner() as c, c.transaction():
            c.execute("LOCK TABLE inventory_transactions")
            time.sleep(0.25)
        time.sleep(0.1)
    assert waits and 200 <= max(waits) <= 1000, waits


def test_d4_no_client_waits_for_maintenance(site: Site, place: Warehouse) -> None:
    with lock_waits(site.db) as waits, load(site, place) as found:
        for _ in range(3):
            with site.db.connect("wms_owner") as c:
                # By us, not felt either: the far end is cut off as softly as it is made.
                for name in drop_ahead_names(4, 6):
                    c.execute(
                        f"ALTER TABLE inventory_transactions DETACH PARTITION {name} CONCURRENTLY".encode()
                    )
                    c.execute(f"DROP TABLE {name}".encode())
            process = site.start("partitions", "maintain", "--yes")
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    kept(site, found)
    print(f"\n{len(found.took)} statements; worst {found.worst_ms:.0f} ms; waits for locks: {waits}")
    assert all(each <= STALL_MS for each in waits)


def test_d4_a_transaction_that_holds_the_table_delays_us_and_nobody_else(
    site: Site, place: Warehouse
) -> None:
    """Other maintenance holds the table: ATTACH has to wait, and gives way again and again."""
    (gone,) = drop_ahead(site, 6, 6)
    with site.owner() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE ONLY inventory_transactions IN SHARE UPDATE EXCLUSIVE MODE")
        with lock_waits(site.db) as waits, load(site, place) as found:
            running = site.start("partitions", "maintain", "--yes")
            time.sleep(2)
            assert running.poll() is None
            other.execute("COMMIT")
            _, err = running.communicate(timeout=30)
    assert running.returncode == 0, err
    assert gone in site.partitions()
    kept(site, found)
    assert all(each <= STALL_MS for each in waits), waits


def test_d4_a_lock_that_is_never_free_ends_at_the_deadline_and_changes_nothing(site: Site) -> None:
    (gone,) = drop_ahead(site, 6, 6)
    with site.owner() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE ONLY inventory_transactions IN SHARE UPDATE EXCLUSIVE MODE")
        started = time.monotonic()
        done = site.cli("partitions", "maintain", "--yes", "--deadline", "3")
        assert time.monotonic() - started < 8
        other.execute("ROLLBACK")
    assert done.code == 1 and "a lock was not free" in done.err
    assert site.value("SELECT to_regclass(%s)", gone) is None
    assert site.operations_of("maintain")[-1]["result"] == "failed"


def test_d4_one_run_at_a_time_and_the_second_says_who_is_first(site: Site) -> None:
    drop_ahead(site, 6, 6)
    with site.db.connect("wms_partitions") as other:
        other.execute("SET application_name = 'wmsctl partitions archive (jo@desk 1)'")
        other.execute("SELECT pg_advisory_lock(%s)", (ADVISORY,))
        done = site.cli("partitions", "maintain", "--yes", "--deadline", "2")
        assert done.code == 3 and "wmsctl partitions archive (jo@desk 1)" in done.err
        # Looking is always possible.
        assert site.cli("partitions", "status").code == 0


@pytest.mark.parametrize("moment", ["create", "create:after", "analyze"])
def test_d4_killed_at_any_step_the_next_run_goes_on(site: Site, place: Warehouse, moment: str) -> None:
    names = drop_ahead(site, 4, 6)
    if moment == "analyze":
        with site.db.connect("postgres") as c:
            c.execute("SELECT pg_stat_reset()")
    with load(site, place) as found:
        site.killed_at(moment, "partitions", "maintain", "--yes")
        there = set(site.partitions())
        assert len(set(names) & there) == {"create": 0, "create:after": 1, "analyze": 3}[moment]
        done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 0, done.text
    assert set(names) <= set(site.partitions())
    kept(site, found)
    ended = site.operations_of("maintain")
    assert ended[-2]["result"] == "failed" and "continued by" in ended[-2]["detail"]["reason"]


def test_d4_killed_inside_a_statement_its_backend_ends_by_itself(site: Site) -> None:
    """The kill of a client in the middle of a wait: its backend gives up the advisory lock within seconds."""
    (gone,) = drop_ahead(site, 6, 6)
    with site.owner() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE ONLY inventory_transactions IN SHARE UPDATE EXCLUSIVE MODE")
        running = site.start("partitions", "maintain", "--yes")
        time.sleep(1.5)
        running.kill()
        running.communicate(timeout=10)
        other.execute("COMMIT")
    done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 0, done.text
    assert gone in site.partitions()


# What the exporter tells Prometheus


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Kiritimati"])
def test_d4_the_metric_of_the_alert_agrees_with_status(site: Site, zone: str) -> None:
    tables: list[PartitionedTable] = []
    for interval, key in (("month", "timestamptz"), ("week", "date"), ("day", "timestamp")):
        name = f"metric_{interval}"
        plain_table(site, name, key=key, default=interval == "day")
        tables.append(declared(name, interval))
    site.declare(LEDGER, *tables)
    platform = spec.load(
        "local", {"partitions": {"tables": [{"table": t.table, "interval": t.interval} for t in site.tables]}}
    )
    (exporter, *_) = [p for p in exporters.processes(platform, golden.SITE) if p.name == "postgres-exporter"]
    query = yaml.safe_load(exporter.files["queries.yml"])["wms_partitions"]["query"]

    def told() -> dict[str, bool]:
        # A role that may read no table of the service.
        with site.db.connect("wms_ops") as c:
            c.execute(f"SET timezone = '{zone}'".encode())
            return {row[0]: bool(row[1]) for row in c.execute(query).fetchall()}

    def shown() -> dict[str, bool]:
        found = site.document("partitions", "status", codes=(0, 5))
        return {t["table"]: t["covered_until"] is None or bool(t["missing"]) for t in found["tables"]}

    assert told() == shown() == {t.table: t != LEDGER for t in site.tables}
    assert site.cli("partitions", "maintain", "--yes").code == 0
    assert told() == shown() == dict.fromkeys((t.table for t in site.tables), False)
    for table in tables:
        site.execute(f"DROP TABLE {table.table}")


# Rights


def test_d4_the_role_has_no_rights_until_it_becomes_the_owner(site: Site) -> None:
    with site.db.connect("wms_partitions") as c:
        for statement in (
            "SELECT * FROM inventory_transactions",
            "SELECT * FROM api_keys",
            "CREATE TABLE x ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                c.execute(statement.encode())
    with site.db.connect("wms_ops") as c, pytest.raises(psycopg.errors.InsufficientPrivilege):
        c.execute("SET ROLE wms_owner")


def test_a_password_that_is_wrong_is_told_without_it(site: Site) -> None:
    secrets = site.folder / "secrets.json"
    text = secrets.read_text()
    try:
        secrets.write_text(text.replace("pw-partitions", "pw-wrong"))
        done = site.cli("partitions", "status")
    finally:
        secrets.write_text(text)
    assert done.code in (1, 4) and "refuses the login" in done.err and "pw-wrong" not in done.text


def test_a_database_that_is_away_is_unreachable(site: Site, db: Database) -> None:
    db.kill("postgres")
    try:
        done = site.cli("partitions", "status")
    finally:
        db.start("postgres")
    assert done.code == 4 and "no member takes writes" in done.err


def test_wmsctl_help_of_partitions_loads_no_driver(site: Site) -> None:
    code = "import sys, wmsctl.partitions.command; print({'psycopg', 'boto3', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=site.environment, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "set()", done.stderr
