"""Which errors are tried again, how long between, and what a connection string holds."""

from __future__ import annotations

import pytest
from psycopg import DataError, InterfaceError, OperationalError, conninfo, errors
from psycopg_pool import PoolTimeout

from wms.readiness import UNSEEN, Check, schema_check, verdict
from wms.settings import DatabaseSettings
from wms.store.conninfo import conninfo as make
from wms.store.retry import LONGEST_DELAY_S, AttemptTimeout, delay_s, not_migrated, reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("server closed the connection unexpectedly"), "connection"),
        (errors.AdminShutdown(), "connection"),
        (errors.CannotConnectNow(), "connection"),
        (errors.ProtocolViolation("query_wait_timeout"), "connection"),
        (errors.ConnectionFailure(), "connection"),
        (PoolTimeout(), "pool"),
        (errors.SerializationFailure(), "transient"),
        (errors.DeadlockDetected(), "transient"),
        (errors.LockNotAvailable(), "transient"),
        (errors.ReadOnlySqlTransaction(), "transient"),
        (errors.QueryCanceled(), "timeout"),
        (AttemptTimeout(), "timeout"),
        (errors.CheckViolation(), None),
        (errors.UndefinedFunction(), None),
        (errors.InsufficientPrivilege(), None),
        (errors.DiskFull(), None),
        (DataError(), None),
        (InterfaceError(), None),
        (ValueError(), None),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, expected: str | None) -> None:
    assert reason(error) == expected


def test_a_missing_function_means_a_missing_migration() -> None:
    assert not_migrated(errors.UndefinedFunction())
    assert not not_migrated(errors.CheckViolation())


def test_delays_grow_to_a_ceiling_and_are_spread() -> None:
    assert delay_s(0, 1.0) < delay_s(1, 1.0) < delay_s(3, 1.0)
    assert delay_s(500, 1.0) == LONGEST_DELAY_S
    assert delay_s(500, 0.0) == LONGEST_DELAY_S / 2


def test_a_connection_string_has_all_hosts_and_no_password() -> None:
    settings = DatabaseSettings(
        (("10.0.0.1", 6432), ("10.0.0.2", 6433)), "wms_app", "hush", "disable", None, 2
    )
    found = conninfo.conninfo_to_dict(make(settings, "wms", "wms-write/app 1"))
    assert found["host"] == "10.0.0.1,10.0.0.2"
    assert found["port"] == "6432,6433"
    assert found["load_balance_hosts"] == "random"
    assert found["application_name"] == "wms-write/app 1"
    assert "hush" not in str(found)


def test_a_missing_database_degrades_and_only_draining_is_not_ready() -> None:
    up, away = Check(True, schema=3), Check(False, "gone")
    assert verdict({"a": up, "b": up}, False) == verdict({}, False)
    assert (verdict({"a": up}, False).state, verdict({"a": up}, False).status) == ("ready", 200)
    for checks in ({"a": up, "b": away}, {"a": away, "b": away}, {"a": UNSEEN}):
        assert (verdict(checks, False).state, verdict(checks, False).status) == ("degraded", 200)
    assert (verdict({"a": up}, True).state, verdict({"a": up}, True).status) == ("draining", 503)


def test_an_old_schema_degrades_and_a_newer_one_does_not() -> None:
    assert not schema_check(2, 3).ok
    assert "schema is at 0002, this release needs 0003" in schema_check(2, 3).detail
    assert schema_check(3, 3).ok
    assert schema_check(4, 3).ok
