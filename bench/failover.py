"""What a failover costs its clients: the write gap at 500 writes/s, for each fault, ours beside stock values.

One repetition: the cluster is whole; a ledger writes through both poolers; the fault is injected; the ledger goes on
until writes have flowed without a break again; it is reconciled with the rows that are there; the cluster is made
whole. An acknowledged write that is lost ends the bench.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from bench.report import Aim, Run, Sample, Value, cell, judge, pick, stats, table
from bench.rig import BenchError, Platform, say
from wmsctl.clients import procfs
from wmsctl.deadline import Deadline
from wmsctl.ledger.account import Account, Kind
from wmsctl.ledger.writer import LedgerRun, Options

RATE = 500.0
BEFORE_S = 3.0
"""Writing before the injection."""
STEADY_S, STALL_S = 5.0, 0.5
"""Writes flow again when no stall was longer than STALL_S for STEADY_S."""

STOCK: dict[str, object] = {
    "network": "127.52",
    "patroni": {
        "ttl_s": 30,
        "loop_wait_s": 10,
        "retry_timeout_s": 10,
        "primary_start_timeout_s": 300,
        "shorten_waits": False,
    },
    "postgres": {"wal_retrieve_retry_ms": 5000},
    # As in the HAProxy template that Patroni comes with.
    "proxy": {
        "check_ms": 3000,
        "check_down_ms": 3000,
        "fall": 3,
        "rise": 2,
        "connect_timeout_s": 4,
        "write_retries": 2,
    },
    "pooler": {"login_retry_s": 15, "server_lifetime_s": 3600},
    # PgBouncer's query_wait_timeout of 120 s, and the rungs above it in their order.
    "timeouts": {"client_s": 150, "edge_s": 145, "gateway_s": 140, "service_s": 130, "pool_wait_s": 120},
}
"""Spec values that give Patroni, HAProxy and PgBouncer their defaults; durability (quorum of 2) is as ours."""
OURS: dict[str, object] = {"network": "127.51"}

WAITS_S = {"ours": 25.0, "stock": 125.0}
"""Until a write without an answer counts as unknown: longer than PgBouncer's query_wait_timeout."""
LIMITS_S = {"ours": 60.0, "stock": 150.0}
"""From the injection until the ledger is stopped although writes do not flow."""

AIMS = (
    Aim(series="postmaster kill", value="gap_s", statistic="p95", limit=2.5),
    Aim(series="node kill, fenced", value="gap_s", statistic="p95", limit=3.0),
    Aim(series="node kill", value="gap_s", statistic="p95", limit=23.0),
    Aim(series="switchover", value="gap_s", statistic="p95", limit=1.0),
)


@dataclass(frozen=True)
class Scenario:
    """A fault, or a planned change. `inject` gets the platform and the leader; what it returns is noted as a fact."""

    name: str
    inject: Callable[[Platform, str], str]
    powers_off: bool = False
    """The leader's node stays off until it is brought back."""


def kill_postmaster(platform: Platform, leader: str) -> str:
    """SIGKILL to the leader's postmaster alone; nobody is told."""
    path = platform.home / "nodes" / leader / "patroni" / "data" / "postmaster.pid"
    pid = int(path.read_text().split("\n", 1)[0])
    found = [process for process in platform.power.processes(leader) if process.pid == pid]
    if procfs.send(found, SIGKILL) != 1:
        raise BenchError(f"the postmaster of {leader} (pid {pid}) could not be killed")
    return ""


def kill_node(platform: Platform, leader: str) -> str:
    """Every process of the leader's node dies and stays dead; nobody is told."""
    platform.power.kill(leader, reason="bench", deadline=Deadline.after(10))
    return ""


def kill_node_and_fence(platform: Platform, leader: str) -> str:
    """The same; right after it the bench, as an operator would, invokes the fencing."""
    kill_node(platform, leader)
    return _told(
        platform.wmsctl("failover", "promote", "--fence", "--yes").code, "wmsctl failover promote --fence"
    )


def switch(platform: Platform, leader: str) -> str:
    """The planned change by wmsctl."""
    return _told(platform.wmsctl("failover", "switchover", "--yes").code, "wmsctl failover switchover")


def switch_plainly(platform: Platform, leader: str) -> str:
    """The planned change by Patroni's own tool."""
    return _told(
        platform.patronictl("switchover", "--leader", leader, "--force").code, "patronictl switchover --force"
    )


POSTMASTER = Scenario("postmaster kill", kill_postmaster)
NODE = Scenario("node kill", kill_node, powers_off=True)
FENCED = Scenario("node kill, fenced", kill_node_and_fence, powers_off=True)

REPETITIONS = 10
"""Of each scenario, on both platforms: the nearest-rank p95 is then the maximum of as many."""

SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "ours": (POSTMASTER, Scenario("switchover", switch), FENCED, NODE),
    "stock": (POSTMASTER, Scenario("switchover", switch_plainly), NODE),
}
"""Per platform; at stock values a repetition takes up to a minute."""


def measure(
    platform: Platform, variant: str, repetitions: int | None, keep: Callable[[Sample], None], until: float
) -> None:
    """Run the scenarios of `variant` and hand each sample to `keep` as soon as there is one.

    `repetitions` of each (default: REPETITIONS). At `until` (time.monotonic()) no repetition begins any more: what
    is missing is said. Raises BenchError when a write is lost or the cluster does
    not become whole again.
    """
    wanted = REPETITIONS if repetitions is None else repetitions
    for scenario in SCENARIOS[variant]:
        for number in range(1, wanted + 1):
            if time.monotonic() > until:
                say(
                    f"out of time: {scenario.name} ({variant}) ends after {number - 1} of {wanted} repetitions"
                )
                break
            sample = repetition(platform, variant, scenario, number)
            keep(sample)
            gap = cell(sample.values.get("gap_s"))
            say(f"{scenario.name} ({variant}) {number}/{wanted}: gap {gap} s, {sample.facts['errors']}")
            if sample.values.get("lost") != 0 or sample.values.get("contradicted") != 0:
                raise BenchError(f"{scenario.name} ({variant}) {number}: not a sound account: {sample}")


def repetition(platform: Platform, variant: str, scenario: Scenario, number: int) -> Sample:
    """One repetition, from a whole cluster to a whole cluster."""
    platform.make_whole()
    time.sleep(1)
    leader = platform.leader()
    record = platform.scratch / f"{variant}-{scenario.name.replace(' ', '-')}-{number}-{time.time_ns()}.jsonl"
    options = Options(rate=RATE, seconds=BEFORE_S + LIMITS_S[variant] + 5, timeout=WAITS_S[variant])
    load = os.getloadavg()[0]
    with LedgerRun(platform.inventory, platform.secrets, options, record) as ledger:
        time.sleep(BEFORE_S)
        fault_at = time.monotonic()
        told = scenario.inject(platform, leader)
        flowing = wait_flowing(record, fault_at, LIMITS_S[variant])
    if scenario.powers_off:
        platform.wmsctl("failover", "rejoin", leader, "--yes", timeout=240)
    account = ledger.report(fault_at=fault_at)
    record.unlink()
    return sample_of(
        scenario.name,
        variant,
        number,
        account,
        {
            "leader_before": leader,
            "invoked": told,
            "flowing_again": flowing,
            "load": round(load, 2),
        },
    )


def sample_of(series: str, variant: str, number: int, account: Account, facts: dict[str, Value]) -> Sample:
    """The account of a ledger as a sample; what was not found out is not among its values."""
    recovery, latency = account.recovery, account.latency
    values: dict[str, float | None] = {
        "gap_s": recovery.gap_s if recovery else None,
        "from_injection_s": recovery.first_ack_s if recovery else None,
        "new_timeline_s": recovery.new_timeline_s if recovery else None,
        "acknowledged": account.acknowledged,
        "refused": account.failed,
        "unknown": account.unknown,
        "unknown_present": account.unknown_present,
        "skipped": account.skipped,
        "lost": account.lost,
        "contradicted": account.contradicted,
        "p50_ms": latency.p50 if latency else None,
    }
    errors = ", ".join(f"{count} x {name}" for name, count in account.errors.items()) or "no error"
    return Sample(
        series=series,
        variant=variant,
        repetition=number,
        values={name: round(float(value), 4) for name, value in values.items() if value is not None},
        facts={**facts, "errors": errors, "trouble": account.trouble},
    )


def wait_flowing(record: Path, fault_at: float, limit: float) -> bool:
    """Wait until acknowledged writes have flowed for STEADY_S since the fault; False when `limit` seconds after the
    fault they do not."""
    flow = Flow(fault_at)
    with record.open("rb") as stream:
        rest = b""
        while time.monotonic() < fault_at + limit:
            *lines, rest = (rest + stream.read()).split(b"\n")
            for line in lines:
                row = json.loads(line)
                if isinstance(row, list) and row[6] == Kind.acknowledged:
                    flow.acknowledged(row[4])
            if flow.steady(time.monotonic()):
                return True
            time.sleep(0.5)
    return False


class Flow:
    """Whether writes flow again: fed with the times of acknowledgements (monotonic seconds)."""

    def __init__(self, since: float) -> None:
        self._begun = self._last = since

    def acknowledged(self, at: float) -> None:
        """An acknowledgement at `at`; a pause before it longer than STALL_S starts the count anew."""
        if at - self._last > STALL_S:
            self._begun = at
        self._last = max(self._last, at)

    def steady(self, now: float) -> bool:
        """Whether STEADY_S have passed since the last stall, the present one (acknowledgements are known with a
        delay of 0.2 s and a bit) included."""
        return self._last - self._begun >= STEADY_S and now - self._last <= 2 * STALL_S


def section(run: Run) -> list[str]:
    """The part of the summary."""
    rows = []
    for variant in SCENARIOS:
        for scenario in SCENARIOS[variant]:
            gaps = pick(run, scenario.name, variant, "gap_s")
            if not gaps:
                continue
            s = stats(gaps)
            injection = pick(run, scenario.name, variant, "from_injection_s")
            aim = next((a for a in AIMS if (a.series, a.variant) == (scenario.name, variant)), None)
            verdict = judge(run, aim) if aim else None
            count = {
                n: int(sum(pick(run, scenario.name, variant, n)))
                for n in ("refused", "unknown", "unknown_present", "skipped", "lost")
            }
            rows.append(
                (
                    scenario.name,
                    variant,
                    s.count,
                    s.median,
                    s.p95,
                    max(injection) if len(injection) == s.count else None,
                    count["refused"],
                    f"{count['unknown']} ({count['unknown_present']})",
                    count["skipped"],
                    count["lost"],
                    f"<= {aim.limit:g} s" if aim else None,
                    verdict[1] if verdict else None,
                )
            )
    header = (
        "what",
        "values",
        "n",
        "gap median s",
        "gap p95 s",
        "injection to writes, max s",
        "refused",
        "no answer (there)",
        "not sent",
        "lost",
        "aim p95",
        "met",
    )
    return [
        *table(header, rows),
        "",
        f"{RATE:g} writes/s by 8 sessions through both PgBouncers, each for itself on a fixed schedule. The gap is the",
        "longest time without any acknowledged commit that reaches beyond the injection of the fault; it runs until",
        "writes work again, detection included. A write without an answer is looked up afterwards (in parentheses:",
        "found) and is never a success; one that comes due while its session has been held up for over a second is",
        "not sent. `node kill, fenced`: the bench starts `wmsctl failover promote --fence` right after the kill, so",
        "its start is in the gap. `stock`: defaults of Patroni, its HAProxy template and PgBouncer, with the same",
        "quorum; its switchover is `patronictl switchover --force`.",
    ]


def _told(code: int, command: str) -> str:
    return f"{command}: exit {code}"
