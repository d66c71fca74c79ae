"""Fakes for the operations of failover: a platform in memory that records what is done to it, in order.

They obey the same protocols as the real ones and can be told to fail at one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support import snapshots
from wmsctl.clients.patroni import Answer, HistoryEntry, MemberStatus
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed
from wmsctl.failover.plan import SwitchoverPlan
from wmsctl.failover.proof import Proof
from wmsctl.failover.snapshot import Snapshot
from wmsctl.failover.world import Lead
from wmsctl.hosts import Evidence, Port
from wmsctl.journal import Record


@dataclass
class FakePause:
    """The measured part of a pause."""

    begun: dict[str, float] = field(default_factory=dict)
    write_stall_ms: float | None = None
    longest_ms: float = 0.0


class FakeGuard:
    pid = 4242

    def __init__(self, calls: list[str], acted: bool = False) -> None:
        self._calls = calls
        self._acted = acted

    def disarm(self) -> bool:
        self._calls.append("disarm")
        return not self._acted

    def release(self) -> None:
        self._calls.append("release")


@dataclass
class FakePlatform:
    """A platform whose leader moves when it is told to. `fail` maps the name of a call to what it raises there."""

    leader: str = "pg-1"
    timeline: int = 5
    calls: list[str] = field(default_factory=list)
    fail: dict[str, BaseException] = field(default_factory=dict)
    paused: bool = False
    on_request: str = "switch"
    """What Patroni does with a request: switch, refuse, nothing, or elsewhere (promotes another member)."""
    still_paused: list[str] = field(default_factory=list)
    """What `resume` of the rig answers."""
    snapshot: Callable[[], Snapshot] = snapshots.healthy
    evidence: Evidence | None = None
    key_unchanged: bool = True
    streams: bool = True
    member_state: str = "streaming"
    cured_by: str = "reinitialize"
    """What makes a member that does not start run again: reinitialize or power-on."""
    leaderless_looks: int = 0
    """How often `lead` says None before it tells."""
    busy: list[str] = field(default_factory=list)
    pause_of_all: FakePause = field(default_factory=FakePause)
    slept: float = 0.0
    request_pending: bool = False

    def did(self, call: str) -> None:
        self.calls.append(call)
        name = call.split(" ")[0]
        if name in self.fail:
            raise self.fail[name]

    # The rig of a switchover

    def prepare(self) -> None:
        self.did("prepare")

    def checkpoint(self) -> float:
        self.did("checkpoint")
        return 0.1

    def arm(self, timer: float) -> Any:
        self.did("arm")
        return FakeGuard(self.calls)

    def pause(self, limit: float) -> None:
        self.paused = True
        self.did("pause")
        self.pause_of_all.begun = {"wms": 1.0}

    def request(self) -> None:
        self.did("request")
        if self.on_request == "switch":
            self.leader, self.timeline = "pg-2", self.timeline + 1
        elif self.on_request == "elsewhere":
            self.leader, self.timeline = "pg-3", self.timeline + 1

    def refused(self) -> str:
        return "no good candidates have been found" if self.on_request == "refuse" else ""

    def promoted(self) -> int | None:
        if "promoted" in self.fail:
            raise self.fail["promoted"]
        return self.timeline if self.leader == "pg-2" else None

    def prove_proxies(self, deadline: Deadline) -> list[Proof]:
        self.did("prove-proxies")
        return [Proof("proxy-1:5000", self.timeline, 700, 2.0)]

    def resume(self, *databases: str) -> list[str]:
        self.did(f"resume {','.join(databases) or 'all'}")
        self.paused = bool(self.still_paused)
        self.pause_of_all.write_stall_ms = 640.0
        return self.still_paused

    def reads_settled(self, deadline: Deadline) -> bool:
        self.did("reads-settled")
        return True

    def prove_poolers(self, deadline: Deadline) -> list[Proof]:
        self.did("prove-poolers")
        assert not self.paused, "a proof through a paused pooler would wait for ever"
        return [Proof("proxy-1:6432", self.timeline, 701, 2.0)]

    def blockers(self, pids: list[int]) -> list[str]:
        return self.busy

    def close(self) -> None:
        self.calls.append("close")

    # The world

    def rig(self, plan: SwitchoverPlan, record: Record) -> Any:
        return _Rig(self)

    def observe(self, *, heartbeats: bool = False, power: str = "") -> Snapshot:
        return self.snapshot()

    def fence(self, node: str, reason: str, deadline: Deadline) -> Evidence:
        self.did(f"fence {node}")
        return self.evidence or dead_evidence(node)

    def delete_leader(self, holder: str, revision: int) -> bool:
        self.did(f"delete-leader {holder} {revision}")
        if self.key_unchanged:
            self.leader, self.timeline = "pg-2", self.timeline + 1
        return self.key_unchanged

    def failover(self, candidate: str) -> Answer:
        self.did(f"failover {candidate}")
        self.leader, self.timeline = candidate, self.timeline + 1
        return Answer(True, 200, "")

    def lead(self) -> Lead | None:
        if self.leaderless_looks > 0:
            self.leaderless_looks -= 1
            return None
        return Lead(self.leader, self.timeline) if self.leader else None

    def pending(self) -> bool:
        return self.request_pending

    def prove(self, leader: str, operation: str, deadline: Deadline) -> list[Proof]:
        self.did(f"prove {leader}")
        return [Proof("proxy-1:6432", self.timeline, 702, 2.0)]

    def resume_poolers(self, seconds: float) -> tuple[dict[str, list[str]], list[str]]:
        self.did("resume-poolers")
        self.paused = bool(self.still_paused)
        return {"proxy-1": ["wms"]}, self.still_paused

    def power_on(self, node: str, deadline: Deadline) -> tuple[str, ...]:
        self.did(f"power-on {node}")
        self._cure("power-on")
        return (f"{node}.patroni",)

    def member(self, node: str) -> MemberStatus | None:
        return MemberStatus(node, "replica", self.member_state, timeline=self.timeline)

    def reinitialize(self, node: str) -> Answer:
        self.did(f"reinitialize {node}")
        self._cure("reinitialize")
        return Answer(True, 200, "reinitialize started")

    def _cure(self, means: str) -> None:
        if self.cured_by == means:
            self.member_state, self.streams = "streaming", True

    def streaming(self, leader: str) -> frozenset[str]:
        return frozenset((*snapshots.REPLICAS, "pg-1")) - {leader} if self.streams else frozenset()

    def history(self) -> tuple[HistoryEntry, ...]:
        return ()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


class _Rig:
    """The platform as a rig: `streams` is a question there and a fact in the platform."""

    def __init__(self, platform: FakePlatform) -> None:
        self._platform = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def streams(self, member: str) -> bool:
        return self._platform.streams


def rig(platform: FakePlatform) -> Any:
    return _Rig(platform)


def dead_evidence(node: str = "pg-1") -> Evidence:
    return Evidence(node, "t", True, "test", (), (), (Port("127.99.2.1", 5432, "refused"),))


def living_evidence(node: str = "pg-1") -> Evidence:
    return Evidence(node, "t", True, "test", (77,), (), (Port("127.99.2.1", 5432, "open"),))


def broken(text: str = "broken on purpose") -> Failed:
    return Failed(text)
