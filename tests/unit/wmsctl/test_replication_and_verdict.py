from __future__ import annotations

import dataclasses
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import builders as b
from wmsctl import replication
from wmsctl.clients.etcd import StoreMember
from wmsctl.clients.postgres import Heartbeat
from wmsctl.clients.prometheus import Alert
from wmsctl.errors import Refused, Unreachable
from wmsctl.inventory import Inventory
from wmsctl.output import WIDTH, Printer
from wmsctl.parallel import Outcome
from wmsctl.replicas import plan
from wmsctl.status import view
from wmsctl.status.snapshot import Alerts, Check, PoolerView, ProxyView, RedisView, Snapshot
from wmsctl.status.verdict import EXIT, Verdict, verdict

DOCS = Path(__file__).resolve().parents[3] / "docs" / "wmsctl-json.md"


# ---- lag in milliseconds
# ------------------------------------------------------------------------------------------------


def beat(written_ms_ago: int, read_ms_later: int = 0) -> Heartbeat:
    return Heartbeat(
        b.NOON - timedelta(milliseconds=written_ms_ago), b.NOON + timedelta(milliseconds=read_ms_later), ""
    )


@pytest.mark.parametrize(
    ("primary", "replica", "lag_bytes", "replay_lag_ms", "expected"),
    [
        (beat(900), beat(900), 0, None, 0),  # the same row: not behind, however old the beat is
        (beat(900), beat(900, 5), 4096, 3, 3),  # between beats the primary's measure is the finer one
        (beat(0), beat(1000, 4), 4096, None, 4),  # lacks the beat of this moment only
        (beat(0), beat(1000), 0, None, 0),
        (
            beat(500),
            beat(60_500),
            99,
            7,
            59_500,
        ),  # paused a minute ago: replay_lag stands still, the beats do not
        (beat(500), beat(60_500), 0, 7, 59_500),
        (None, beat(3000), None, None, 3000),  # no primary to compare with: the plain age
        (None, None, None, None, None),
        (beat(0), None, 0, None, 0),  # no heartbeat table on the replica, caught up by the primary's account
        (beat(0), None, 64, 8, 8),
        (beat(0), None, 64, None, None),
        (beat(100), beat(50), 0, None, 0),  # read after the next beat
    ],
)
def test_lag_ms(
    primary: Heartbeat | None,
    replica: Heartbeat | None,
    lag_bytes: int | None,
    replay_lag_ms: int | None,
    expected: int,
) -> None:
    sender = b.sender(lag=lag_bytes, replay_lag_ms=replay_lag_ms) if lag_bytes is not None else None
    assert replication.lag_ms(primary, replica, sender, lag_bytes) == expected


# ---- putting the witnesses together
# -------------------------------------------------------------------------------------


def outcomes(inventory: Inventory, **changes: Any) -> dict[str, Outcome[Any]]:
    """A healthy cluster led by pg-1; changes by "pg-2" (server) or "api pg-2", a string is a trouble."""
    senders = tuple(b.sender(f"pg-{i}") for i in (2, 3, 4))
    found: dict[str, Outcome[Any]] = {}
    for member in inventory.postgres.members:
        node = member.node
        found[f"patroni {node}"] = Outcome(dataclasses.replace(b.cluster_state(), source=node))
        server = b.server_view(False, senders=senders) if node == "pg-1" else b.server_view()
        found[f"postgres {node}"] = Outcome(server)
    for name, value in changes.items():
        key = name.replace("_", "-")
        key = f"patroni {key[4:]}" if key.startswith("api-") else f"postgres {key}"
        found[key] = Outcome(trouble=value) if isinstance(value, str) else Outcome(value)
    return found


def test_a_healthy_cluster() -> None:
    inventory = b.inventory()
    cluster = replication.assemble(inventory, outcomes(inventory))
    assert (cluster.leader, cluster.primary, cluster.timeline, cluster.writable) == ("pg-1", "pg-1", 1, True)
    assert cluster.heartbeat_age_ms == 100
    assert [m.role for m in cluster.members] == ["primary", "replica", "replica", "replica"]
    assert {(m.sync, m.lag_bytes, m.lag_ms) for m in cluster.replicas} == {("quorum", 0, 0)}
    assert [m.replica_role for m in cluster.members] == list(b.ROLES)


def test_the_leaders_own_view_counts_most() -> None:
    inventory = b.inventory()
    # pg-1 has not read the store since the failover; pg-2, who leads by its own account, has.
    stale = {f"api_pg_{i}": b.cluster_state("pg-1") for i in (3, 4)}
    found = outcomes(inventory, api_pg_1=b.cluster_state("pg-3"), api_pg_2=b.cluster_state("pg-2"), **stale)
    assert replication.assemble(inventory, found).leader == "pg-2"


def test_a_member_that_is_away_keeps_what_others_know_of_it() -> None:
    inventory = b.inventory()
    cluster = replication.assemble(inventory, outcomes(inventory, pg_2="timed out", api_pg_2="timed out"))
    away = cluster.members[1]
    assert (away.trouble, away.api, away.role, away.lag_bytes) == ("timed out", False, "replica", 0)


def test_without_any_patroni_the_only_active_server_is_taken_for_the_primary() -> None:
    inventory = b.inventory()
    nobody = {f"api_pg_{i}": "away" for i in range(1, 5)}
    cluster = replication.assemble(inventory, outcomes(inventory, **nobody))
    assert (cluster.leader, cluster.primary, cluster.writable, cluster.trouble) == ("", "pg-1", True, "away")
    two = replication.assemble(inventory, outcomes(inventory, **nobody, pg_2=b.server_view(False)))
    assert two.primary == ""


def test_a_leader_in_recovery_takes_no_writes() -> None:
    inventory = b.inventory()
    cluster = replication.assemble(inventory, outcomes(inventory, pg_1=b.server_view(True)))
    assert (cluster.leader, cluster.writable) == ("pg-1", False)


# ---- the verdict
# --------------------------------------------------------------------------------------------------------


def judged(**changes: Any) -> Verdict:
    return verdict(b.snapshot(**changes))


def test_a_whole_platform_is_healthy() -> None:
    assert judged() == Verdict("healthy", ())


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"cluster": b.cluster_view(leader="", primary="", writable=False)}, "down", "there is no primary"),
        ({"cluster": b.cluster_view(writable=False)}, "down", "pg-1 takes no writes"),
        (
            {"cluster": b.cluster_view(b.primary_view("pg-2"))},
            "down",
            "more than one server is out of recovery",
        ),
        ({"cluster": b.cluster_view(paused=True)}, "degraded", "Patroni is paused"),
        ({"cluster": b.cluster_view(trouble="away", leader="")}, "degraded", "no Patroni answers"),
        ({"cluster": b.cluster_view(heartbeat_age_ms=5000)}, "degraded", "heartbeat is 5000 ms old"),
        ({"cluster": b.cluster_view(b.member_view(lag_ms=1001))}, "degraded", "lag 1001 ms, limit 1000 ms"),
        ({"cluster": b.cluster_view(b.member_view(lag_ms=1000))}, "healthy", ""),
        ({"cluster": b.cluster_view(b.member_view(lag_bytes=1 << 25))}, "degraded", "lag 33554432 bytes"),
        ({"cluster": b.cluster_view(b.member_view(replay_paused=True))}, "degraded", "replay is paused"),
        (
            {"cluster": b.cluster_view(b.member_view(timeline=2))},
            "degraded",
            "on timeline 2, the primary on 1",
        ),
        (
            {"cluster": b.cluster_view(b.member_view(state="start failed"))},
            "degraded",
            "the replica is start failed",
        ),
        ({"cluster": b.cluster_view(b.member_view(api=False))}, "degraded", "its Patroni does not answer"),
        (
            {"cluster": b.cluster_view(b.member_view(trouble="x does not answer: gone"))},
            "degraded",
            "PostgreSQL: gone",
        ),
        (
            {"cluster": b.cluster_view(b.member_view(pending_restart=True))},
            "healthy",
            "settings wait for a restart",
        ),
        (
            {"cluster": b.cluster_view(b.member_view("pg-2", sync="async"), b.member_view("pg-3", sync=""))},
            "degraded",
            "1 synchronous standbys stream, 2 are to",
        ),
        (
            {"poolers": (PoolerView("proxy-1", True), PoolerView("proxy-2", False, (), "x"))},
            "degraded",
            "PgBouncer: x",
        ),
        ({"poolers": (PoolerView("proxy-1", False, (), "x"),)}, "down", "PgBouncer: x"),
        (
            {
                "poolers": (
                    PoolerView("proxy-1", True, (b.pool(paused=True),)),
                    PoolerView("proxy-2", True, (b.pool(),)),
                )
            },
            "degraded",
            "holds back wms",
        ),
        ({"poolers": (PoolerView("proxy-1", True, (b.pool(paused=True),)),)}, "down", "holds back wms"),
        (
            {"poolers": (PoolerView("proxy-1", True, (b.pool("wms_read", paused=True),)),)},
            "degraded",
            "wms_read",
        ),
        (
            {"poolers": (PoolerView("proxy-1", True, (b.pool(clients_waiting=3, max_wait_ms=1500),)),)},
            "degraded",
            "3 clients of wms wait",
        ),
        (
            {"proxies": (ProxyView("proxy-1", False, (), "x"), ProxyView("proxy-2", True))},
            "degraded",
            "HAProxy: x",
        ),
        ({"proxies": (ProxyView("proxy-1", False, (), "x"),)}, "down", "HAProxy: x"),
        (
            {
                "store": (
                    StoreMember("etcd-1", True),
                    StoreMember("etcd-2", True),
                    StoreMember("etcd-3", False),
                )
            },
            "degraded",
            "etcd:",
        ),
        (
            {
                "store": (
                    StoreMember("etcd-1", True),
                    StoreMember("etcd-2", False),
                    StoreMember("etcd-3", False),
                )
            },
            "degraded",
            "no quorum (etcd-2, etcd-3 away)",
        ),
        ({"redis": RedisView("fail", 10923, 2, 3, ())}, "degraded", "10923 of 16384 slots"),
        ({"redis": None}, "healthy", ""),
        (
            {
                "web": (
                    Check("edge", "edge-1", False, 503, 2, "answered 503"),
                    Check("edge", "edge-2", True, 200, 2),
                )
            },
            "degraded",
            "edge: answered 503",
        ),
        ({"web": (Check("service", "app-1", False, 0, 0, "gone"),)}, "down", "service: gone"),
        ({"web": (Check("store", "storage-1", False, 0, 0, "gone"),)}, "degraded", "store: gone"),
        ({"alerts": Alerts(False, (), "gone")}, "degraded", "Alertmanager: gone"),
        (
            {"alerts": Alerts(True, (Alert("Lag", "critical", "", {}, "late"),))},
            "degraded",
            "Lag (critical) late",
        ),
        ({"alerts": Alerts(True, (Alert("Watchdog", "none", "", {}),))}, "healthy", ""),
        ({"alerts": None}, "healthy", ""),
    ],
)
def test_each_fault_is_named_and_weighed(changes: dict[str, Any], state: str, words: str) -> None:
    found = judged(**changes)
    assert found.state == state
    assert words in " | ".join(f"{r.part}: {r.message}" for r in found.reasons)


def nothing() -> Snapshot:
    silent = b.cluster_view(
        *(b.member_view(f"pg-{i}", role="unknown", api=False, trouble="gone") for i in range(1, 5)),
        leader="",
        primary="",
        writable=False,
        trouble="gone",
    )
    return b.snapshot(
        cluster=silent,
        store=(StoreMember("etcd-1", False),),
        poolers=(PoolerView("proxy-1", False),),
        proxies=(ProxyView("proxy-1", False),),
        redis=None,
        web=(Check("edge", "edge-1", False, 0, 0),),
        alerts=Alerts(False),
    )


def test_silence_everywhere_is_a_state_of_its_own() -> None:
    assert verdict(nothing()).state == "unreachable"
    one_voice = dataclasses.replace(nothing(), store=(StoreMember("etcd-1", True),))
    assert verdict(one_voice).state == "down"


def test_exit_codes_of_the_states() -> None:
    assert {state: int(code) for state, code in EXIT.items()} == {
        "healthy": 0,
        "degraded": 5,
        "down": 1,
        "unreachable": 4,
    }


def test_the_worst_reason_comes_first() -> None:
    found = judged(
        cluster=b.cluster_view(b.member_view(pending_restart=True), paused=True, writable=False),
        alerts=Alerts(False),
    )
    assert [r.severity for r in found.reasons] == ["down", "degraded", "degraded", "note"]


# ---- for people and for programs
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "snapshot", [b.snapshot(), nothing(), b.snapshot(redis=None, alerts=None, web=(), proxies=())]
)
def test_the_view_keeps_to_its_width_and_says_the_verdict_first(snapshot: Snapshot) -> None:
    out = io.StringIO()
    found = verdict(snapshot)
    view.draw(Printer(stdout=out), snapshot, found)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith(found.state.upper())
    assert max(map(len, lines)) <= WIDTH
    assert ("Redis" in out.getvalue()) == (snapshot.redis is not None)


def test_every_field_of_the_documents_is_documented() -> None:
    """The schemas are a promise: a new field is written down first."""
    text = DOCS.read_text()
    inventory = b.inventory()
    documents: list[Any] = [
        {"verdict": msgspec.to_builtins(verdict(nothing())), **msgspec.to_builtins(b.snapshot())},
        msgspec.to_builtins(b.snapshot(alerts=Alerts(True, (Alert("a", "b", "c", {}),)))),
        msgspec.to_builtins(plan.report(replication.assemble(inventory, outcomes(inventory)), 1000)),
    ]
    missing = {name for document in documents for name in names(document) if f"`{name}`" not in text}
    assert not missing


def names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {key for key in value if isinstance(key, str)} | {n for v in value.values() for n in names(v)}
    return {n for v in value for n in names(v)} if isinstance(value, list | tuple) else set()


# ---- replicas
# -----------------------------------------------------------------------------------------------------------


def test_replicas_against_the_limit() -> None:
    late, unknown = b.member_view("pg-2", lag_ms=1001), b.member_view("pg-3", lag_ms=None)
    report = plan.report(b.cluster_view(late, unknown), 1000)
    assert [(row.node, row.within) for row in report.replicas] == [
        ("pg-2", False),
        ("pg-3", False),
        ("pg-4", True),
    ]
    assert not report.within
    assert plan.report(b.cluster_view(), 1000).within


def test_replay_is_paused_only_where_that_is_safe() -> None:
    assert plan.replay(b.cluster_view(), "pg-3", paused=True)
    assert plan.replay(b.cluster_view(b.member_view("pg-3", replay_paused=True)), "pg-3", paused=True) == []
    assert plan.replay(b.cluster_view(), "pg-3", paused=False) == []
    with pytest.raises(Refused, match="is the primary"):
        plan.replay(b.cluster_view(), "pg-1", paused=True)
    with pytest.raises(Unreachable, match="gone"):
        plan.replay(b.cluster_view(b.member_view("pg-3", trouble="gone")), "pg-3", paused=True)
    alone = b.cluster_view(b.member_view("pg-2", replay_paused=True), b.member_view("pg-4", sync="async"))
    with pytest.raises(Refused, match="last synchronous standby"):
        plan.replay(alone, "pg-3", paused=True)
