"""Restores on a platform that runs: into a scratch instance, killed in the middle, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg
import pytest

from tests.support.platform import Live, eventually

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


@pytest.fixture
def backed(platform: Live) -> Iterator[Live]:
    """The platform with a backup, and without scratch instances before and after."""
    if not platform.document("backup", "list")["backups"]:
        made = platform.cli("backup", "run", "--type", "full", "--yes")
        assert made.code == 0, made.text
    drop_all(platform)
    yield platform
    drop_all(platform)


def instances(platform: Live) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.document("backup", "scratch", "list")["items"]
    return found


def drop_all(platform: Live) -> None:
    for each in instances(platform):
        dropped = platform.cli("backup", "scratch", "drop", each["name"], "--yes")
        assert dropped.code == 0, dropped.text


def scratch(document: dict[str, Any], sql: str, database: str = "wms") -> list[tuple[Any, ...]]:
    """Rows from a scratch instance."""
    with psycopg.connect(
        host=document["socket"], dbname=database, user="postgres", autocommit=True, connect_timeout=5
    ) as connection:
        return connection.execute(sql.encode()).fetchall()


def moment(platform: Live) -> datetime:
    """Now, by the primary's clock, with a commit before and one after it."""
    ((at,),) = platform.on(platform.leader(), "SELECT clock_timestamp()")
    time.sleep(0.05)
    assert isinstance(at, datetime)
    return at.astimezone(UTC)


def timelines(platform: Live) -> set[str]:
    """Timelines of the newest WAL in each archive."""
    archives = platform.document("backup", "list")["archives"]
    return {archive["last"][:8] for archive in archives if archive["last"]}


@contextmanager
def table(platform: Live, name: str, rows: int) -> Iterator[None]:
    """A table with `rows` rows in the application's database."""
    leader = platform.leader()
    platform.on(leader, f"CREATE TABLE {name} (id bigint PRIMARY KEY, note text NOT NULL)")
    platform.on(leader, f"INSERT INTO {name} SELECT n, 'note ' || n FROM generate_series(1, {rows}) n")
    try:
        yield
    finally:
        platform.on(platform.leader(), f"DROP TABLE IF EXISTS {name}")


@pytest.mark.full
def test_r4_the_moment_before_a_mistake_is_brought_back_beside_what_runs(backed: Live) -> None:
    with table(backed, "public.restored", 1000):
        before, seen = moment(backed), timelines(backed)
        backed.on(backed.leader(), "DELETE FROM public.restored WHERE id % 2 = 0")
        # What no archive holds yet cannot be brought back: it is refused until the segment is there.
        backed.on(backed.leader(), "SELECT pg_switch_wal()")
        look = ("backup", "restore", "--to", f"time={before.isoformat()}", "--dry-run")
        eventually(lambda: backed.cli(*look).code == 0, 30, lambda: backed.cli(*look).text)
        looked = backed.document(*look)
        assert looked["result"] == "planned" and instances(backed) == []
        assert looked["forecast"]["least"] <= looked["forecast"]["usual"] <= looked["forecast"]["most"]
        done = backed.document(
            "backup",
            "restore",
            "--to",
            f"time={before.isoformat()}",
            "--name",
            "before",
            "--check",
            timeout=120,
        )
        assert done["result"] == "done" and done["checked"]
        assert datetime.fromisoformat(done["reached"]["time"]) <= before
        assert done["reached"]["timeline"] == backed.timeline() < done["reached"]["new_timeline"]
        assert scratch(done, "SELECT count(*) FROM public.restored") == [(1000,)]
        assert scratch(
            done, "SELECT current_setting('archive_mode'), current_setting('listen_addresses')"
        ) == [("off", "")]
        # It writes WAL of a timeline that the archive must never see.
        scratch(done, "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'test', 'x')")
        assert backed.on(backed.leader(), "SELECT count(*) FROM public.restored") == [(500,)]
    ((kept,),) = [(each,) for each in instances(backed)]
    assert (kept["name"], kept["state"], kept["running"]) == ("before", "ready", True)
    again = backed.cli("backup", "restore", "--to", f"time={before.isoformat()}", "--name", "before")
    assert again.code == 3 and "there already" in again.err, again.text
    assert timelines(backed) == seen
    dropped = backed.document("backup", "scratch", "drop", "before", "--yes")
    assert dropped["result"] == "done" and instances(backed) == []
    assert not Path(done["socket"]).exists()


@pytest.mark.parametrize("at", ["copy:after", "replay:after"])
def test_killed_inside_a_restore_it_is_taken_up_again(backed: Live, at: str) -> None:
    died = backed.cli("backup", "restore", "--to", "latest", env={"WMSCTL_DIE_AT": at})
    assert died.code == -SIGKILL, died.text
    (left,) = instances(backed)
    assert (left["name"], left["state"]) == ("latest", "restoring")
    other = backed.cli("backup", "restore", "--to", "time=2026-01-01T00:00:00Z", "--name", "latest")
    assert other.code == 3, other.text
    done = backed.document("backup", "restore", "--to", "latest", timeout=120)
    assert done["result"] == "done"
    (whole,) = instances(backed)
    assert (whole["state"], whole["running"]) == ("ready", True)
    with backed.writing() as load:
        load.account()


def test_what_cannot_be_restored_is_refused_and_says_what_can(backed: Live) -> None:
    early = backed.cli("backup", "restore", "--to", "time=2020-01-01T00:00:00Z")
    assert early.code == 3 and "before everything that is kept" in early.err, early.text
    assert "What can be restored: 20" in early.err, early.text
    late = backed.cli("backup", "restore", "--to", "time=2100-01-01T00:00:00Z")
    assert late.code == 3 and "still to come" in late.err, late.text
    small = backed.cli("backup", "restore", "--to", "latest", "--reserve", "1e9")
    assert small.code == 3 and "too small" in small.err and "nothing was written" in small.err, small.text
    lost = backed.cli("backup", "restore", "--to", "backup=20200101-000000F")
    assert lost.code == 3 and "no backup 20200101-000000F" in lost.err, lost.text
    assert backed.cli("backup", "restore", "--to", "yesterday").code == 2
    # No transaction is committed after the newest one: recovery never gets there.
    unknown = backed.cli("backup", "restore", "--to", "name=nobody-made-this", "--name", "unknown")
    assert unknown.code == 1 and "was reached" in unknown.err, unknown.text


def test_a_wrong_passphrase_and_a_store_that_is_away_are_named(backed: Live) -> None:
    node = backed.document("backup", "restore", "--to", "latest", "--dry-run")["node"]
    path = backed.home / "nodes" / node / "pgbackrest" / "pgbackrest.conf"
    right = path.read_text()
    wrong = "\n".join(
        # Of one repository: the other is taken, with a warning.
        re.sub(r"^(repo[12]-cipher-pass=).*", r"\1not-this-one", line)
        for line in right.split("\n")
    )
    path.write_text(wrong)
    try:
        refused = backed.cli("backup", "restore", "--to", "latest")
    finally:
        path.write_text(right)
    assert refused.code in (3, 4) and "passphrase" in refused.err, refused.text
    assert "not-this-one" not in refused.text
    store = backed.inventory.store
    assert store is not None
    backed.document("node", "kill", store.endpoint.node, "--yes")
    try:
        away = backed.cli("backup", "restore", "--to", "latest")
    finally:
        backed.document("node", "power-on", store.endpoint.node)
    assert away.code == 4 and "object store" in away.err, away.text
    assert instances(backed) == []
    eventually(lambda: not backed.trouble(), 60, lambda: str(backed.trouble()))
