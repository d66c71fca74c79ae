"""Faults under load: whatever dies, no acknowledged write is lost, and writes and requests come back in time.

Bounds here are generous, for a busy machine of two cores; how fast it is, the bench measures.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from signal import SIGKILL

import pytest
import urllib3

from demo.shop import Shop
from tests.support.platform import Live, eventually, signal_one
from wmsctl.clients.postgres import Server
from wmsctl.errors import WmsctlError
from wmsctl.inventory import Endpoint
from wmsctl.ledger.account import Account

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

FAILOVER_S = 20.0
"""By when writes work again after a failover that need not wait for a lease."""
LEASE_S = 35.0
"""The same with the lease of 20 s."""
HICCUP_S = 8.0
"""The longest gap of writes when no failover is needed."""


def gap(account: Account) -> float:
    """Seconds without an acknowledged write around the fault; the run must not end in it.

    Where nothing was interrupted, the longest pause may be the instant in which the run was ended.
    """
    recovery = account.recovery
    assert recovery is not None and recovery.gap_s is not None, account
    assert recovery.first_ack_s is not None or recovery.gap_s < 0.5, account
    return recovery.gap_s


def url(endpoint: Endpoint) -> str:
    return f"https://{endpoint.address}:{endpoint.port}"


# PostgreSQL


def test_killed_postmaster(platform: Live) -> None:
    leader, timeline = platform.leader(), platform.timeline()
    with platform.writing() as load:
        pid = platform.postmaster(leader)
        load.fault()
        signal_one(platform, leader, pid, SIGKILL)
        load.flowing(FAILOVER_S + 20)
        account = load.account()
    assert gap(account) < FAILOVER_S
    assert max(account.timelines) == platform.timeline() > timeline
    # Nobody is told: the member comes back by itself.
    assert platform.wait_whole(90), platform.trouble()


def test_killed_node_that_is_fenced(platform: Live) -> None:
    leader = platform.leader()
    with platform.writing() as load:
        load.fault()
        killed = platform.document("node", "kill", leader, "--yes", "--reason", "live test")
        assert killed["dead"] is True and killed["pids"] == []
        promoted = platform.document("failover", "promote", "--fence", "--yes")
        load.flowing(FAILOVER_S + 20)
        account = load.account()
    assert gap(account) < FAILOVER_S
    assert promoted["result"] in ("done", "already")
    assert promoted["leader"] == platform.leader() != leader
    ways = {proof["via"] for proof in promoted["proofs"]}
    assert {way.partition(":")[0] for way in ways} == {"proxy-1", "proxy-2"}
    # It stays off, although its supervisor tries, and the verdict says what is missing.
    power = {node.node: node for node in platform.power.survey()}
    assert power[leader].power == "off" and "live test" in power[leader].reason
    status = platform.document("status", codes=(5,))
    assert any(reason["part"] == leader for reason in status["verdict"]["reasons"]), status["verdict"]
    rejoined = platform.document("failover", "rejoin", leader, "--yes", timeout=200)
    assert rejoined["result"] == "done" and rejoined["leader"] == promoted["leader"]
    assert platform.wait_whole(30), platform.trouble()


def test_killed_node_without_fencing_waits_for_its_lease(platform: Live) -> None:
    leader = platform.leader()
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", leader, "--yes")
        done = platform.cli("failover", "promote", "--yes", timeout=90)
        load.flowing(LEASE_S + 20)
        account = load.account()
    assert done.code == 0, done.text
    assert platform.leader() != leader
    # Nobody may lead before the lease has run out; right after it somebody has to.
    assert 10 < gap(account) < LEASE_S


def test_primary_and_a_replica_lost_together(platform: Live) -> None:
    """What the quorum of two is for: whoever is left has every acknowledged write."""
    leader, other = platform.leader(), platform.replicas()[0]
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", leader, "--yes")
        platform.document("node", "kill", other, "--yes")
        done = platform.cli("failover", "promote", "--fence", "--yes")
        assert done.code == 0, done.text
        load.flowing(FAILOVER_S + 20)
        account = load.account()
    assert gap(account) < FAILOVER_S + 5
    assert platform.leader() not in (leader, other)


def test_frozen_primary_that_is_fenced(platform: Live) -> None:
    """Its ports still accept connections, and nothing answers."""
    leader = platform.leader()
    with platform.writing() as load:
        load.fault()
        frozen = platform.document("node", "freeze", leader, "--yes")
        assert frozen["power"] == "frozen"
        done = platform.cli("failover", "promote", "--fence", "--yes")
        assert done.code == 0, done.text
        load.flowing(FAILOVER_S + 20)
        account = load.account()
    assert gap(account) < FAILOVER_S
    assert platform.leader() != leader
    rejoined = platform.document("failover", "rejoin", leader, "--yes", timeout=200)
    assert rejoined["result"] == "done"


def test_frozen_primary_that_wakes_up_finds_itself_replaced(platform: Live) -> None:
    """No fencing: the lease runs out. Thawed, the old primary takes no write any more, and follows by itself."""
    leader = platform.leader()
    with platform.writing() as load:
        load.fault()
        platform.document("node", "freeze", leader, "--yes")
        load.flowing(LEASE_S + 20)
        successor = platform.leader()
        assert successor != leader
        platform.document("node", "thaw", leader)
        load.flowing(20)  # past the moment at which two believe to lead
        eventually(lambda: follows(platform, leader), 60, f"{leader} does not follow {successor}")
        account = load.account()
    assert gap(account) < LEASE_S
    assert platform.leader() == successor


def follows(platform: Live, node: str) -> bool:
    with suppress(WmsctlError):
        return bool(platform.on(node, "SELECT pg_is_in_recovery()")[0][0])
    return False


def test_killed_agent_of_the_primary_leaves_writes_alone(platform: Live) -> None:
    """Patroni dies, PostgreSQL runs on: the agent comes back within its lease and nobody fails over."""
    leader, timeline = platform.leader(), platform.timeline()
    pid, postmaster = platform.pids()[f"{leader}.patroni"], platform.postmaster(leader)
    with platform.writing() as load:
        load.fault()
        signal_one(platform, leader, pid, SIGKILL)
        eventually(
            lambda: platform.pids()[f"{leader}.patroni"] not in (0, pid), 30, "the agent does not come back"
        )
        eventually(lambda: answers(platform, leader), 30, "the agent does not answer")
        load.flowing(10)
        account = load.account()
    assert gap(account) < HICCUP_S
    assert (platform.timeline(), platform.postmaster(leader)) == (timeline, postmaster)


def answers(platform: Live, node: str) -> bool:
    with suppress(WmsctlError):
        member = platform.clients.patroni_member(platform.inventory.member(node))
        return member.status(timeout=2).state == "running"
    return False


# The store, the proxies and the poolers


def test_lost_member_of_the_store(platform: Live) -> None:
    """Also when it is the one that leads the store."""
    status = platform.document("status", codes=(0, 5))
    lost = next(member["node"] for member in status["store"] if member["leader"])
    leader, timeline = platform.leader(), platform.timeline()
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", lost, "--yes")
        load.flowing(20)
        degraded = platform.document("status", codes=(5,))
        load.flowing(20)
        account = load.account()
    assert gap(account) < HICCUP_S
    assert (platform.leader(), platform.timeline()) == (leader, timeline)
    assert any(reason["part"] in (lost, "etcd") for reason in degraded["verdict"]["reasons"])
    assert platform.document("node", "power-on", lost)["power"] == "on"
    eventually(lambda: all(platform.store().values()), 30, "the store does not become whole")


@pytest.mark.full
@pytest.mark.timeout(240)
def test_lost_quorum_of_the_store_stops_failover_and_not_writes(platform: Live) -> None:
    """Failsafe mode: the primary goes on beyond its lease while every member answers it."""
    lost = [endpoint.node for endpoint in platform.inventory.postgres.dcs.endpoints[:2]]
    leader, timeline = platform.leader(), platform.timeline()
    with platform.writing() as load:
        moment = load.fault()
        for node in lost:
            platform.document("node", "kill", node, "--yes")
        refused = platform.cli("failover", "promote", "--fence", "--yes")
        assert refused.code == 3 and "store" in refused.err, refused.text
        beyond_the_lease = 2.0 * platform.inventory.postgres.ttl_s
        while time.monotonic() < moment + beyond_the_lease:
            load.flowing(20)
        account = load.account()
    assert gap(account) < 15
    for node in lost:
        platform.document("node", "power-on", node)
    eventually(lambda: all(platform.store().values()), 60, "the store does not become whole")
    assert platform.wait_whole(60)
    assert (platform.leader(), platform.timeline()) == (leader, timeline)


@pytest.mark.parametrize("process", ["haproxy", "pgbouncer"])
def test_killed_way_in(platform: Live, process: str) -> None:
    node = platform.inventory.proxies.stats[0].node
    program = f"{node}.{process}"
    pid, timeline = platform.pids()[program], platform.timeline()
    with platform.writing() as load:
        load.fault()
        assert platform.power.kill_process(node, process) > 0
        eventually(lambda: platform.pids()[program] not in (0, pid), 30, f"{program} does not come back")
        load.flowing(20, writes=400)
        account = load.account()
    assert gap(account) < HICCUP_S
    assert platform.timeline() == timeline


def test_killed_proxy_node(platform: Live) -> None:
    """Pooler and proxy of one node at once: the other node carries everything."""
    node = platform.inventory.proxies.stats[1].node
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", node, "--yes")
        load.flowing(20)
        refused = platform.cli("failover", "switchover", "--yes")
        account = load.account()
    assert gap(account) < HICCUP_S
    assert refused.code == 3 and node in refused.err, refused.text


# Redis


def test_killed_redis_master(platform: Live) -> None:
    """Its replica takes over with the data; the service answers all along."""
    views = platform.redis_views()
    master = next(name for name, view in views.items() if view.me and view.me.is_master and view.me.slots)
    identity = views[master].myself
    nodes = {node.name: node for node in platform.clients.redis()}
    key = ""
    with nodes[master].connect() as connection:
        for number in range(200):
            with suppress(WmsctlError):  # MOVED: the slot of that key is another master's
                key = f"live-test-{number}"
                if connection.call("SET", key, "kept", "EX", "600") == "OK":
                    break
        assert connection.call("WAIT", "1", "5000") >= 1
    gateways = [url(endpoint) for endpoint in platform.inventory.web.gateways]
    tenant = platform.tenants[0]
    with platform.writing() as load, Shop(gateways, platform.inventory.ca, tenant.api_key) as shop:
        load.fault()
        platform.document("node", "kill", master, "--yes")

        def successor() -> str:
            for name, view in platform.redis_views().items():
                if view.me and view.me.is_master and view.state == "ok" and view.slots_ok == 16384:
                    with suppress(WmsctlError), nodes[name].connect() as connection:
                        if connection.call("GET", key) == "kept":
                            return str(name)
            return ""

        new = eventually(successor, 60, "no replica took the slots of the lost master over")
        load.flowing(10)
        account = load.account()
        answers = shop.answers()
    assert new != master
    assert gap(account) < HICCUP_S
    assert_no_server_error(Counter(answer.status for answer in answers))
    platform.document("node", "power-on", master)
    eventually(
        lambda: rejoined_as_replica(platform, master, identity), 60, f"{master} does not come back as replica"
    )


def rejoined_as_replica(platform: Live, node: str, identity: str) -> bool:
    view = platform.redis_views().get(node)
    return bool(view and view.myself == identity and view.me and not view.me.is_master and view.state == "ok")


# The service


def assert_no_server_error(statuses: Counter[int]) -> None:
    assert sum(statuses.values()) > 20, statuses
    assert not [status for status in statuses if status == 0 or status >= 500], statuses


def test_killed_service_is_hidden_by_the_gateways(platform: Live) -> None:
    node = platform.inventory.web.services[0].node
    program = f"{node}.wms"
    pid = platform.pids()[program]
    gateways = [url(endpoint) for endpoint in platform.inventory.web.gateways]
    key = platform.tenants[0].api_key
    with platform.writing() as load, Shop(gateways, platform.inventory.ca, key, clients=8) as shop:
        eventually(lambda: len(shop.answers()) > 50, 20, "the gateways do not answer")
        load.fault()
        assert platform.power.kill_process(node, "wms") > 0
        eventually(lambda: platform.pids()[program] not in (0, pid), 30, f"{program} does not come back")
        eventually(lambda: ready(platform, node), 30, f"{program} does not become ready")
        load.flowing(10)
        account = load.account()
    assert gap(account) < HICCUP_S
    answers = shop.answers()
    assert_no_server_error(Counter(answer.status for answer in answers))
    assert {answer.kind for answer in answers} == {"read", "write"}


def ready(platform: Live, node: str) -> bool:
    endpoint = next(e for e in platform.inventory.web.services if e.node == node)
    with suppress(urllib3.exceptions.HTTPError):
        return platform.web().request("GET", endpoint.url).status == 200
    return False


def test_requests_survive_a_failover(platform: Live) -> None:
    """Writes with an idempotency key wait in the service; nobody sees an error of the server."""
    leader = platform.leader()
    edges = [url(endpoint) for endpoint in platform.inventory.web.edges]
    key = platform.tenants[0].api_key
    with platform.writing() as load, Shop(edges, platform.inventory.ca, key) as shop:
        pid = platform.postmaster(leader)
        load.fault()
        signal_one(platform, leader, pid, SIGKILL)
        load.flowing(FAILOVER_S + 20)
        account = load.account()
        moment = time.time()
        eventually(
            lambda: any(a.at > moment and a.kind == "write" and a.status == 201 for a in shop.answers()),
            20,
            "the API takes no write after the failover",
        )
    assert gap(account) < FAILOVER_S
    statuses = Counter((answer.kind, answer.status) for answer in shop.answers())
    # A read has a deadline of two seconds: while nobody leads, replicas answer it.
    assert not [key for key in statuses if key[0] == "read" and (key[1] == 0 or key[1] >= 500)], statuses
    assert not [key for key in statuses if key[1] in (0, 500, 502, 504)], statuses


def test_every_single_process_comes_back_by_itself(platform: Live) -> None:
    """SIGKILL to the main process of one of each kind, as a crash or the kernel's want of memory would."""
    leader = platform.leader()
    chosen: dict[str, str] = {}
    for node in reversed(platform.inventory.nodes):
        for process in node.processes:
            if node.name != leader:
                chosen.setdefault(process, node.name)
    before = platform.pids()
    with platform.writing() as load:
        load.fault()
        for process, name in chosen.items():
            signal_one(platform, name, before[f"{name}.{process}"], SIGKILL)

        def away() -> list[str]:
            now = platform.pids()
            return [
                f"{name}.{process}"
                for process, name in chosen.items()
                if now[f"{name}.{process}"] in (0, before[f"{name}.{process}"])
            ]

        eventually(lambda: not away(), 60, lambda: f"not restarted: {away()}")
        eventually(lambda: not platform.trouble(), 90, lambda: f"not whole: {platform.trouble()}")
        # A server whose orphans hold its port dies again and again, each time after a second or more.
        steady = eventually(lambda: unchanged(platform, 6), 60, "processes go on dying")
        load.flowing(10)
        account = load.account()
    assert gap(account) < HICCUP_S
    assert platform.leader() == leader
    # Running is not enough: each answers on its ports again.
    for name in chosen.values():
        evidence = platform.power.prove_dead(name)
        assert all(port.answer == "open" for port in evidence.ports), evidence
    touched = {f"{name}.{process}" for process, name in chosen.items()}
    others = {name for name in before if name not in touched and steady[name] != before[name]}
    assert others == set(), "processes that nobody killed were restarted"


def unchanged(platform: Live, seconds: float) -> dict[str, int]:
    """The process ids by program, when none of them changed for so long; else empty."""
    before, end = platform.pids(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
        if platform.pids() != before:
            return {}
    return before


# Replicas


def test_paused_replay_is_seen_and_resumed(platform: Live) -> None:
    """In maintenance mode only: Patroni would resume it otherwise."""
    node = platform.replicas()[-1]
    refused = platform.cli("replicas", "pause", node, "--yes")
    assert refused.code == 3 and "maintenance mode" in refused.err, refused.text
    with platform.writing() as load:
        load.fault()
        assert platform.document("failover", "maintenance", "on", "--yes")["maintenance"] is True
        try:
            assert platform.document("replicas", "pause", node, "--yes")["changed"] is True
            eventually(
                lambda: platform.cli("replicas").code == 5, 20, f"the lag of {node} is not told", every=0.5
            )
            late = platform.document("replicas", codes=(5,))
            row = next(row for row in late["replicas"] if row["node"] == node)
            assert row["replay_paused"] is True and row["within"] is False and row["lag_ms"] > 1000
            assert platform.document("replicas", "resume", node)["changed"] is True
            eventually(lambda: platform.cli("replicas").code == 0, 20, f"{node} does not catch up", every=0.5)
        finally:
            assert platform.document("failover", "maintenance", "off")["maintenance"] is False
        account = load.account()
    assert gap(account) < HICCUP_S


def test_replica_lost_and_back(platform: Live) -> None:
    """One of three: writes go on at once, and its role port is served by another replica meanwhile."""
    lost = platform.replicas()[0]
    role = platform.inventory.member(lost).replica_role
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", lost, "--yes")
        load.flowing(20)
        if role:
            eventually(lambda: served_by(platform, role, lost), 20, f"nobody serves {role}")
        account = load.account()
    assert gap(account) < HICCUP_S
    assert platform.document("failover", "rejoin", lost, "--yes", timeout=200)["result"] == "done"


def served_by(platform: Live, role: str, lost: str) -> bool:
    inventory = platform.inventory
    for stats in inventory.proxies.stats:
        server = Server(
            role,
            stats.address,
            inventory.proxies.role_ports[role],
            database=inventory.postgres.database,
            login=inventory.postgres.operator,
            secrets=platform.secrets,
            ca=inventory.ca,
        )
        try:
            address, replica = server.query("SELECT host(inet_server_addr()), pg_is_in_recovery()")[0]
        except WmsctlError:
            return False
        if not replica or address == inventory.member(lost).address:
            return False
    return True
