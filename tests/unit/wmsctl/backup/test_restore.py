"""What a recovery's log, history and position tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.wmsctl.backup.test_restore_plan import Place as Repository
from tests.unit.wmsctl.backup.test_restore_plan import at, planned
from wmsctl.backup import recovery, wal
from wmsctl.backup.recovery import Log, Reached
from wmsctl.backup.restore import named
from wmsctl.backup.restore_plan import RestorePlan, target
from wmsctl.clients.postgres import lsn_text
from wmsctl.errors import Failed

LOG = """2026-11-24 15:16:31.591 GMT [1] LOG:  starting archive recovery
2026-11-24 15:16:32.430 GMT [1] LOG:  restored log file "000000010000000000000006" from archive
2026-11-24 15:16:32.462 GMT [1] LOG:  redo starts at 0/6000028
2026-11-24 15:16:32.500 GMT [2] FATAL:  the database system is starting up
2026-11-24 15:16:32.562 GMT [1] LOG:  restored log file "000000010000000000000007" from archive
"""
CONTROL = """max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Bytes per WAL segment:                16777216
"""


def chosen(text: str = "") -> RestorePlan:
    """A plan of a restore to minute 20.5, or to another target."""
    place = Repository(60)
    place.backup("full", 10)
    return planned(place.plan(text or at(20.5)))


def reached(plan: RestorePlan, **changes: Any) -> Reached:
    """Where a recovery by this plan ends well."""
    when = plan.target.at or datetime(2026, 11, 23, 0, 20, tzinfo=UTC)
    last = wal.segment(plan.wal_last).number if plan.wal_last else 0
    lsn = max(plan.backup.lsn_stop, plan.target.lsn or 0, (last + 1) * wal.SEGMENT_BYTES - 1)
    good = Reached(
        lsn_text(lsn), when - timedelta(seconds=1), plan.timeline, plan.timeline + 1, "before then"
    )
    return replace(good, **changes)


# What a recovery tells


def test_a_log_is_read_as_it_grows() -> None:
    log = Log()
    for start in range(0, len(LOG), 7):
        log.read(LOG[start : start + 7])
    assert (log.restored, log.segment, log.redo, log.ready) == (2, "000000010000000000000007", True, False)
    assert log.fatal == []
    log.read("… LOG:  database system is ready to accept connections\n")
    assert log.ready


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            "recovery ended before configured recovery target was reached",
            "nothing was committed after",
            "--to latest",
        ),
        (
            "requested recovery stop point is before consistent recovery point",
            "is before the end of",
            "--set",
        ),
        ("could not locate a valid checkpoint record", "could not be fetched", "backup verify"),
        ("could not extend file: No space left on device", "no space is left", "run it again"),
        ("something else", "something else", "verify"),
    ],
)
def test_why_a_recovery_ended_is_said(said: str, message: str, hint: str) -> None:
    log = Log()
    log.read(f"2026 [1] FATAL:  {said}\n")
    error = recovery.meaning(log, chosen())
    assert message in error.message and said in error.message and hint in error.hint


def test_a_scratch_instance_has_what_the_primary_had_and_no_way_out() -> None:
    needed = recovery.settings(CONTROL)
    assert needed["max_connections"] == 100 and needed["max_locks_per_transaction"] == 64
    text = recovery.configuration("/s/x", "/s/x/data", "x", needed)
    assert "max_connections = 100\n" in text and "listen_addresses = ''\n" in text
    assert recovery.ISOLATION["archive_mode"] == "off" and recovery.ISOLATION["archive_command"] == ""
    with pytest.raises(Failed, match="max_connections"):
        recovery.settings("nothing")


def test_where_recovery_ended_stands_in_the_history() -> None:
    history = '1\t0/5000000\tno recovery target specified\n\n2\t0/7000450\tat restore point "a"\n'
    found = recovery.reached(history, "0/7000450", None, 3)
    assert (found.timeline, found.new_timeline, found.reason) == (2, 3, 'at restore point "a"')
    with pytest.raises(Failed, match="no history"):
        recovery.reached("", "0/7000450", None, 3)


def test_what_is_at_the_target_is_proven() -> None:
    for text in (at(20.5), "latest", "lsn=0/15000000"):
        plan = chosen(text)
        recovery.prove(plan, reached(plan))
    plan = chosen("name=release")
    recovery.prove(plan, reached(plan, reason='at restore point "release"'))


@pytest.mark.parametrize(
    ("text", "changes", "wrong"),
    [
        ("", {"timeline": 7}, "timeline 7 was followed"),
        ("", {"lsn": "0/1"}, "before the backup's end"),
        ("", {"time": datetime(2026, 11, 23, 0, 21, tzinfo=UTC)}, "a commit of 2026-11-23 00:21"),
        ("lsn=0/15000000", {"lsn": "0/14FFFFFF"}, "replay ended at 0/14FFFFFF"),
        ("name=release", {"reason": 'at restore point "other"'}, "other"),
        ("latest", {"lsn": "0/10000000"}, "before segment"),
    ],
)
def test_what_is_elsewhere_is_not_called_restored(text: str, changes: dict[str, Any], wrong: str) -> None:
    plan = chosen(text)
    with pytest.raises(Failed, match=wrong):
        recovery.prove(plan, reached(plan, **changes))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("latest", "latest"),
        ("time=2026-11-24T10:00:00-03:00", "time-20261124t130000"),
        ("lsn=16/B374D848", "lsn-16b374d848"),
        ("name=Before the deploy", "name-before-the-deploy"),
        ("backup=20261101-000002F", "backup-20261101-000002f"),
    ],
)
def test_the_same_target_names_the_same_instance(text: str, name: str) -> None:
    assert named(target(text)) == name


# In place
