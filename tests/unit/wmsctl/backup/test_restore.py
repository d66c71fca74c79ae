"""What a recovery's log, history and position tell; a restore in place on a cluster in memory, killed at each step."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.wmsctl.backup.test_restore_plan import Place as Repository
from tests.unit.wmsctl.backup.test_restore_plan import at, planned
from wmsctl.audit import Audit
from wmsctl.backup import inplace, recovery, restore, wal
from wmsctl.backup.inplace import KIND, InPlace, Terms
from wmsctl.backup.recovery import Log, Reached
from wmsctl.backup.restore import Request, named
from wmsctl.backup.restore_plan import RestorePlan, target
from wmsctl.clients.postgres import lsn_text
from wmsctl.errors import Failed, Refused
from wmsctl.failover.proof import Proof
from wmsctl.journal import Journal
from wmsctl.output import Format, Printer

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


class Dead(BaseException):
    """wmsctl was killed."""


@dataclass
class Cluster:
    """World and ground of a restore in place. `dies_at`: the call before which wmsctl is killed."""

    plan: RestorePlan = field(default_factory=chosen)
    lead: str = "pg-1"
    unarchived: list[str] = field(default_factory=list)
    dies_at: str = ""
    calls: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=lambda: {"pg-1", "pg-2", "pg-3"})
    kept: set[str] = field(default_factory=lambda: {"pg-1", "pg-2", "pg-3"})
    """Members that have the data from before."""
    stale: bool = True
    members: tuple[str, ...] = ("pg-1", "pg-2", "pg-3")

    def did(self, what: str) -> None:
        if self.dies_at == what:
            raise Dead
        self.calls.append(what)

    # Ground

    def leader(self) -> str:
        return self.lead if self.lead in self.running else ""

    def paused(self) -> bool:
        return False

    def stop(self, node: str, deadline: Any) -> None:
        self.did(f"stop {node}")
        self.running.discard(node)

    def start(self, node: str) -> None:
        self.did(f"start {node}")
        self.running.add(node)

    def forget(self) -> tuple[str, ...]:
        self.did("forget")
        assert not self.running, "the store is cleared under running members"
        self.stale = False
        return ("sync",)

    def led_by(self, node: str, deadline: Any) -> int:
        self.did("lead")
        assert node in self.running and not self.stale
        self.lead = node
        return 3

    def follow(self, leader: str, deadline: Any) -> tuple[str, ...]:
        self.did("follow")
        return ()

    def prove(self, operation: str, deadline: Any) -> tuple[Proof, ...]:
        self.did("prove")
        return (Proof("proxy-1:6432", 3, 7, 1.0),)

    # World

    def where(self, node: str) -> str:
        return node

    def primary(self) -> str:
        return self.lead

    @contextmanager
    def alone(self, primary: str, what: str = "") -> Iterator[None]:
        yield

    def switch_wal(self, primary: str, deadline: Any) -> None:
        self.did("switch wal")

    def archive_command(self, node: str) -> str:
        return "true"

    def tool(self, node: str) -> Any:
        def restore(options: Sequence[str], **_: Any) -> None:
            self.did("copy")
            assert not self.running, "a member is restored under a running cluster"
            self.kept.discard(node)

        return SimpleNamespace(restore=restore)

    def member_place(self, node: str, name: str) -> Any:
        def nothing(*_: Any, **__: Any) -> None:
            return None

        def empty(_: Any) -> None:
            self.did(f"empty {node}")
            self.kept.discard(node)

        return SimpleNamespace(
            node=node,
            name=name,
            folder="/s",
            folders=nothing,
            stop=nothing,
            discard=nothing,
            query=nothing,
            empty=empty,
            usable=lambda _: True,
            configure=lambda _: wal.SEGMENT_BYTES,
            unarchived=lambda _: self.unarchived,
        )


class Desk:
    """Restores in place over a cluster in memory."""

    def __init__(self, folder: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.journal = cluster, Journal(folder)
        printer = Printer(Format.table, stdout=io.StringIO(), stderr=io.StringIO())
        world: Any = cluster
        self.restores = InPlace(world, cluster, self.journal, Audit(folder / "audit.jsonl", "test"), printer)
        monkeypatch.setattr(restore.Runner, "look", lambda *_: None)
        monkeypatch.setattr(restore.Runner, "choose", lambda *_: cluster.plan)
        monkeypatch.setattr(inplace, "follow", self._replay)
        monkeypatch.setattr(inplace, "arrived", lambda _: reached(cluster.plan))

    def _replay(
        self, place: Any, plan: RestorePlan, say: Any, deadline: Any, overrides: Mapping[str, str]
    ) -> Any:
        assert overrides["archive_mode"] == "on" and overrides["listen_addresses"] == ""
        self.cluster.did("replay")
        return 1.0, 1.0

    def run(self, text: str = "", *, loss: bool = True, dry_run: bool = False) -> restore.Result:
        text = text or at(20.5)
        terms = Terms(allow_data_loss=loss, yes=True)
        return self.restores.run(text, Request(target(text)), terms, deadline_s=10, dry_run=dry_run)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, Cluster(), monkeypatch)


def test_in_place_one_replica_is_restored_and_the_others_keep_their_data_until_it_leads(desk: Desk) -> None:
    done = desk.run()
    assert done.result == "done" and done.in_place and done.reached is not None
    assert desk.cluster.calls == [
        *("stop pg-2", "stop pg-3", "stop pg-1", "copy", "replay", "forget"),
        *("start pg-3", "lead", "start pg-1", "start pg-2", "start pg-3", "follow", "prove"),
    ]
    assert desk.cluster.kept == {"pg-1", "pg-2"}
    assert desk.journal.unfinished(kind=KIND) == []


def test_commits_are_not_thrown_away_unasked(desk: Desk) -> None:
    with pytest.raises(Refused, match=r"everything that was committed since .* will be lost"):
        desk.run(loss=False)
    assert desk.run(dry_run=True).result == "planned"
    assert desk.cluster.calls == []


def test_latest_loses_nothing_or_is_refused_with_the_cluster_running_again(desk: Desk) -> None:
    desk.cluster.plan = chosen("latest")
    desk.cluster.unarchived = ["000000010000000000000030"]
    with pytest.raises(Refused, match="000000010000000000000030"):
        desk.run("latest", loss=False)
    assert desk.cluster.running == set(desk.cluster.members) and "copy" not in desk.cluster.calls
    assert desk.journal.history(kind=KIND)[0].result == "refused"
    desk.cluster.unarchived = []
    assert desk.run("latest", loss=False).result == "done"


MOMENTS = ["stop pg-2", "stop pg-1", "copy", "replay", "forget", "start pg-3", "lead", "follow", "prove"]


@pytest.mark.parametrize("dies_at", MOMENTS)
def test_killed_anywhere_the_same_command_finishes(desk: Desk, dies_at: str) -> None:
    desk.cluster.dies_at = dies_at
    with pytest.raises(Dead):
        desk.run()
    desk.cluster.dies_at = ""
    with pytest.raises(Refused, match="was interrupted"):
        desk.run("latest")
    done = desk.run()
    assert done.result == "done" and done.reached is not None
    assert desk.cluster.lead == "pg-3" and desk.cluster.running == set(desk.cluster.members)
    assert desk.cluster.calls.count("copy") <= 2 and desk.journal.unfinished(kind=KIND) == []


@pytest.mark.parametrize("dies_at", MOMENTS)
def test_killed_anywhere_it_can_be_abandoned_until_the_store_is_cleared(desk: Desk, dies_at: str) -> None:
    desk.cluster.dies_at = dies_at
    with pytest.raises(Dead):
        desk.run()
    desk.cluster.dies_at = ""
    if MOMENTS.index(dies_at) >= MOMENTS.index("forget"):
        with pytest.raises(Refused, match="no way back"):
            desk.restores.abandon(deadline_s=5, yes=True)
        return
    assert desk.restores.abandon(deadline_s=5, yes=True).result == "undone"
    assert desk.cluster.lead == "pg-1" and desk.cluster.running == set(desk.cluster.members)
    assert {"pg-1", "pg-2"} <= desk.cluster.kept and desk.cluster.stale
    assert desk.journal.unfinished(kind=KIND) == []
    with pytest.raises(Refused, match="no restore in place"):
        desk.restores.abandon(deadline_s=5, yes=True)
