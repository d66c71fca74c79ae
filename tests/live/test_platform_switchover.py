"""Planned and interrupted operations of wmsctl on a platform under load, and what they refuse."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from demo.shop import Shop
from tests.support.platform import Live, Ran, eventually
from wmsctl.deadline import Deadline
from wmsctl.journal import Journal, Operation

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

GUARD_S = 10.0
"""By when the guard has resumed every pooler after wmsctl is gone."""


def journal(platform: Live) -> Journal:
    return Journal(Path(platform.environment["WMSCTL_STATE"]) / platform.name)


def newest(platform: Live) -> Operation:
    return journal(platform).history(limit=1)[0]


@contextmanager
def maintenance(platform: Live) -> Iterator[None]:
    """Patroni paused during the body."""
    paused = platform.patronictl("pause", "--wait")
    assert paused.code == 0, paused.text
    try:
        yield
    finally:
        resumed = platform.patronictl("resume", "--wait")
        assert resumed.code == 0, resumed.text


# Switchover


def test_switchover_without_any_client_error(platform: Live) -> None:
    leader, timeline = platform.leader(), platform.timeline()
    edges = [f"https://{e.address}:{e.port}" for e in platform.inventory.web.edges]
    key = platform.tenants[0].api_key
    with platform.writing() as load, Shop(edges, platform.inventory.ca, key) as shop:
        load.fault()
        result = platform.document("failover", "switchover", "--yes")
        load.flowing(20)
        account = load.account()
        answers = shop.answers()
    assert account.errors == {} and account.failed == account.unknown == 0, account
    assert account.recovery is not None and account.recovery.gap_s is not None
    assert account.recovery.gap_s < 8
    assert {answer.status for answer in answers} == {200, 201}, Counter(a.status for a in answers)
    assert result["result"] == "done" and result["old_leader"] == leader
    assert result["leader"] == platform.leader() != leader
    assert result["timeline"] == platform.timeline() == timeline + 1
    proxies = platform.inventory.proxies
    assert {proof["via"] for proof in result["proofs"]} == {
        *(f"{s.node}:{proxies.write_port}" for s in proxies.stats),
        *(f"{p.node}:{p.port}" for p in platform.inventory.pools.poolers),
    }
    assert platform.paused() == {}
    assert platform.wait_whole(10), "the old primary does not stream although the switchover said so"
    event = platform.document("failover", "history", "--limit", "1")["items"][0]
    assert (event["kind"], event["result"], event["leader"]) == ("switchover", "done", result["leader"])
    assert event["write_gap_ms"] > 0


def test_switchover_to_a_chosen_member_and_back_to_itself(platform: Live) -> None:
    chosen = platform.replicas()[-1]
    looked = platform.document("failover", "switchover", "--to", chosen, "--dry-run")
    assert looked["result"] == "planned" and platform.leader() != chosen
    with platform.writing() as load:
        load.fault()
        assert platform.document("failover", "switchover", "--to", chosen, "--yes")["leader"] == chosen
        again = platform.document("failover", "switchover", "--to", chosen, "--yes")
        account = load.account()
    assert again["result"] == "already"
    assert account.errors == {}, account
    assert platform.leader() == chosen


def test_a_long_transaction_stops_the_switchover_and_not_the_writes(platform: Live) -> None:
    """The poolers do not come to rest in time: nothing is switched, and the one in the way is named."""
    leader, timeline = platform.leader(), platform.timeline()
    pooler = platform.inventory.pools.poolers[0]
    server = platform.clients.pooled(pooler)
    with platform.writing() as load, server.connect(limit=60) as held:
        held.execute("BEGIN")
        held.execute("INSERT INTO ops.proof (via, token) VALUES ('held', 'open') ON CONFLICT DO NOTHING")
        load.fault()
        done = platform.cli("failover", "switchover", "--yes", "--pause-deadline", "1")
        load.flowing(20)
        held.execute("ROLLBACK")
        account = load.account()
    assert done.code == 3, done.text
    assert "did not come to rest" in done.err and "in the way" in done.err, done.text
    assert account.errors == {}, account
    assert (platform.leader(), platform.timeline()) == (leader, timeline)
    assert platform.paused() == {}
    assert newest(platform).result == "refused"


# wmsctl killed inside


KILLED = [
    # moment, whether the leadership has moved for certain
    ("guard:after", False),
    ("pause:after", False),
    ("switch", False),
    ("switch:after", True),
    ("resume", True),
    pytest.param("checkpoint", False, marks=pytest.mark.full),
    pytest.param("guard", False, marks=pytest.mark.full),
    pytest.param("pause", False, marks=pytest.mark.full),
    pytest.param("prove-proxies", True, marks=pytest.mark.full),
    pytest.param("resume:after", True, marks=pytest.mark.full),
    pytest.param("prove-poolers", True, marks=pytest.mark.full),
    pytest.param("verify", True, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("moment", "moved"), KILLED)
def test_killed_inside_a_switchover(platform: Live, moment: str, moved: bool) -> None:
    leader, timeline = platform.leader(), platform.timeline()
    with platform.writing() as load:
        load.fault()
        died = platform.cli("failover", "switchover", "--yes", env={"WMSCTL_DIE_AT": moment})
        assert died.code == -SIGKILL, died.text
        ended = time.monotonic()
        eventually(
            lambda: platform.paused() == {}, GUARD_S, lambda: f"left paused: {platform.paused()}", every=0.05
        )
        load.flowing(30)  # nobody has to act for writes to go on
        operation = newest(platform)
        assert operation.unfinished and operation.kind.endswith("switchover")
        refused = platform.cli("failover", "switchover", "--yes")
        assert refused.code == 3 and "failover resume" in refused.err, refused.text
        resumed = platform.document("failover", "resume", "--yes")["items"]
        load.flowing(20)
        account = load.account()
    assert [(r["operation"], r["kind"]) for r in resumed] == [(operation.id, "switchover")]
    assert resumed[0]["result"] == ("done" if moved else "undone"), resumed
    assert newest(platform).result == resumed[0]["result"]
    assert (platform.leader() != leader) == moved
    assert platform.timeline() == timeline + int(moved)
    assert account.recovery is not None and account.recovery.gap_s is not None
    assert account.recovery.gap_s < ended - account.recovery.fault_at + 25
    assert platform.document("failover", "resume", "--yes")["items"] == []


@pytest.mark.full
def test_hung_inside_a_pause_is_ended_by_the_timer(platform: Live) -> None:
    """wmsctl stands still and its guard is alive: the poolers run again when the timer says so."""
    with platform.writing() as load:
        load.fault()
        running = platform.start_cli("failover", "switchover", "--yes", "--pause-deadline", "1")
        eventually(lambda: platform.paused(), 20, "nothing is paused", every=0.01)
        os.kill(running.pid, SIGSTOP)
        stopped = time.monotonic()
        eventually(lambda: platform.paused() == {}, 40, "the timer does not resume the poolers")
        assert time.monotonic() - stopped < 30
        os.kill(running.pid, SIGKILL)
        os.kill(running.pid, SIGCONT)
        running.communicate(timeout=10)
        load.flowing(30)
        platform.document("failover", "resume", "--yes")
        load.account()


@pytest.mark.full
@pytest.mark.parametrize("moment", ["fence", "fence:after", "end-lease", "end-lease:after", "await-leader"])
def test_killed_inside_a_promotion(platform: Live, moment: str) -> None:
    leader = platform.leader()
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", leader, "--yes")
        died = platform.cli("failover", "promote", "--fence", "--yes", env={"WMSCTL_DIE_AT": moment})
        assert died.code == -SIGKILL, died.text
        resumed = platform.document("failover", "resume", "--yes", timeout=90, codes=(0,))["items"]
        if not resumed or resumed[0]["result"] == "undone":
            assert platform.cli("failover", "promote", "--fence", "--yes").code == 0
        load.flowing(40)
        load.account()
    assert platform.leader() != leader
    assert journal(platform).unfinished() == []


def test_killed_inside_a_rejoin_is_taken_up_again(platform: Live) -> None:
    node = platform.replicas()[0]
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", node, "--yes")
        died = platform.cli(
            "failover", "rejoin", node, "--yes", env={"WMSCTL_DIE_AT": "await-streaming"}, timeout=120
        )
        assert died.code == -SIGKILL, died.text
        resumed = platform.document("failover", "resume", "--yes", timeout=120)["items"]
        load.account()
    assert [r["kind"] for r in resumed] == ["rejoin"] and resumed[0]["result"] in ("done", "already")
    assert platform.wait_whole(10)


# Two at once


def test_the_second_of_two_switchovers_is_refused(platform: Live) -> None:
    timeline = platform.timeline()
    with platform.writing() as load:
        load.fault()
        first = platform.start_cli("failover", "switchover", "--yes")
        lock = journal(platform).directory / "lock"
        eventually(lambda: holder(lock) == first.pid, 10, "the first takes no lock", every=0.01)
        second = platform.cli("failover", "switchover", "--yes")
        out, err = first.communicate(timeout=90)
        account = load.account()
    assert second.code == 3, second.text
    assert f"pid {first.pid}" in second.err and "switchover" in second.err, second.text
    assert first.returncode == 0, out + err
    assert account.errors == {}, account
    assert platform.timeline() == timeline + 1


def holder(lock: Path) -> int:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(lock.read_text())["pid"])
    return 0


# What is refused


def refusals(platform: Live, *lines: tuple[str, ...]) -> list[Ran]:
    """Run lines that all have to be refused without a change of the timeline."""
    timeline = platform.timeline()
    found = [platform.cli("failover", *line, "--yes") for line in lines]
    for line, done in zip(lines, found, strict=True):
        assert done.code == 3, f"{line}: {done.text}"
        assert "next: " in done.err, f"{line} gives no hint: {done.text}"
    assert platform.timeline() == timeline
    assert platform.paused() == {}
    return found


def test_promotion_is_refused_while_the_primary_is_well(platform: Live) -> None:
    leader, other = platform.leader(), platform.replicas()[0]
    plain, fenced = refusals(platform, ("promote", "--to", other), ("promote", "--to", other, "--fence"))
    for done in (plain, fenced):
        assert f"the primary {leader} is healthy" in done.err and "switchover" in done.err, done.text
    assert not (platform.home / "nodes" / leader / "power-off").exists()


def test_a_frozen_primary_is_not_promoted_over_without_fencing_it(platform: Live) -> None:
    """It may come back any moment, and its lease is alive: so the promotion waits for the lease, and no less."""
    leader = platform.leader()
    platform.document("node", "freeze", leader, "--yes")
    looked = platform.document("failover", "promote", "--dry-run")
    platform.document("node", "thaw", leader)
    assert any("lease" in step for step in looked["steps"]), looked
    eventually(lambda: platform.wait_whole(1), 60, "not whole after the thaw")


def test_everything_is_refused_while_patroni_is_paused(platform: Live) -> None:
    replica = platform.replicas()[0]
    with platform.writing() as load, maintenance(platform):
        load.fault()
        for done in refusals(platform, ("switchover",), ("promote",), ("rejoin", replica)):
            assert "Patroni is paused" in done.err and "maintenance off" in done.err, done.text
        status = platform.document("status", codes=(5,))
        assert status["cluster"]["paused"] is True
        assert any(
            "maintenance" in r["message"] or "paused" in r["message"] for r in status["verdict"]["reasons"]
        )
        account = load.account()
    assert account.errors == {}, account


@pytest.mark.timeout(240)
def test_promotion_is_refused_when_a_commit_could_be_lost(platform: Live) -> None:
    """The primary and two of three replicas are lost at once: the last one may lack an acknowledged write."""
    leader = platform.leader()
    first, second, left = platform.replicas()
    with platform.writing() as load:
        load.fault()
        for node in (leader, first, second):
            platform.power.kill(node, reason="live test", deadline=Deadline.after(10))
        refused = platform.cli("failover", "promote", "--fence", "--yes")
        assert refused.code == 3, refused.text
        assert "an acknowledged commit could be lost" in refused.err, refused.text
        assert first in refused.err and "--allow-data-loss" in refused.err, refused.text
        looked = platform.document("failover", "promote", "--fence", "--allow-data-loss", "--dry-run")
        assert looked["result"] == "planned" and looked["loss"] is not None
        assert platform.on(left, "SELECT pg_is_in_recovery()") == [(True,)]
        # One of the missing comes back: then the two have everything between them.
        platform.document("node", "power-on", first)
        eventually(lambda: can_promote(platform), 40, "no promotion although two members are back", every=0.5)
        load.flowing(60)
        load.account()
    assert platform.leader() in (first, left)


@pytest.mark.timeout(240)
def test_promotion_with_data_loss_says_what_may_be_lost_and_serves_again(platform: Live) -> None:
    """Asked for in so many words, the last member takes over; the others come back as its replicas."""
    leader = platform.leader()
    first, second, left = platform.replicas()
    for node in (leader, first, second):
        platform.power.kill(node, reason="live test", deadline=Deadline.after(10))
    done = platform.cli("failover", "promote", "--fence", "--allow-data-loss", "--yes", timeout=120)
    # It leads; but a commit wants a standby, and there is none yet: said, with what to do.
    assert done.code == 1, done.text
    assert f"{left} leads on timeline" in done.err and "power-on" in done.err, done.text
    assert platform.leader() == left
    platform.document("node", "power-on", first)
    platform.document("node", "power-on", second)
    platform.document("failover", "resume", "--yes", timeout=120)
    platform.document("failover", "rejoin", leader, "--yes", timeout=200)
    eventually(lambda: platform.wait_whole(1), 120, "not whole after the loss of three members")
    assert platform.leader() == left


def can_promote(platform: Live) -> bool:
    return platform.cli("failover", "promote", "--fence", "--yes", timeout=90).code == 0


# Rejoin


@pytest.mark.timeout(240)
def test_rejoin_by_rewind_drops_what_was_never_acknowledged(platform: Live) -> None:
    """The old primary holds a row that no replica has: it is rewound, and the row is gone."""
    leader, replicas = platform.leader(), platform.replicas()
    before = rewinds(platform, leader)
    with platform.writing() as load:
        load.fault()
        for node in replicas:
            platform.power.freeze(node, deadline=Deadline.after(10))
        try:
            only_here(platform, leader)
            platform.power.kill(leader, reason="live test", deadline=Deadline.after(10))
        finally:
            for node in replicas:
                platform.power.thaw(node, deadline=Deadline.after(10))
        eventually(lambda: can_promote(platform), 60, "no promotion", every=0.5)
        load.flowing(40)
        result = platform.document("failover", "rejoin", leader, "--yes", timeout=200)
        load.flowing(20)
        account = load.account()
    assert result["result"] == "done" and platform.leader() != leader
    assert account.timelines[-1] == platform.timeline()
    for node in platform.members:
        assert platform.on(node, "SELECT count(*) FROM ops.proof WHERE via = 'diverged'") == [(0,)], node
    assert rewinds(platform, leader) > before, "it came back without pg_rewind"
    assert newest(platform).detail["rebuilt"] is False


def only_here(platform: Live, node: str) -> None:
    """Commit a row on the primary that no replica gets.

    Frozen replicas would still find it in their sockets when they wake: those are filled first.
    """
    server = platform.clients.superuser(
        platform.inventory.member(node), database=platform.inventory.postgres.database
    )
    with server.connect(limit=10) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(
            "SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1000000)))"
            " FROM generate_series(1, 48)"
        )
        connection.execute("INSERT INTO ops.proof (via, token, timeline) VALUES ('diverged', 'x', 1)")


def rewinds(platform: Live, node: str) -> int:
    """How often Patroni has run pg_rewind on the member."""
    log = platform.home / "supervisor" / "log" / f"{node}.patroni.log"
    return log.read_text(errors="replace").count("running pg_rewind from")


@pytest.mark.timeout(240)
def test_rejoin_by_rebuild(platform: Live) -> None:
    node = platform.replicas()[-1]
    mark = platform.home / "nodes" / node / "patroni" / "data" / "left-over"
    mark.write_text("x")
    with platform.writing() as load:
        load.fault()
        asked = platform.cli("failover", "rejoin", node, "--rebuild")
        assert asked.code == 3 and "--yes" in asked.err and mark.exists(), asked.text
        result = platform.document("failover", "rejoin", node, "--rebuild", "--yes", timeout=200)
        load.flowing(20)
        account = load.account()
    assert result["result"] == "done"
    assert not mark.exists(), "its data was not replaced"
    assert account.recovery is not None and account.recovery.gap_s is not None
    assert account.recovery.gap_s < 8
    assert platform.wait_whole(10)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_rejoin_of_damaged_data_says_that_it_takes_a_rebuild(platform: Live) -> None:
    node = platform.replicas()[0]
    with platform.writing() as load:
        load.fault()
        platform.document("node", "kill", node, "--yes")
        (platform.home / "nodes" / node / "patroni" / "data" / "global" / "pg_control").unlink()
        waited = platform.cli("failover", "rejoin", node, "--yes", "--deadline", "15")
        assert waited.code in (1, 6), waited.text
        assert f"wmsctl failover rejoin {node} --rebuild" in waited.err, waited.text
        rebuilt = platform.document("failover", "rejoin", node, "--rebuild", "--yes", timeout=250)
        load.account()
    assert rebuilt["result"] == "done"
    assert platform.wait_whole(30)


def test_a_member_that_is_well_needs_no_rejoin_and_the_leader_refuses_it(platform: Live) -> None:
    already = platform.document("failover", "rejoin", platform.replicas()[0], "--yes")
    assert already["result"] == "already"
    (refused,) = refusals(platform, ("rejoin", platform.leader()))
    assert "is the leader" in refused.err
