"""What the migration runner decides, and that the files it brings are in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wms.migrations import files
from wms.migrations.files import Migration, MigrationError, pending

ONE, TWO, THREE = (Migration(n, f"m{n}", "", f"sum{n}") for n in (1, 2, 3))
ALL = (ONE, TWO, THREE)


def test_only_what_is_not_applied_is_pending() -> None:
    assert pending(ALL, {}) == ALL
    assert pending(ALL, {1: "sum1"}) == (TWO, THREE)
    assert pending(ALL, {1: "sum1", 2: "sum2", 3: "sum3"}) == ()


def test_an_edited_file_is_refused_even_when_nothing_is_pending() -> None:
    with pytest.raises(MigrationError, match=r"0002_m2\.sql has changed since it was applied"):
        pending(ALL, {1: "sum1", 2: "other", 3: "sum3"})


def test_a_file_that_slipped_in_before_an_applied_one_is_refused() -> None:
    with pytest.raises(MigrationError, match=r"0002_m2\.sql was never applied, although 0003 was"):
        pending(ALL, {1: "sum1", 3: "sum3"})


def test_a_database_ahead_of_this_release_is_fine() -> None:
    assert pending((ONE,), {1: "sum1", 2: "sum2"}) == ()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["0001_a.sql", "0003_b.sql"], "expected number 0002"),
        (["0001_a.sql", "0001_b.sql"], "expected number 0002"),
        (["1_a.sql"], "NNNN_words"),
        (["0001_A.sql"], "NNNN_words"),
    ],
)
def test_misnamed_files_are_refused(tmp_path: Path, names: list[str], text: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=text):
        files.read(tmp_path)


def test_the_checksum_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    before = files.read(tmp_path)[0].checksum
    (tmp_path / "0001_a.sql").write_text("SELECT 1 ")
    assert files.read(tmp_path)[0].checksum != before


OF_NO_TENANT = {"event_relay", "periodic_jobs"}
"""What all processes share: who relays, and which job was done when."""


def test_every_table_of_the_schema_has_row_level_security_and_a_policy() -> None:
    text = "\n".join(migration.sql for migration in files.read())
    tables = set(re.findall(r"^CREATE TABLE (\w+)", text, re.MULTILINE))
    assert {"inventory_master", "inventory_transactions", "api_keys", "idempotency_keys"} <= tables
    for table in tables:
        assert f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" in text, table
        if table in OF_NO_TENANT:
            # Without a policy and a grant, nobody but the owner's functions gets at a row.
            assert not re.search(rf"(POLICY \w+|GRANT [^;]*) ON {table}\b", text), table
            continue
        assert re.search(
            rf"CREATE POLICY tenant ON {table} USING \(tenant_id = current_tenant\(\)\);", text
        ), table


def test_functions_that_run_as_the_owner_fix_their_search_path_and_are_not_public() -> None:
    text = "\n".join(migration.sql for migration in files.read())
    found = re.findall(r"CREATE FUNCTION (\w+)\([^)]*\)[^;]*?SECURITY DEFINER\s+(.*)", text)
    assert {name for name, _ in found} == {
        "tenant_of_api_key",
        "principal_of_api_key",
        "tenant_of_refresh_token",
        "forget_idempotency_keys",
        "forget_sessions",
        "skus_matching",
        # Of all tenants, for the worker: tests/live/test_isolation.py says who may call which.
        "relay_turn",
        "forget_events",
        "claim_job",
        "finish_job",
        "classify_abc",
        "warm_warehouses",
        "warm_skus",
        "ended_credentials",
    }
    for name, following in found:
        assert following == "SET search_path = pg_catalog, pg_temp"
        assert re.search(rf"REVOKE ALL ON FUNCTION {name}\([^)]*\) FROM PUBLIC;", text)
