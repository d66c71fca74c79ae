"""The merged history, and what is read from the store and the proxies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from wmsctl.clients.etcd import KeyValue
from wmsctl.clients.haproxy import parse_routes
from wmsctl.clients.patroni import HistoryEntry
from wmsctl.errors import Failed
from wmsctl.failover import history, observe
from wmsctl.failover.snapshot import SyncView
from wmsctl.journal import Operation


def entry(timeline: int, at: str, leader: str) -> HistoryEntry:
    return HistoryEntry(timeline, 0x3000060, "no recovery target specified", at, leader)


def operation(kind: str, started: str, finished: str, result: Any = "done", **detail: Any) -> Operation:
    plan = {"leader": "pg-1", "candidate": "pg-2", "dead": "pg-2", "timeline": 1, "node": "pg-2"}
    return Operation(
        f"{started}-id",
        f"failover.{kind}",
        started,
        "ana",
        "host",
        1,
        plan,
        {},
        (),
        (),
        result,
        finished,
        detail,
    )


ENTRIES = (
    entry(1, "2026-01-02T10:00:02.000000+00:00", "pg-2"),
    entry(2, "2026-01-02T12:00:00.000000+01:00", "pg-3"),
)
SWITCH = operation(
    "switchover",
    "2026-01-02T10:00:00.000Z",
    "2026-01-02T10:00:05.000Z",
    leader="pg-2",
    timeline=2,
    write_stall=640.0,
)


class TestHistory:
    def test_an_operation_takes_its_change_with_it(self) -> None:
        events = history.merge(ENTRIES, [SWITCH])
        assert [(e.kind, e.old_leader, e.leader, e.timeline, e.operator) for e in events] == [
            ("automatic", "pg-2", "pg-3", 3, "Patroni"),
            ("switchover", "pg-1", "pg-2", 2, "ana"),
        ]
        assert events[1].write_gap_ms == 640.0

    def test_times_are_utc_and_the_newest_comes_first(self) -> None:
        events = history.merge(ENTRIES, [])
        assert [e.at for e in events] == ["2026-01-02T11:00:00.000Z", "2026-01-02T10:00:02.000Z"]

    def test_a_failed_operation_owns_what_happened_meanwhile(self) -> None:
        failed = operation("switchover", "2026-01-02T10:00:00.000Z", "2026-01-02T10:00:05.000Z", "failed")
        events = history.merge(ENTRIES[:1], [failed])
        assert [(e.kind, e.result, e.leader, e.timeline) for e in events] == [
            ("switchover", "failed", "pg-2", 2)
        ]

    def test_an_unfinished_one_is_shown_as_such(self) -> None:
        events = history.merge([], [operation("promote", "2026-01-02T10:00:00.000Z", "", "")])
        assert [(e.result, e.old_leader) for e in events] == [("unfinished", "pg-2")]

    def test_a_rejoin_changes_no_timeline(self) -> None:
        rejoin = operation("rejoin", "2026-01-02T10:00:00.000Z", "2026-01-02T10:00:05.000Z", timeline=2)
        kinds = [e.kind for e in history.merge(ENTRIES, [rejoin])]
        assert kinds.count("automatic") == 2 and kinds.count("rejoin") == 1

    def test_is_limited(self) -> None:
        assert len(history.merge(ENTRIES, [SWITCH], limit=1)) == 1


class TestStore:
    def test_the_sync_key_with_and_without_a_quorum(self) -> None:
        document = {"leader": "pg-1", "sync_standby": "pg-2, pg-3,pg-4", "quorum": 1}
        voters = frozenset({"pg-2", "pg-3", "pg-4"})
        assert observe.parse_sync(document) == SyncView("pg-1", voters, 1)
        assert observe.parse_sync({"leader": "pg-1", "sync_standby": "pg-2"}) == SyncView(
            "pg-1", frozenset({"pg-2"}), 0
        )

    @pytest.mark.parametrize("empty", [{}, {"leader": None, "sync_standby": None}])
    def test_no_leader_means_not_in_force(self, empty: dict[str, Any]) -> None:
        assert observe.parse_sync(empty) is None

    @pytest.mark.parametrize(
        ("text", "age"),
        [
            ('[[1,5,"r","2026-01-02T11:59:00+00:00","pg-2"]]', 60.0),
            ('[[1,5,"r","2026-01-02T12:59:00+01:00","pg-2"]]', 60.0),
            ("[]", None),
            ('[[1,5,"r"]]', None),
            ("nonsense", None),
        ],
    )
    def test_the_age_of_the_last_promotion(self, text: str, age: float | None) -> None:
        key = KeyValue("/wms/postgres/history", text, 1, 1, 0)
        now = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
        assert observe._promotion_age({"history": key}, now) == age
        assert observe._promotion_age({}, now) is None


class TestRoutes:
    page = (
        "# pxname,svname,qcur,status,weight\n"
        "write,FRONTEND,,OPEN,\n"
        "write,pg-1,0,UP,1\n"
        "write,pg-2,0,DOWN,1\n"
        "write,pg-3,0,UP 1/2,1\n"
        "write,pg-4,0,DOWN 1/2,1\n"
        "write,BACKEND,0,UP,2\n"
        "read,pg-2,0,UP,1\n"
    )

    def test_those_on_their_way_down_still_get_connections(self) -> None:
        routes = parse_routes(self.page)
        assert routes.up("write") == ("pg-1", "pg-3")
        assert routes.up("read") == ("pg-2",)

    def test_anything_else_is_an_error(self) -> None:
        with pytest.raises(Failed, match="statistics"):
            parse_routes("<html>")
