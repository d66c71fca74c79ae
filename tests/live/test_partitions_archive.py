"""`wmsctl partitions archive`, `unarchive`, `verify`, and the drop in `maintain`, against a real PostgreSQL with the
service's schema and a real S3 gateway: killed at every step beside a load, with damaged files, without a store.
Budget: two minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.compute
import pyarrow.dataset
import pytest

from tests.support.partitioned import (
    LEDGER,
    Site,
    Warehouse,
    differences,
    history,
    kept,
    load,
    lock_waits,
    warehouse,
)
from tests.support.postgres import Database, database
from tests.support.store import BUCKET, Store, store
from wmsctl.partitions.periods import period_of

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
DATABASE_ADDRESS, STORE_ADDRESS = "127.57.102.1", "127.57.102.2"
STALL_MS = 100
ROWS = 20_000
"""Two parts of a megabyte: every step that goes part by part has a middle."""
MONTHS = (f"{2010 + n // 12}-{n % 12 + 1:02d}" for n in count())
"""A month of its own for each test."""


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(DATABASE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def bucket() -> Iterator[Store]:
    with store(STORE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def site(db: Database, bucket: Store, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), db, bucket)


@pytest.fixture(scope="module")
def place(site: Site) -> Warehouse:
    return warehouse(site, "archive")


@pytest.fixture
def month(site: Site, place: Warehouse) -> str:
    """An old month with rows: the name of its partition."""
    site.declare(LEDGER)
    return history(site, place, next(MONTHS), ROWS)


def archive(site: Site, name: str, *arguments: str) -> dict[str, Any]:
    """Archive one partition in small parts."""
    return site.document("partitions", "archive", name, "--yes", "--part-mb", "1", *arguments)


def state(site: Site, name: str) -> str:
    """What the newest record says of a partition."""
    found: str = site.value(
        "SELECT state FROM ops.partition_archives WHERE partition = %s ORDER BY started_at DESC LIMIT 1", name
    )
    return found


def bytes_of(site: Site, name: str) -> bytes:
    """What COPY gives of a partition."""
    with site.owner() as c, c.cursor().copy(f"COPY {name} TO STDOUT".encode()) as copy:
        return b"".join(copy)


def folder(site: Site, name: str) -> str:
    """The folder of the newest archive of a partition, in the store."""
    key: str = site.value(
        "SELECT manifest FROM ops.partition_archives WHERE partition = %s ORDER BY started_at DESC LIMIT 1",
        name,
    )
    return key.removesuffix("manifest.json")


def drop_kept(site: Site, *names: str) -> None:
    """Let the days pass for which tables are kept, and drop them."""
    site.execute(
        "UPDATE ops.partition_archives SET proven_at = proven_at - interval '8 days' WHERE partition = ANY(%s)",
        list(names),
    )
    done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 0, done.text
    for name in names:
        assert site.value("SELECT to_regclass(%s)", name) is None and state(site, name) == "dropped"


def gone(site: Site) -> None:
    """Wait until the backends of a killed run have noticed that nobody is there any more."""
    deadline = time.monotonic() + 10
    with site.db.connect("postgres") as c:
        while c.execute(
            "SELECT FROM pg_stat_activity WHERE application_name LIKE 'wmsctl partitions%'"
        ).rowcount:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# There and back


def test_d4_a_month_goes_and_comes_back_byte_for_byte_and_the_ledger_always_sums(
    site: Site, bucket: Store, month: str
) -> None:
    before = bytes_of(site, month)
    assert differences(site) == []
    planned = site.document("partitions", "archive", month, "--dry-run")
    assert [s["action"] for s in planned["steps"]] == ["freeze", "carry", "detach", "export", "prove"]
    assert month in site.partitions() and not bucket.objects(f"partitions/wms/inventory_transactions/{month}")

    done = archive(site, month)
    (made,) = done["archives"]
    assert (done["result"], made["rows"], made["parts"], made["partition"]) == ("done", ROWS, 2, month)
    assert done["schema"] == "wmsctl.partitions.archive/v1" and made["carried"] > 0
    assert month not in site.partitions() and state(site, month) == "proven"
    assert bytes_of(site, month) == before, "the detached table is kept"
    assert differences(site) == []
    assert site.document("partitions", "archive", month, "--yes")["result"] == "already"

    # The manifest is enough to know everything, and every file is what it says.
    files = bucket.objects(folder(site, month))
    assert sorted(Path(key).name for key in files) == [
        "00001.csv.zst", "00001.parquet", "00002.csv.zst", "00002.parquet", "manifest.json",
    ]  # fmt: skip
    manifest = json.loads(files[made["manifest"]].read_bytes())
    assert manifest["rows"] == ROWS == sum(part["rows"] for part in manifest["parts"])
    assert (manifest["lower"][:10], manifest["key"]) == (f"{month[-7:].replace('_', '-')}-01", "created_at")
    assert manifest["ddl"][0].startswith(f"CREATE TABLE {month} (") and manifest["lsn"]
    by_column = {each["column"]: each for each in manifest["aggregates"]}
    with site.owner() as c:
        row = c.execute(
            "SELECT sum(quantity), min(transaction_id), max(transaction_id), count(*) FILTER (WHERE reference IS NULL),"
            f" sum(transaction_id) FROM {month}".encode()
        ).fetchone()
    assert row is not None
    assert (int(by_column["quantity"]["sum"]), int(by_column["transaction_id"]["sum"])) == (row[0], row[4])
    assert [int(by_column["transaction_id"][end]) for end in ("min", "max")] == [row[1], row[2]]
    assert by_column["reference"]["nulls"] == row[3]

    drop_kept(site, month)
    assert differences(site) == []
    (table,) = site.document("partitions", "status")["tables"]
    (shown,) = [each for each in table["partitions"] if each["partition"] == month]
    assert (shown["state"], shown["rows"], shown["attached"]) == ("archived", ROWS, False)

    done = site.document("partitions", "unarchive", month, "--yes")
    assert done["result"] == "done" and "from the store" in done["steps"][0]["detail"]
    assert month in site.partitions() and state(site, month) == "restored"
    assert bytes_of(site, month) == before
    assert differences(site) == []
    assert site.document("partitions", "unarchive", month, "--yes")["result"] == "already"
    # Like every other partition: its constraints, its indexes, no leftover of the way back.
    with site.owner() as c:
        restored, other = (
            c.execute(
                "SELECT (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY pg_get_constraintdef(k.oid))"
                " FROM pg_constraint k WHERE k.conrelid = c.oid), (SELECT count(*) FROM pg_index x"
                " WHERE x.indrelid = c.oid AND x.indisvalid), pg_get_userbyid(c.relowner)"
                " FROM pg_class c WHERE c.oid = %s::regclass",
                (name,),
            ).fetchone()
            for name in (month, site.partitions()[-1])
        )
    assert restored and restored == other
    assert site.document("partitions", "status")["tables"][0]["index_gaps"] == []


def test_d4_a_kept_month_is_attached_again_without_the_store(site: Site, bucket: Store, month: str) -> None:
    before = bytes_of(site, month)
    constraints = "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass"
    had = site.value(constraints, month)
    archive(site, month)
    done = site.document("partitions", "unarchive", month, "--yes")
    assert "from the table" in done["steps"][0]["detail"]
    assert bytes_of(site, month) == before and month in site.partitions()
    assert site.value(constraints, month) == had, "the bounds that a concurrent detach leaves behind are gone"
    assert differences(site) == []
    # Again: a new archive, in a folder of its own.
    first = folder(site, month)
    archive(site, month)
    assert folder(site, month) != first and bucket.objects(first)
    drop_kept(site, month)
    assert differences(site) == []


def test_d4_a_frozen_month_refuses_late_rows_and_names_itself(
    site: Site, place: Warehouse, month: str
) -> None:
    day = f"{month[-7:].replace('_', '-')}-15"
    site.killed_at("carry", "partitions", "archive", month, "--yes")
    with site.owner() as c, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=month):
        c.execute(
            "INSERT INTO inventory_transactions (tenant_id, warehouse_id, sku_id, kind, to_location_id, quantity,"
            " created_at) VALUES (%s, %s, %s, 'receipt', %s, 1, %s)",
            (place.tenant, place.warehouse, place.skus[0], place.locations[0], day),
        )
    assert differences(site) == []
    archive(site, month)


def test_d4_an_archived_month_is_queried_without_the_database(site: Site, bucket: Store, month: str) -> None:
    sums = (
        f"SELECT sku_id, sum(quantity), count(*) FROM {month} WHERE to_location_id = %s GROUP BY 1 ORDER BY 1"
    )
    location = site.value(f"SELECT min(to_location_id) FROM {month}")
    with site.owner() as c:
        wanted = [tuple(map(int, row)) for row in c.execute(sums.encode(), (location,)).fetchall()]
        texts = {row[0] for row in c.execute(f"SELECT DISTINCT reference FROM {month}".encode()).fetchall()}
    archive(site, month)
    files = [str(p) for k, p in bucket.objects(folder(site, month)).items() if k.endswith(".parquet")]
    rows = pyarrow.dataset.dataset(files, format="parquet")
    table = rows.to_table(filter=pyarrow.compute.field("to_location_id") == location)
    found = table.group_by("sku_id").aggregate([("quantity", "sum"), ("quantity", "count")]).sort_by("sku_id")
    assert [tuple(row.values()) for row in found.to_pylist()] == [(s, q, n) for s, q, n in wanted] or [
        (row["sku_id"], row["quantity_sum"], row["quantity_count"]) for row in found.to_pylist()
    ] == wanted
    assert set(rows.to_table(columns=["reference"])["reference"].to_pylist()) == texts
    assert rows.schema.field("created_at").type == pyarrow.timestamp("us", "UTC")


# Beside a load


def test_d4_no_client_waits_for_an_archive_or_the_way_back(site: Site, place: Warehouse, month: str) -> None:
    with lock_waits(site.db) as waits, load(site, place) as found:
        for command in (("archive", month, "--part-mb", "1"), ("maintain",), ("unarchive", month)):
            process = site.start("partitions", *command, "--yes")
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            site.execute("UPDATE ops.partition_archives SET proven_at = now() - interval '8 days'"
                         " WHERE partition = %s AND state = 'proven'", month)  # fmt: skip
    assert month in site.partitions()
    kept(site, found)
    print(f"\n{len(found.took)} statements; worst {found.worst_ms:.0f} ms; waits for locks: {waits}")
    assert all(each <= STALL_MS for each in waits)


def test_d4_who_reads_for_long_is_waited_for_and_reads_on(site: Site, place: Warehouse, month: str) -> None:
    with site.db.connect("wms_owner") as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM inventory_transactions LIMIT 1")
        running = site.start("partitions", "archive", month, "--yes")
        time.sleep(2.5)
        assert running.poll() is None
        with load(site, place) as found:
            time.sleep(0.5)
        row = reader.execute(
            "SELECT count(*) FROM inventory_transactions WHERE created_at < '2020-01-01'"
        ).fetchone()
        assert row and row[0] >= ROWS
        reader.execute("COMMIT")
        _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    kept(site, found)
    assert state(site, month) == "proven"


# Killed


@pytest.mark.parametrize(
    "moment",
    [
        "record:after", "freeze", "freeze:after", "carry:after", "detach", "detach:after", "export", "export:1",
        "export:after", "prove", "prove:after",
    ],
)  # fmt: skip
def test_d4_an_archive_that_is_killed_goes_on(site: Site, place: Warehouse, month: str, moment: str) -> None:
    before = bytes_of(site, month)
    with load(site, place) as found:
        site.killed_at(moment, "partitions", "archive", month, "--yes", "--part-mb", "1")
        assert differences(site) == [] and bytes_of(site, month) == before
        assert state(site, month) == ("proven" if moment == "prove:after" else "open")
        done = archive(site, month)
    assert done["result"] == ("already" if moment == "prove:after" else "done")
    assert state(site, month) == "proven" and month not in site.partitions()
    kept(site, found)
    assert site.value("SELECT count(*) FROM ops.partition_archives WHERE partition = %s", month) == 1
    assert site.document("partitions", "verify", month, "--load")["whole"]
    if moment != "prove:after":
        assert "continued by" in site.operations_of("archive")[-2]["detail"]["reason"]
    drop_kept(site, month)
    assert differences(site) == []


@pytest.mark.parametrize("moment", ["prove:1"])
def test_d4_a_second_proof_that_is_killed_is_begun_again(site: Site, month: str, moment: str) -> None:
    site.killed_at("export:after", "partitions", "archive", month, "--yes", "--part-mb", "1")
    site.killed_at(moment, "partitions", "archive", month, "--yes", "--part-mb", "1")
    assert state(site, month) == "open"
    archive(site, month)
    assert state(site, month) == "proven"


def test_d4_killed_while_it_waits_to_detach_the_next_run_finishes_the_detach(site: Site, month: str) -> None:
    with site.db.connect("wms_owner") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM inventory_transactions LIMIT 1")
        running = site.start("partitions", "archive", month, "--yes")
        deadline = time.monotonic() + 20
        while not site.value("SELECT bool_or(inhdetachpending) FROM pg_inherits"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.kill()
        running.communicate(timeout=10)
        gone(site)
        reader.execute("COMMIT")
    assert differences(site) == []
    refused = site.cli("partitions", "unarchive", month, "--yes")
    assert refused.code == 3 and "interrupted" in refused.err
    archive(site, month)
    assert state(site, month) == "proven" and differences(site) == []


@pytest.mark.parametrize(
    "moment", ["restore", "restore:1", "restore:indexes", "compare:after", "attach", "attach:after"]
)
def test_d4_a_way_back_that_is_killed_leaves_nothing_and_is_begun_again(
    site: Site, place: Warehouse, month: str, moment: str
) -> None:
    before = bytes_of(site, month)
    archive(site, month)
    drop_kept(site, month)
    with load(site, place) as found:
        site.killed_at(moment, "partitions", "unarchive", month, "--yes")
        # The backend notices that nobody is there any more.
        deadline = time.monotonic() + 5
        while site.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'wmsctl%%unarchive%%'"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert site.value("SELECT to_regclass(%s)", month) is None and state(site, month) == "dropped"
        assert site.cli("partitions", "unarchive", month, "--yes").code == 0
    assert bytes_of(site, month) == before
    kept(site, found)


@pytest.mark.parametrize("moment", ["drop", "drop:after", "expire", "expire:manifest", "expire:after"])
def test_d4_retention_that_is_killed_goes_on(site: Site, bucket: Store, month: str, moment: str) -> None:
    archive(site, month)
    where = folder(site, month)
    site.execute(
        "UPDATE ops.partition_archives SET proven_at = now() - interval '8 days' WHERE partition = %s", month
    )
    if moment.startswith("expire"):
        assert site.cli("partitions", "maintain", "--yes").code == 0
        site.declare(msgspec.structs.replace(LEDGER, archive_months=24))
    site.killed_at(moment, "partitions", "maintain", "--yes")
    done = site.cli("partitions", "maintain", "--yes")
    assert done.code == 0, done.text
    assert state(site, month) == ("expired" if moment.startswith("expire") else "dropped")
    assert bool(bucket.objects(where)) != moment.startswith("expire")
    assert site.document("partitions", "maintain", "--dry-run")["steps"] == []
    if moment.startswith("expire"):
        gone = site.cli("partitions", "unarchive", month, "--yes")
        assert gone.code == 3 and "expired" in gone.err


# Damage


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("which", "how"),
    [
        ("csv/00002.csv.zst", "flipped"),
        ("csv/00001.csv.zst", "gone"),
        ("parquet/00001.parquet", "cut"),
        ("manifest.json", "flipped"),
        ("manifest.json", "gone"),
    ],
)
def test_d4_a_damaged_or_missing_file_is_found_before_anything_is_dropped(
    site: Site, bucket: Store, month: str, which: str, how: str
) -> None:
    before = bytes_of(site, month)
    archive(site, month)
    site.execute(
        "UPDATE ops.partition_archives SET proven_at = now() - interval '8 days' WHERE partition = %s", month
    )
    damage(bucket.objects()[folder(site, month) + which], how)
    found = site.cli("partitions", "verify", month)
    assert found.code == 1 and which in found.text and month in found.err
    refused = site.cli("partitions", "maintain", "--yes")
    assert refused.code == 1 and which in refused.err
    assert bytes_of(site, month) == before and state(site, month) == "proven"
    # The way out that the messages name: back, and archived anew.
    if which == "manifest.json":
        # Nothing tells what the table has to be compared with: only a person can say that it is right.
        assert site.cli("partitions", "unarchive", month, "--yes").code == 1
        site.execute(
            "UPDATE ops.partition_archives SET state = 'open', manifest = '' WHERE partition = %s", month
        )
    assert site.cli("partitions", "unarchive", month, "--yes").code == 0
    archive(site, month)
    drop_kept(site, month)
    assert differences(site) == []


def test_d4_a_kept_table_that_was_changed_is_not_dropped(site: Site, month: str) -> None:
    archive(site, month)
    site.execute(
        "UPDATE ops.partition_archives SET proven_at = now() - interval '8 days' WHERE partition = %s", month
    )
    with site.owner() as c:
        c.execute(f"ALTER TABLE {month} DISABLE TRIGGER USER".encode())
        c.execute(f"UPDATE {month} SET quantity = quantity + 1 WHERE ctid = '(0,1)'".encode())
    refused = site.cli("partitions", "maintain", "--yes")
    assert refused.code == 1 and "changed after it was archived" in refused.err
    with site.owner() as c:
        c.execute(
            f"UPDATE {month} SET quantity = quantity - 1 WHERE ctid = (SELECT max(ctid) FROM {month})".encode()
        )
    drop_kept(site, month)


def test_d4_a_dropped_month_with_a_damaged_file_does_not_come_back_half(
    site: Site, bucket: Store, month: str
) -> None:
    archive(site, month)
    drop_kept(site, month)
    path = bucket.objects()[f"{folder(site, month)}csv/00002.csv.zst"]
    good = path.read_bytes()
    damage(path, "flipped")
    done = site.cli("partitions", "unarchive", month, "--yes")
    assert done.code == 1 and "csv/00002.csv.zst is damaged" in done.err
    assert site.value("SELECT to_regclass(%s)", month) is None and state(site, month) == "dropped"
    path.write_bytes(good)
    assert site.cli("partitions", "unarchive", month, "--yes").code == 0
    assert differences(site) == []


def test_d4_what_is_wrong_in_the_store_before_the_proof_is_exported_again(
    site: Site, bucket: Store, month: str
) -> None:
    site.killed_at("export:after", "partitions", "archive", month, "--yes", "--part-mb", "1")
    damage(bucket.objects()[f"{folder(site, month)}csv/00001.csv.zst"], "flipped")
    failed = site.cli("partitions", "archive", month, "--yes", "--part-mb", "1")
    assert (
        failed.code == 1 and "is damaged" in failed.err and f"wmsctl partitions archive {month}" in failed.err
    )
    assert state(site, month) == "open" and differences(site) == []
    assert archive(site, month)["archives"][0]["rows"] == ROWS
    assert site.document("partitions", "verify", month)["whole"]


def test_d4_objects_that_no_record_tells_of_are_named(site: Site, bucket: Store, month: str) -> None:
    archive(site, month)
    stray = f"partitions/wms/inventory_transactions/{month}/somebody-elses/csv/00001.csv.zst"
    bucket.client().put_object(Bucket=BUCKET, Key=stray, Body=b"x")
    assert site.document("partitions", "verify")["strangers"] == ["somebody-elses"]
    inside = f"{folder(site, month)}csv/00009.csv.zst"
    bucket.client().put_object(Bucket=BUCKET, Key=inside, Body=b"x")
    found = site.cli("partitions", "verify", month)
    assert found.code == 1 and "is not part of the archive" in found.out
    for key in (stray, inside):
        bucket.client().delete_object(Bucket=BUCKET, Key=key)


# Without a store


def test_d4_without_the_store_nothing_begins_and_partitions_are_made_all_the_same(
    site: Site, bucket: Store, month: str
) -> None:
    last = site.partitions()[-1]
    site.execute(f"DROP TABLE {last}")
    bucket.stop()
    try:
        done = site.cli("partitions", "archive", month, "--yes")
        assert done.code == 4 and "object store" in done.err
        assert month in site.partitions()
        assert site.value("SELECT count(*) FROM ops.partition_archives WHERE partition = %s", month) == 0
        made = site.cli("partitions", "maintain", "--yes")
        assert made.code == 0 and last in site.partitions(), made.text
    finally:
        bucket.start()


def test_d4_creation_succeeds_and_the_failed_drop_is_told_apart(
    site: Site, bucket: Store, month: str
) -> None:
    archive(site, month)
    site.execute(
        "UPDATE ops.partition_archives SET proven_at = now() - interval '8 days' WHERE partition = %s", month
    )
    last = site.partitions()[-1]
    site.execute(f"DROP TABLE {last}")
    bucket.stop()
    try:
        made = site.cli("partitions", "maintain", "--yes")
    finally:
        bucket.start()
    assert made.code == 1 and "object store" in made.err
    assert last in site.partitions() and state(site, month) == "proven"
    drop_kept(site, month)


def test_d4_a_store_that_dies_in_the_middle_loses_nothing(site: Site, bucket: Store, month: str) -> None:
    running = site.start("partitions", "archive", month, "--yes", "--part-mb", "1")
    deadline = time.monotonic() + 30
    while month in site.partitions():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    bucket.stop()
    try:
        _, err = running.communicate(timeout=60)
    finally:
        bucket.start()
    assert running.returncode in (0, 4), err
    assert differences(site) == []
    archive(site, month)
    assert state(site, month) == "proven" and site.document("partitions", "verify", month)["whole"]


def test_d4_a_wrong_key_of_the_store_is_refused_without_naming_it(site: Site, month: str) -> None:
    secrets = site.folder / "secrets.json"
    text = secrets.read_text()
    try:
        secrets.write_text(text.replace("secret-of-the-store", "wrong-of-the-store"))
        done = site.cli("partitions", "archive", month, "--yes")
    finally:
        secrets.write_text(text)
    assert done.code == 1 and "refuses" in done.err and "of-the-store" not in done.text
    assert month in site.partitions()


# What is refused


def test_d4_a_table_that_others_refer_to_is_not_archived(site: Site, place: Warehouse, month: str) -> None:
    with site.owner() as c:
        c.execute(
            "CREATE TABLE labels (a bigint, b bigint, c bigint, d timestamptz, CONSTRAINT labels_move FOREIGN KEY"
            " (a, b, c, d) REFERENCES inventory_transactions)"
        )
    try:
        done = site.cli("partitions", "archive", month, "--yes")
        assert done.code == 3 and "labels.labels_move" in done.err
        assert month in site.partitions()
    finally:
        site.execute("DROP TABLE labels")


def test_d4_only_what_is_over_and_not_online_is_archived(site: Site, month: str) -> None:
    here = period_of(datetime.now(UTC), "month")
    for period, words in ((here, "not over"), (here.previous(), "stay online"), (here.next(), "not over")):
        done = site.cli("partitions", "archive", period.name("inventory_transactions"), "--yes")
        assert done.code == 3 and words in done.err, done.text
    done = site.cli("partitions", "archive", "inventory_transactions_1999_01", "--yes")
    assert done.code == 3 and "no declared table" in done.err
    assert site.cli("partitions", "verify", "inventory_transactions_1999_01").code == 2


def test_d4_a_table_with_a_default_partition_is_not_archived(site: Site) -> None:
    with site.owner() as c:
        c.execute("CREATE TABLE plain (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        c.execute("CREATE TABLE plain_rest PARTITION OF plain DEFAULT")
        c.execute(
            "CREATE TABLE plain_2011_01 PARTITION OF plain FOR VALUES FROM ('2011-01-01+00') TO ('2011-02-01+00')"
        )
    site.declare(msgspec.structs.replace(LEDGER, table="plain", carry=""))
    try:
        done = site.cli("partitions", "archive", "plain_2011_01", "--yes")
        assert done.code == 3 and "default partition plain_rest" in done.err
        # All that are due: what cannot be is said, and it is no error.
        done = site.cli("partitions", "archive", "--yes")
        assert done.code == 0 and "plain_2011_01 is not archived" in done.err
    finally:
        site.execute("DROP TABLE plain")


# Any table

ZOO = """
CREATE TABLE zoo (
    gone integer, id bigint GENERATED BY DEFAULT AS IDENTITY, at timestamptz NOT NULL, small smallint, number integer,
    amount numeric(12, 3), loose numeric, ratio double precision, single real, flag boolean, name varchar(40),
    fixed char(5), born date, wall timestamp, span interval, key uuid, raw bytea, document jsonb, old json, tags text[],
    place inet, "Odd ""Name" text, doubled bigint GENERATED ALWAYS AS (id * 2) STORED
) PARTITION BY RANGE (at)
"""
ANIMALS = """
INSERT INTO zoo (at, small, number, amount, loose, ratio, single, flag, name, fixed, born, wall, span, key, raw,
    document, old, tags, place, "Odd ""Name")
SELECT timestamptz '2019-12-30 00:00+00' + n * interval '1 hour', n, -n, n / 7.0, numeric 'NaN',
    CASE n % 3 WHEN 0 THEN float8 'NaN' WHEN 1 THEN float8 '-Infinity' ELSE float8 '-0' END, n / 3.0, n % 2 = 0,
    E'a\\nb\\r"c\\\\' || n, 'x', date '0001-02-03', timestamp '2019-12-31 23:59:59.999999',
    interval '1 mon -2 days 03:00', md5(n::text)::uuid, decode(md5(n::text), 'hex'), jsonb '{"b": 1.00, "a": null}',
    json '{"z" : 1,  "a":2}', ARRAY['a,b', NULL, '"'], inet '10.0.0.1/8', CASE WHEN n % 2 = 0 THEN '' END
FROM generate_series(0, 99) n;
INSERT INTO zoo (at, loose, name, tags, "Odd ""Name")
    VALUES ('2020-01-05 23:59:59.999999+00', 1.10, E'\\\\.', '{}', 'NULL')
"""


def test_d4_every_type_of_value_survives_and_columns_that_came_later_keep_their_default(site: Site) -> None:
    with site.owner() as c:
        c.execute(ZOO.encode())
        c.execute("ALTER TABLE zoo DROP COLUMN gone")
        c.execute('CREATE INDEX zoo_odd ON zoo ("Odd ""Name") WHERE flag')
        c.execute(
            "CREATE TABLE zoo_2020_w01 PARTITION OF zoo FOR VALUES FROM ('2019-12-30+00') TO ('2020-01-06+00')"
        )
        c.execute(ANIMALS.encode())
    site.declare(msgspec.structs.replace(LEDGER, table="zoo", interval="week", carry=""))
    before = bytes_of(site, "zoo_2020_w01")
    archive(site, "zoo_2020_w01")
    assert site.document("partitions", "verify", "zoo_2020_w01", "--load")["whole"]
    drop_kept(site, "zoo_2020_w01")
    site.execute("ALTER TABLE zoo ADD COLUMN later text DEFAULT 'new'")
    assert site.cli("partitions", "unarchive", "zoo_2020_w01", "--yes").code == 0
    after = bytes_of(site, "zoo_2020_w01")
    assert [line.rsplit(b"\t", 1)[0] for line in after.splitlines()] == before.splitlines()
    with site.owner() as c:
        row = c.execute(
            "SELECT count(*), count(*) FILTER (WHERE later = 'new' AND doubled = id * 2) FROM zoo"
        ).fetchone()
    assert row == (101, 101)

    archive(site, "zoo_2020_w01")
    drop_kept(site, "zoo_2020_w01")
    site.execute("ALTER TABLE zoo ALTER number TYPE bigint")
    done = site.cli("partitions", "unarchive", "zoo_2020_w01", "--yes")
    assert done.code == 3 and "zoo.number is of type bigint now" in done.err
    site.execute("ALTER TABLE zoo DROP COLUMN number")
    done = site.cli("partitions", "unarchive", "zoo_2020_w01", "--yes")
    assert done.code == 3 and "no column number any more" in done.err
    site.execute("DROP TABLE zoo")


def test_d4_an_empty_month_is_archived_and_comes_back(site: Site) -> None:
    site.declare(LEDGER)
    site.execute("SELECT ensure_transaction_partitions('2008-05-01', 1)")
    name = "inventory_transactions_2008_05"
    assert archive(site, name)["archives"][0]["rows"] == 0
    drop_kept(site, name)
    assert site.cli("partitions", "unarchive", name, "--yes").code == 0
    assert name in site.partitions()


def test_d4_everything_that_is_due_goes_in_one_run_and_the_plan_said_so(site: Site, place: Warehouse) -> None:
    site.declare(LEDGER)
    names = [history(site, place, next(MONTHS), 50) for _ in range(2)]
    said = site.document("partitions", "plan", "--months", "1")
    assert set(names) <= {e["partition"] for e in said["items"] if e["action"] == "archive"}
    assert {e["partition"] for e in said["items"] if e["action"] == "drop"} >= set(names)
    done = site.document("partitions", "archive", "--yes")
    assert set(names) <= {each["partition"] for each in done["archives"]}
    assert differences(site) == []
    (table,) = site.document("partitions", "status")["tables"]
    assert table["due"] == [], done["notes"]
