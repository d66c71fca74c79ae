"""Making backups on a platform in memory: what is decided, in which order it is done, and how it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.builders import cluster_state, member_state
from wmsctl.audit import Audit
from wmsctl.backup import run, source, view
from wmsctl.backup.catalogue import Backup, Catalogue, Repository
from wmsctl.backup.run import KIND, Progress, Runner
from wmsctl.backup.schedule import Schedule
from wmsctl.backup.source import Source, choose
from wmsctl.backup.wal import Archive, Segment, segment
from wmsctl.clients.pgbackrest import BackupLog, Copied
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable
from wmsctl.journal import Journal
from wmsctl.output import Format, Printer

MEMBERS = builders.inventory().postgres.members
LAG = 1 << 24


def made(label: str, repo: int = 1, kind: str = "full", prior: str = "", **changes: Any) -> Backup:
    """A backup that ended a minute ago."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "repo": repo,
        "label": label,
        "type": kind,
        "prior": prior,
        "references": (prior,) if prior else (),
        "started": now - timedelta(seconds=65),
        "stopped": now - timedelta(seconds=60),
        "lsn_start": 0x6000028,
        "lsn_stop": 0x7000100,
        "wal_start": "000000010000000000000006",
        "wal_stop": "000000010000000000000007",
        "archive": "15-1",
        "size": 1000,
        "delta": 900,
        "stored": 100,
        "stored_delta": 90,
        "damaged": False,
    }
    return Backup(**{**values, **changes})


@dataclass
class Platform:
    """A world whose backups succeed unless told otherwise; `calls` tells what was done, in order."""

    schedule: Schedule = field(default_factory=Schedule)
    long_term: frozenset[int] = frozenset({2})
    wal_wait_s: float = 0.05
    backups: list[Backup] = field(default_factory=list)
    archived: dict[int, set[str]] = field(default_factory=lambda: {1: set(), 2: set()})
    taken: Source = field(default_factory=lambda: Source("pg-3", "pg-1"))
    log: BackupLog = field(default_factory=BackupLog)
    damaged: bool = False
    loses: int = 0
    """Segments of a backup that do not reach the first repository."""
    error: Exception | None = None
    busy: bool = False
    troubles: dict[int, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    # World

    def engine(self, deadline: Deadline) -> Any:
        return self

    def source(self, node: str) -> Source:
        return replace(self.taken, node=node) if node else self.taken

    def tool(self, node: str) -> Any:
        return self

    @contextmanager
    def alone(self, primary: str) -> Iterator[None]:
        if self.busy:
            raise Refused("another run has the backups of this platform: wmsctl backup run (anna@host 7)")
        self.calls.append("lock")
        yield
        self.calls.append("unlock")

    def segment_bytes(self, primary: str) -> int:
        return 1 << 24

    # Engine

    def catalogue(self) -> Catalogue:
        repositories = tuple(Repository(key, "aes-256-cbc", self.troubles.get(key, "")) for key in (1, 2))
        return Catalogue("wms", repositories, (), tuple(self.backups), False)

    def archive(self, repo: int, archive: str) -> Archive:
        now = datetime.now(UTC)
        return Archive(archive, {segment(name): now for name in self.archived[repo]}, {})

    # Tool

    def backup(
        self,
        repo: int,
        kind: str,
        *,
        primary: str,
        annotations: Mapping[str, str],
        told: Callable[[Copied], None],
        deadline: Deadline,
    ) -> BackupLog:
        self.calls.append(f"{kind} into repo{repo} for {annotations['tier']} of {annotations['source']}")
        if self.error is not None:
            raise self.error
        label = f"2026112{len(self.backups)}-000000F"
        prior = self.backups[-1].label if kind != "full" else ""
        started = datetime.now(UTC)
        new = made(label, repo, kind, prior, started=started, stopped=started, damaged=self.damaged)
        self.backups.append(new)
        names = [Segment(1, number).name() for number in range(6, 8 - self.loses)]
        self.archived[1] |= set(names)
        return replace(self.log, label=label)

    def copy_wal(self, segments: Sequence[str], deadline: Deadline) -> None:
        self.calls.append(f"copy {len(segments)} segments")
        self.archived[2] |= set(segments)


class Desk:
    """A runner over a platform in memory, its journal and what it printed."""

    def __init__(self, folder: Path, platform: Platform, *, yes: bool = True) -> None:
        self.platform, self.journal = platform, Journal(folder)
        self.stderr, self.audit = io.StringIO(), folder / "audit.jsonl"
        printer = Printer(Format.table, stdout=io.StringIO(), stderr=self.stderr)
        self.runner = Runner(platform, self.journal, Audit(self.audit, "test"), printer, yes=yes)

    def run(self, kind: Any = None, repo: int = 1, node: str = "", dry_run: bool = False) -> list[run.Result]:
        return self.runner.run(kind, repo, node, deadline_s=10, dry_run=dry_run)

    @property
    def printed(self) -> str:
        return self.stderr.getvalue()


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def desk(tmp_path: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(run, "POLL_S", 0.01)
    return Desk(tmp_path / "state", platform)


def test_a_backup_is_made_and_proven_under_the_lock(desk: Desk) -> None:
    (result,) = desk.run("full")
    assert desk.platform.calls == ["lock", "full into repo1 for weekly of pg-3", "unlock"]
    assert (result.result, result.label, result.node, result.primary) == (
        "done",
        "20261120-000000F",
        "pg-3",
        "pg-1",
    )
    assert result.wal == ("000000010000000000000006", "000000010000000000000007")
    operation = desk.journal.history(kind=KIND)[0]
    assert operation.result == "done" and operation.completed("prove")
    line = json.loads(desk.audit.read_text())
    assert (line["action"], line["result"], line["facts"]) == (
        "backup run",
        "done",
        {"label": "20261120-000000F"},
    )


def test_a_dry_run_does_nothing(desk: Desk) -> None:
    (result,) = desk.run("full", repo=2, dry_run=True)
    assert result.result == "planned" and len(result.steps) == 3
    assert desk.platform.calls == [] and desk.journal.history() == [] and not desk.audit.exists()


def test_auto_makes_what_the_schedule_owes_in_every_repository(desk: Desk) -> None:
    assert [(r.repo, r.type) for r in desk.run()] == [(1, "full"), (2, "full")]
    (again,) = desk.run()
    assert again.result == "already" and "nothing is due before" in again.summary


def test_auto_passes_over_a_repository_that_cannot_be_read(desk: Desk) -> None:
    desk.platform.troubles[2] = "HostConnectError"
    assert [(r.repo, r.type) for r in desk.run()] == [(1, "full")]
    assert "repo2" in desk.printed


def test_a_first_incremental_is_announced_as_the_full_one_that_it_will_be(desk: Desk) -> None:
    (result,) = desk.run("incr", dry_run=True)
    assert result.type == "full" and "no full backup yet" in result.reason


def test_a_long_term_backup_is_given_its_wal_before_it_is_proven(desk: Desk) -> None:
    desk.run("full", repo=2)
    assert desk.platform.calls[1:-1] == ["full into repo2 for monthly of pg-3", "copy 2 segments"]
    steps = [step.name for step in desk.journal.history(kind=KIND)[0].steps]
    assert steps == ["backup", "wal", "prove"]


def test_without_its_wal_it_is_a_failure_that_names_the_segment(desk: Desk) -> None:
    desk.platform.loses = 1
    with pytest.raises(Failed, match="000000010000000000000007") as caught:
        desk.run("full")
    assert "archiving" in caught.value.hint
    assert desk.journal.history(kind=KIND)[0].result == "failed"
    assert json.loads(desk.audit.read_text())["result"] == "failed"


@pytest.mark.parametrize("told", ["catalogue", "log"])
def test_damaged_pages_are_a_failure_though_pgbackrest_only_warns(desk: Desk, told: str) -> None:
    if told == "catalogue":
        desk.platform.damaged = True
    else:
        desk.platform.log.damaged.append("invalid page checksum found in file /data/base/1/2 at page 3")
    with pytest.raises(Failed, match="damaged pages") as caught:
        desk.run("full")
    assert "pg_amcheck" in caught.value.hint


def test_one_at_a_time(desk: Desk) -> None:
    desk.platform.busy = True
    with pytest.raises(Refused, match="anna@host"):
        desk.run("full")
    assert desk.platform.backups == [] and desk.journal.history() == []


def test_another_run_may_have_made_it_meanwhile(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = desk.platform.alone

    @contextmanager
    def late(primary: str) -> Iterator[None]:
        with taking(primary):
            now = datetime.now(UTC)
            for repo in (1, 2):
                desk.platform.backups.append(made(f"2026113{repo}-000000F", repo, started=now, stopped=now))
            yield

    monkeypatch.setattr(desk.platform, "alone", late)
    (result,) = desk.run()
    assert result.result == "already"


def test_the_primary_is_only_taken_after_a_question(tmp_path: Path) -> None:
    platform = Platform(taken=Source("pg-1", "pg-1", ("pg-2: it is stopped",)))
    desk = Desk(tmp_path, platform, yes=False)
    with pytest.raises(Refused, match="not confirmed"):
        desk.run("full")
    assert platform.calls == []
    assert "pg-2: it is stopped" in desk.printed and "has to carry the load" in desk.printed
    Desk(tmp_path, platform).run("full")
    assert len(platform.backups) == 1


def test_a_run_that_was_killed_is_closed_by_the_next_one(desk: Desk) -> None:
    desk.journal.begin(KIND, {}, {"repo": 1, "type": "full"})
    desk.run("full")
    newest, killed = desk.journal.history(kind=KIND)
    assert (newest.result, killed.result) == ("done", "failed")
    assert "was interrupted" in desk.printed


def test_a_type_that_fails_again_and_again_gives_way(desk: Desk) -> None:
    desk.platform.backups = [
        made("20261101-000000F", started=datetime.now(UTC) - timedelta(days=20)),
        made("20261130-000000F", 2, started=datetime.now(UTC) - timedelta(seconds=1)),
    ]
    desk.platform.error = Failed("it cannot be")
    kinds = []
    for _ in range(4):
        kinds.append(desk.run(dry_run=True)[0].type)
        with pytest.raises(Failed):
            desk.run()
    assert kinds == ["full", "full", "full", "diff"]


# Where a backup is taken from


def test_a_replica_whose_readers_mind_least_is_taken() -> None:
    assert choose(cluster_state(), MEMBERS, LAG) == Source("pg-3", "pg-1")


def test_one_that_does_not_stream_or_is_behind_is_passed_over() -> None:
    cluster = cluster_state()
    changed = {"pg-3": member_state("pg-3", state="starting"), "pg-2": member_state("pg-2", lag=LAG + 1)}
    found = choose(
        replace(cluster, members=tuple(changed.get(m.name, m) for m in cluster.members)), MEMBERS, LAG
    )
    assert found == Source("pg-4", "pg-1", ("pg-2: it is 16777217 bytes behind", "pg-3: it is starting"))


def test_without_a_fit_replica_it_is_the_primary() -> None:
    cluster = cluster_state()
    alone = replace(cluster, members=tuple(m for m in cluster.members if m.is_leader))
    found = choose(alone, MEMBERS, LAG)
    assert (found.node, found.standby) == ("pg-1", False)
    assert found.passed_over == tuple(f"pg-{n}: its agent does not answer" for n in (2, 3, 4))


def test_a_node_can_be_asked_for() -> None:
    assert choose(cluster_state(), MEMBERS, LAG, "pg-4").node == "pg-4"
    assert not choose(cluster_state(), MEMBERS, LAG, "pg-1").standby
    with pytest.raises(Refused, match="no PostgreSQL node"):
        choose(cluster_state(), MEMBERS, LAG, "pg-9")
    stopped = replace(
        cluster_state(), members=(cluster_state().members[0], member_state("pg-2", state="stopped"))
    )
    with pytest.raises(Refused, match="it is stopped"):
        choose(stopped, MEMBERS, LAG, "pg-2")


def test_without_a_primary_there_is_no_backup() -> None:
    with pytest.raises(Unreachable, match="no primary"):
        choose(cluster_state(""), MEMBERS, LAG)


def test_every_kind_of_read_traffic_has_its_place() -> None:
    assert {member.replica_role for member in MEMBERS} == set(source.ORDER)


# Progress, and what is shown


def test_progress_is_told_now_and_then_with_the_rate_since_the_first_file() -> None:
    moments = iter([100.0, 104.0, 110.0])
    said: list[str] = []
    progress = Progress(said.append, lambda: next(moments))
    for copied in (Copied(0, 0.0), Copied(50 << 20, 25.0), Copied(100 << 20, 50.0)):
        progress(copied)
    assert said == ["50 % copied, 100 MB at 10.0 MB/s, about 10 s left"]


def test_the_listing_and_one_backup() -> None:
    full = made("20261122-000000F", annotations={"tier": "weekly", "source": "pg-3"})
    incr = made("20261122-000000F_20261122-060000I", kind="incr", prior=full.label, damaged=True)
    platform = Platform(backups=[full, incr], troubles={2: "HostConnectError"})
    listing = view.listing(platform.catalogue())
    assert [(r.number, r.backups, r.trouble) for r in listing.repositories] == [
        (1, 2, ""),
        (2, 0, "HostConnectError"),
    ]
    out = io.StringIO()
    view.show_listing(Printer(Format.table, stdout=out), listing)
    assert "damaged pages" in out.getvalue() and "not verified" in out.getvalue()
    detail = view.detail(platform.catalogue(), 1, full.label)
    assert detail.needed_by == (incr.label,)
    assert view.detail(platform.catalogue(), 1, "latest").backup.label in (full.label, incr.label)
    view.show_detail(Printer(Format.table, stdout=out), detail)
    assert "it can be restored to from then on" in out.getvalue()
    with pytest.raises(Unreachable):
        view.listing(platform.catalogue(), 2)
    with pytest.raises(Failed, match="no backup yet"):
        view.detail(Platform().catalogue(), 1, "latest")
