"""The service on the whole platform, with people at work: whatever dies under them, nothing acknowledged is lost or
done twice, nothing else is half there, and nobody goes on seeing the past.

tests/support/workload.py is the people, tests/support/witness.py the proof that follows each fault. Bounds are
generous, for a busy machine of two cores; what was measured is printed.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

import pytest

from tests.support import witness
from tests.support.fulfilment import rows
from tests.support.platform import Live, eventually, signal_one
from tests.support.witness import Verdict, prove, url
from tests.support.workload import Load
from wmsctl.deadline import Deadline
from wmsctl.errors import WmsctlError

pytestmark = [pytest.mark.live, pytest.mark.timeout(150)]

HICCUP_S = 8.0
"""The longest gap of changes when the database need not fail over."""
FAILOVER_S = 20.0
"""The same when it does, and need not wait for a lease."""
WARM_S = 20.0
STEADY = 60
"""So many changes are acknowledged before a fault, and again after it."""


class Shift:
    """People at work, and what became of it."""

    def __init__(self, platform: Live, load: Load, start: witness.Before) -> None:
        self._platform, self.load, self._start = platform, load, start
        self.fault_at = 0.0

    def fault(self) -> float:
        """Note that a fault is injected now (monotonic)."""
        self.fault_at = time.monotonic()
        return self.fault_at

    def going_on(self, seconds: float, changes: int = STEADY) -> None:
        """Wait until, from now on, so many changes more are acknowledged."""
        since = time.monotonic()
        eventually(
            lambda: len(self.load.done(since)) >= changes,
            seconds,
            lambda: f"only {len(self.load.done(since))} changes in {seconds:g} s, {self.load.errors()[-5:]}",
        )

    def end(self, name: str, limit_s: float, *, gaps: bool = False) -> Verdict:
        """Send everybody home and prove it all; the gap of changes, and the last request that failed, are within
        `limit_s` of the fault.
        """
        self.load.stop()
        gap_s = self.load.gap_s(self.fault_at)
        verdict = prove(self._platform, self.load, self._start, gaps=gaps)
        last_s = max((a.at for a in self.load.errors()), default=self.fault_at) - self.fault_at
        slowest = self.load.seconds()[-1]
        print(
            f"{name}: write gap {gap_s:.2f} s, {verdict.done} changes, {verdict.unknown} unknown and asked again, "
            f"{verdict.replayed} done though the answer was lost, {verdict.events} events, "
            f"told to come again {dict(verdict.errors)} until {last_s:.1f} s after the fault, "
            f"slowest request {slowest:.2f} s"
        )
        assert gap_s < limit_s
        assert last_s < limit_s
        return verdict


@contextmanager
def at_work(platform: Live, **how: Any) -> Iterator[Shift]:
    """People of two tenants at work through the edges, once it goes steadily."""
    edges = [url(edge) for edge in platform.inventory.web.edges]
    start = witness.before(platform, platform.tenants)
    with Load(edges, platform.inventory.ca, platform.tenants, **how) as load:
        shift = Shift(platform, load, start)
        shift.going_on(WARM_S)
        yield shift


def everywhere(nodes: Sequence[str], do: Callable[[str], object]) -> None:
    """Do it to all nodes at once."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(do, nodes))


def power_off(platform: Live, *nodes: str) -> None:
    everywhere(nodes, lambda node: platform.power.kill(node, reason="live test", deadline=Deadline.after(15)))


def power_on(platform: Live, *nodes: str) -> None:
    everywhere(nodes, lambda node: platform.power.power_on(node, deadline=Deadline.after(60)))


@contextmanager
def holding_picks(platform: Live) -> Iterator[str]:
    """A service whose pick waits in the database for its task's row, until the end of the body."""
    with witness.primary(platform) as keeper, witness.primary(platform) as watcher:

        def picking() -> str:
            found = rows(
                watcher,
                "SELECT application_name FROM pg_stat_activity WHERE usename = 'wms_app' "
                "AND wait_event_type = 'Lock' AND query LIKE '%confirm_pick%' LIMIT 1",
            )
            return str(found[0][0]).partition("/")[2] if found else ""

        deadline = time.monotonic() + 20
        node = ""
        while not node:
            assert time.monotonic() < deadline, "nobody picks"
            keeper.execute("ROLLBACK")
            time.sleep(0.1)
            keeper.execute("BEGIN")
            # Whoever picks one of these now waits, at most as long as the service's lock_timeout.
            keeper.execute("SELECT FROM pick_tasks WHERE status = 'OPEN' FOR UPDATE")
            with suppress(AssertionError):
                node = eventually(picking, 0.5, "nobody picks one of them", every=0.01)
        yield node
        keeper.execute("ROLLBACK")


def states(platform: Live) -> set[str]:
    """What the services say of themselves."""
    web = platform.web()
    return {web.request("GET", e.url).json()["status"] for e in platform.inventory.web.services}


# Redis


def test_redis_master_with_the_stream_is_killed(platform: Live) -> None:
    """Its replica takes over. What it had not been sent yet, the relay publishes again."""
    lost = witness.stream_owner(platform).name
    with at_work(platform) as shift:
        shift.fault()
        power_off(platform, lost)

        def successor() -> str:
            with suppress(WmsctlError):
                name = witness.stream_owner(platform).name
                return name if name != lost else ""
            return ""

        new = eventually(successor, 30, "nobody took the stream over")
        shift.going_on(20)
        shift.end(f"Redis master {lost} killed, {new} took over", HICCUP_S, gaps=True)
    power_on(platform, lost)


def test_redis_is_away_altogether_for_a_while(platform: Live) -> None:
    """The service goes on from the database; the events wait in it."""
    nodes = [node.node for node in platform.inventory.redis.nodes] if platform.inventory.redis else []
    with at_work(platform) as shift:
        since = shift.fault()
        power_off(platform, *nodes)
        eventually(lambda: states(platform) == {"degraded"}, 10, "nobody notices that Redis is away")
        away = time.monotonic()
        shift.going_on(20, changes=250)
        without = len(shift.load.done(away)) / (time.monotonic() - away)
        power_on(platform, *nodes)
        eventually(lambda: states(platform) == {"ready"}, 40, "the services do not find Redis again")
        shift.going_on(20)
        print(f"without Redis {without:.0f} changes/s; away for {time.monotonic() - since:.0f} s")
        shift.end("all of Redis killed and back", HICCUP_S, gaps=True)


# PostgreSQL


def test_read_replica_is_killed(platform: Live) -> None:
    lost = platform.replicas()[-1]
    with at_work(platform) as shift:
        shift.fault()
        power_off(platform, lost)
        shift.going_on(20, changes=250)
        shift.end(f"replica {lost} killed", HICCUP_S)
    assert platform.document("failover", "rejoin", lost, "--yes", timeout=120)["result"] == "done"


def test_postmaster_of_the_primary_is_killed(platform: Live) -> None:
    leader = platform.leader()
    with at_work(platform) as shift:
        pid = platform.postmaster(leader)
        shift.fault()
        signal_one(platform, leader, pid, SIGKILL)
        shift.going_on(FAILOVER_S + 20)
        shift.end(f"postmaster of {leader} killed", FAILOVER_S)
    assert platform.leader() != leader


def test_node_of_the_primary_is_killed_and_fenced(platform: Live) -> None:
    leader = platform.leader()
    with at_work(platform) as shift:
        shift.fault()
        platform.document("node", "kill", leader, "--yes")
        assert platform.document("failover", "promote", "--fence", "--yes")["leader"] != leader
        shift.going_on(FAILOVER_S + 20)
        shift.end(f"node {leader} killed, successor promoted with --fence", FAILOVER_S)
    assert platform.document("failover", "rejoin", leader, "--yes", timeout=120)["result"] == "done"


# The service and the way to it


def test_wms_process_is_killed_in_mid_pick(platform: Live) -> None:
    """It dies while its pick waits in the database for a row: what became of the pick, only its key can tell."""
    with at_work(platform) as shift:
        with holding_picks(platform) as node:
            pid = platform.pids()[f"{node}.wms"]
            shift.fault()
            signal_one(platform, node, pid, SIGKILL)
        eventually(lambda: platform.pids()[f"{node}.wms"] not in (0, pid), 30, f"{node} does not come back")
        shift.going_on(20)
        shift.end(f"WMS process of {node} killed in mid-pick", HICCUP_S)


def test_gateway_is_killed(platform: Live) -> None:
    node = platform.inventory.web.gateways[0].node
    with at_work(platform) as shift:
        shift.fault()
        power_off(platform, node)
        shift.going_on(20)
        power_on(platform, node)
        shift.going_on(20)
        shift.end(f"gateway {node} killed and back", HICCUP_S)


# Without a fault


@dataclass(frozen=True)
class Figures:
    """What a load without a fault measured over a while."""

    requests_s: float
    reads: float
    """The share of requests that only look."""
    p95_s: float
    p99_s: float
    soon: float
    """The share of events that arrived at a service within 100 ms."""
    in_time: float
    """The same within 500 ms."""
    hit_rate: float
    """The share of the reads through the service's cache that no database answered."""

    def __str__(self) -> str:
        return (
            f"{self.requests_s:.0f} requests/s, {self.reads:.0%} reads; O1 p95 {self.p95_s * 1000:.0f} ms, "
            f"p99 {self.p99_s * 1000:.0f} ms; O3 {self.soon:.2%} within 100 ms, {self.in_time:.2%} within 500 ms; "
            f"O4 {self.hit_rate:.1%}"
        )


def hits(platform: Live) -> tuple[int, int]:
    """(reads that no database answered, all reads) of the services' caches since they started."""
    kinds = platform.document("cache", "stats")["kinds"]
    kept = sum(kind["near"] + kind["redis"] for kind in kinds)
    return kept, kept + sum(kind["database"] for kind in kinds)


def arrivals(platform: Live) -> dict[float, int]:
    """Upper bound (s) → events that arrived within it, over all services, since they started."""
    web, found = platform.web(), Counter[float]()
    for endpoint in platform.inventory.web.services:
        text = web.request("GET", f"{url(endpoint)}/metrics").data.decode()
        for bound, number in re.findall(
            r'^wms_events_latency_seconds_bucket\{le="(\S+)"\} (\S+)$', text, re.MULTILINE
        ):
            found[float(bound)] += int(float(number))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so many percent of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def measured(platform: Live, seconds: float, lead_s: float = 0.0, **how: Any) -> Figures:
    """A load without a fault, `how` as Load takes it, after `lead_s` of it; nothing may be told to come again."""
    with at_work(platform, **how) as shift:
        time.sleep(lead_s)
        first, (kept, reads), before = len(shift.load.attempts), hits(platform), arrivals(platform)
        shift.fault()
        time.sleep(seconds)
        asked = shift.load.attempts[first:]
        (kept_now, reads_now), now = hits(platform), arrivals(platform)
        verdict = shift.end("nothing killed", HICCUP_S)
    assert verdict.errors == {}
    took = [attempt.seconds for attempt in asked]
    came = {bound: number - before[bound] for bound, number in now.items()}
    return Figures(
        len(asked) / seconds,
        sum(attempt.kind.endswith((".read", ".search")) for attempt in asked) / len(asked),
        percentile(took, 95),
        percentile(took, 99),
        came[0.1] / came[math.inf],
        came[0.5] / came[math.inf],
        (kept_now - kept) / (reads_now - reads),
    )


def test_o1_o3_the_objectives_hold_with_people_at_work(platform: Live) -> None:
    """Two of three requests are changes, as when many are picking (row T2). Somebody else may be busy on this machine:
    the best of three is what the platform does.
    """
    for _ in range(3):
        found = measured(platform, 12, pause_s=0.06)
        print(f"at work: {found}")
        if found.p95_s < 0.5 and found.p99_s < 1.0 and found.soon >= 0.95 and found.in_time >= 0.99:
            return
    raise AssertionError(f"not within rows O1 and O3: {found}")


def test_o4_caches_answer_those_who_look_things_up(platform: Live) -> None:
    """Beside people who change something 25 000 times an hour, once what is likely to be asked for was loaded, as it is
    at a start and every day (row K5).
    """
    assert platform.cli("cache", "warm", "all").code == 0
    found = measured(platform, 15, lead_s=6, workers=4, readers=4, pause_s=0.5)
    print(f"looking up: {found}")
    assert found.hit_rate > 0.9
    assert found.p95_s < 0.5 and found.p99_s < 1.0
