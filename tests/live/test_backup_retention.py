"""A real PostgreSQL and a real pgBackRest with two encrypted repositories: damage is found and named, what expires is
what was planned, a switch of the timeline is followed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.backups import PASSPHRASES, STANZA, Backups, backups
from tests.support.postgres import BINARIES
from wmsctl.backup import checks, expiry, retention, wal
from wmsctl.backup.checks import Verified
from wmsctl.backup.engine import Engine
from wmsctl.backup.observe import look
from wmsctl.backup.retention import Policy, Tier
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable
from wmsctl.journal import Journal
from wmsctl.steps import Steps

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]


def engine(server: Backups) -> Engine:
    return Engine(server, STANZA, Deadline.after(120))


def verified(server: Backups, *repos: int, since: str = "") -> Verified:
    """Verify, with unbroken WAL demanded of repo1 from the backup `since` on (by default its first)."""
    first = since or next(b.label for b in engine(server).catalogue().backups if b.repo == 1)
    return checks.verify(engine(server), repos or (1, 2), lambda _: {1: first}, lambda _: None)


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit in the middle of a file is another one during the body."""
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(whole)


@contextmanager
def gone(*paths: Path) -> Iterator[None]:
    """Files are missing during the body."""
    kept = {path: (path.read_bytes(), path.stat()) for path in paths}
    for path in paths:
        path.unlink()
    try:
        yield
    finally:
        import os

        for path, (content, stat) in kept.items():
            path.write_bytes(content)
            os.chown(path, stat.st_uid, stat.st_gid)
            os.utime(path, (stat.st_atime, stat.st_mtime))


@pytest.fixture(scope="module")
def server() -> Iterator[Backups]:
    """A chain of three backups in repo1, a self-contained one in repo2, and WAL behind them."""
    with backups() as made:
        made.backup("full")
        made.switch(2)
        made.backup("diff")
        made.switch(1)
        made.backup("incr")
        made.backup("full", repo=2, copy=True)
        made.switch(2)
        yield made


def test_a_whole_repository_is_whole_and_that_is_remembered_in_it(server: Backups) -> None:
    found = verified(server)
    assert found.troubles == () and found.unreadable == ()
    assert [f.state for f in found.backups] == ["whole"] * 4 and all(f.files > 900 for f in found.backups)
    now = datetime.now(UTC)
    assert checks.remember(engine(server), found.backups, now) == 4
    seen = look(engine(server))
    assert all(h.proven and now - h.proven < timedelta(seconds=2) for h in seen.held)
    assert all(h.reach is not None and h.bad == "" for h in seen.held)
    # What one host remembers every other one reads.
    remembered = json.loads(server.info())[0]["backup"][0]["annotation"]["verified"]
    assert remembered.startswith("whole 20") and f"sha256:{found.backups[0].sha256}" in remembered


def test_a_flipped_bit_in_a_backup_is_named_with_every_backup_that_needs_the_file(server: Backups) -> None:
    full, diff, incr = engine(server).catalogue().of(1)
    path = server.files(1, f"backup/{STANZA}/{full.label}/pg_data/base/*/1249.zst")[0]
    with flipped(path):
        found = verified(server, 1)
    assert len(found.troubles) == 3
    for backup, trouble in zip((full, diff, incr), found.troubles, strict=True):
        assert trouble.startswith(f"{backup.name} is damaged: 1 of ")
        assert f"invalid checksum: {full.label}/pg_data/base/" in trouble and "1249.zst" in trouble
    assert verified(server, 1).troubles == ()


def test_a_removed_segment_is_a_gap_by_name_and_time_although_pgbackrest_calls_all_valid(
    server: Backups,
) -> None:
    full, diff, _ = engine(server).catalogue().of(1)
    between = wal.Segment(1, wal.segment(full.wal_stop).number + 2).name()
    path = server.files(1, f"archive/{STANZA}/15-1/*/{between}-*")[0]
    with gone(path):
        said = server.command("verify", "--repo=1", "--output=text", "--verbose", "--log-level-console=off")
        assert "status: ok" in said
        found = verified(server, 1)
        beyond = verified(server, 1, since=diff.label)
    assert len(found.troubles) == 1
    assert f"WAL segment {between} is missing or damaged, written between 20" in found.troubles[0]
    # Of what was let go before the window no more is asked.
    assert beyond.troubles == ()


def test_a_backup_without_its_own_wal_cannot_be_restored_but_one_with_a_copy_can(server: Backups) -> None:
    incr = engine(server).catalogue().of(1)[-1]
    long_term = engine(server).catalogue().of(2)[0]
    mine = server.files(1, f"archive/{STANZA}/15-1/*/{incr.wal_start}-*")
    other = server.files(2, f"archive/{STANZA}/15-1/*/{long_term.wal_start}-*")
    assert mine and other
    with gone(*mine, *other):
        found = verified(server, 1, 2)
        seen = look(engine(server))
    state = {f.backup.key: f.state for f in found.backups}
    assert state[incr.key] == "damaged" and state[long_term.key] == "whole"
    assert f"cannot be made consistent: WAL segment {incr.wal_start} is missing" in found.troubles[0]
    assert [h.backup.key for h in seen.held if h.bad] == [incr.key]


def test_a_damaged_segment_is_a_gap_too(server: Backups) -> None:
    last = server.files(1, f"archive/{STANZA}/15-1/*/*.zst")[-2]
    with flipped(last):
        found = verified(server, 1)
    assert any(f"unreadable: 15-1/{last.parent.name}/{last.name}" in trouble for trouble in found.troubles)
    assert any(f"WAL segment {last.name[:24]} is missing or damaged" in trouble for trouble in found.troubles)


def test_a_truncated_manifest_is_found_while_its_copy_still_serves_and_when_it_does_not(
    server: Backups,
) -> None:
    diff = engine(server).catalogue().of(1)[1]
    main, copy = (
        server.home / f"repo1/backup/{STANZA}/{diff.label}/backup.manifest{end}" for end in ("", ".copy")
    )
    whole = main.read_bytes()
    try:
        main.write_bytes(whole[:300])
        # pgBackRest itself says nothing.
        assert "status: ok" in server.command("verify", "--repo=1", "--output=text", "--verbose")
        found = verified(server, 1)
        assert found.troubles == (f"{diff.name}: its manifest cannot be read; the copy of it can",)
        copy.write_bytes(whole[:300])
        found = verified(server, 1)
        assert (
            f"{diff.name} is damaged: neither its manifest nor the copy of it can be read" in found.troubles
        )
    finally:
        main.write_bytes(whole)
        copy.write_bytes(whole)


def test_a_wrong_passphrase_is_said_to_be_one_and_the_other_repository_is_verified(server: Backups) -> None:
    path = server.home / "pgbackrest.conf"
    whole = path.read_text()
    try:
        path.write_text(whole.replace(PASSPHRASES[1], "another"))
        found = checks.verify(engine(server), (1, 2), lambda _: {}, lambda _: None)
        assert len(found.unreadable) == 1 and "repo1: its passphrase is wrong" in found.unreadable[0]
        assert PASSPHRASES[1] not in found.unreadable[0]
        assert [f.state for f in found.backups] == ["whole"]
        path.write_text(whole.replace("passphrase-of", "another"))
        with pytest.raises(Unreachable, match="no repository of stanza wms can be read"):
            look(engine(server))
    finally:
        path.write_text(whole)


def test_an_expiry_while_a_backup_runs_is_refused(server: Backups) -> None:
    import fcntl
    import os

    label = engine(server).catalogue().of(1)[-1].label
    lock = server.home / f"lock/{STANZA}-backup.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Failed, match="Permission denied"):
            engine(server).expire(1, label)
        owner = server.home.stat()
        os.chown(lock, owner.st_uid, owner.st_gid)
        with pytest.raises(Refused, match="another backup or expiry is under way"):
            engine(server).expire(1, label)
    lock.unlink()


def test_a_chain_goes_on_over_a_promotion(server: Backups) -> None:
    """After a promotion WAL goes on, on timeline 2; the history file says from where."""
    before = engine(server).catalogue().of(1)[-1]
    server.promote()
    names = server.switch(2)
    assert names[-1].startswith("00000002")
    found = verified(server, 1)
    assert found.troubles == ()
    (archive,) = found.archives
    assert archive.timeline == 2 and archive.last == names[-1]
    chain = look(engine(server)).chains[before.key]
    assert chain.whole and chain.timelines == (1, 2) and chain.last == names[-1]
    with gone(*server.files(1, f"archive/{STANZA}/15-1/00000002.history")):
        lost = verified(server, 1)
    assert any("00000002.history is missing" in trouble for trouble in lost.troubles)


def test_r5_what_expires_is_what_was_planned_with_its_wal_and_nothing_else(
    server: Backups, tmp_path: Path
) -> None:
    """Of two chains in repo1 the older goes, played forward by 30 days; the window and the long-term one stay."""
    server.backup("full")
    server.switch(1)
    newest = server.backup("incr")
    server.switch(1)
    checks.remember(engine(server), verified(server).backups, datetime.now(UTC))
    seen = look(engine(server))
    policy = Policy(point_in_time_days=7, tiers=(Tier("monthly", "month", 12, (2,)),))
    planned = retention.plan(seen.held, policy, datetime.now(UTC) + timedelta(days=30))
    assert planned.refusals == () and [b.type for b in planned.expire] == ["incr", "diff", "full"]
    foretold = expiry.foretell(seen, planned)
    assert foretold[1, "15-1"]
    journal = Journal(tmp_path)
    record = journal.begin("backup expire", {})
    outcome = expiry.apply(engine(server), planned, Steps(record, lambda _: None))
    record.finish("done")
    assert [b.key for b in outcome.backups] == [b.key for b in planned.expire]
    assert outcome.segments[1] == len(foretold[1, "15-1"]) and outcome.warnings == []
    left = look(engine(server))
    assert {b.key for b in left.catalogue.backups} == {d.backup.key for d in planned.decisions if d.keep}
    assert left.chains[1, newest].whole
    # What is left can be restored, to its end.
    assert verified(server, since=newest).troubles == ()
    again = retention.plan(left.held, policy, datetime.now(UTC) + timedelta(days=30))
    assert again.expire == () and not any(expiry.foretell(left, again).values())
    assert (server.restore(newest) / "PG_VERSION").read_text() == "15\n"


def test_the_last_full_backup_does_not_go_whoever_asks(server: Backups) -> None:
    (full,) = [b for b in engine(server).catalogue().of(1) if b.type == "full"]
    with pytest.raises(Failed, match="cannot be expired until another full backup"):
        engine(server).expire(1, full.label)


def test_pgbackrest_is_the_version_whose_words_are_read() -> None:
    said = subprocess.run(
        ["pgbackrest", "version"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert said.strip() == "pgBackRest 2.45" and (BINARIES / "postgres").exists()
