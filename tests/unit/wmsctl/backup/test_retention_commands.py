"""`wmsctl backup plan|expire|verify` over a repository in memory: what is said, what is removed, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import replace

from tests.support import builders
from tests.unit.wmsctl.backup.repository import Done, Door, Pgbackrest
from tests.unit.wmsctl.backup.worlds import Chain
from wmsctl import inventory as contract
from wmsctl.audit import Audit
from wmsctl.backup import retention_command
from wmsctl.backup.engine import LOCKED
from wmsctl.errors import Code, Failed, Refused, Unreachable, Usage, WmsctlError
from wmsctl.invocation import Invocation, Options
from wmsctl.journal import Journal
from wmsctl.output import Format

SECTION = contract.Backup(
    stanza="wms",
    process="pgbackrest",
    program="/usr/bin/pgbackrest",
    config="pgbackrest.conf",
    archive_config="archive.conf",
    long_term_config="long-term.conf",
    primary="primary",
    port=8432,
    repositories=(
        contract.Repository(number=1, bucket="b"),
        contract.Repository(number=2, bucket="l", long_term=True),
    ),
    schedule=contract.BackupSchedule(
        daily="00:00", full_day="sunday", incremental=("06:00", "12:00", "18:00")
    ),
    retention=contract.Retention(daily_days=7, weekly_weeks=4, monthly_months=12, archive_years=7),
    wal_wait_s=60,
    newest_age_s=28800,
)


class Console:
    """Runs the commands as wmsctl would, and keeps what they printed."""

    def __init__(self, repository: Pgbackrest, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.repository, self.state, self.capsys = repository, state, capsys
        self.door = Door(repository)
        self.inventory = builders.inventory(backup=SECTION)
        self.app = typer.Typer()
        retention_command.register(self.app, self.door)

    def run(self, line: str, form: Format = Format.json) -> Any:
        """The document printed (text with another form). Raises what the command raises."""
        invocation = Invocation(Options(output=form, quiet=True), f"wmsctl backup {line}")
        invocation.__dict__["inventory"] = self.inventory
        invocation.__dict__["journal"] = Journal(self.state)
        invocation.__dict__["audit"] = Audit(self.state / "audit.jsonl", "test")
        command = typer.main.get_command(self.app)
        try:
            command.main(args=line.split(), prog_name="backup", standalone_mode=False, obj=invocation)
        finally:
            self.printed = self.capsys.readouterr().out
        return json.loads(self.printed) if form is Format.json else self.printed

    def refused(self, line: str, kind: type[WmsctlError]) -> WmsctlError:
        """The error that the command ends with."""
        with pytest.raises(kind) as found:
            self.run(line)
        return found.value

    def operations(self) -> list[tuple[str, str]]:
        return [(o.kind, o.result) for o in Journal(self.state).history()]


def weeks(count: int) -> Chain:
    """The schedule of row R5 up to now."""
    chain = Chain()
    now = datetime.now(UTC) - timedelta(minutes=30)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight - timedelta(days=(midnight.weekday() + 1) % 7 + 7 * count)
    at = start
    while at <= now:
        chain.take("incr" if at.hour else "full" if at.weekday() == 6 else "diff", at)
        at += timedelta(hours=6)
    chain.take("full", start + timedelta(hours=1), repo=2)
    return chain


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    repository = Pgbackrest(weeks(2))
    made = Console(repository, tmp_path / "state", capsys)
    made.run("verify")
    repository.calls.clear()
    made.door.held.clear()
    return made


def test_verify_remembers_in_the_repository_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Pgbackrest(weeks(1))
    console = Console(repository, tmp_path, capsys)
    assert {b["proven"] for b in console.run("plan")["now"]["backups"]} == {None}
    found = console.run("verify")
    assert found["schema"] == "wmsctl.backup.verify/v1" and found["whole"]
    assert found["remembered"] == len(repository.backups) == len(found["backups"])
    assert all(b["state"] == "whole" and len(b["manifest_sha256"]) == 64 for b in found["backups"])
    assert None not in {b["proven"] for b in console.run("plan")["now"]["backups"]}
    assert console.door.held == ["verify"]


def test_verify_of_one_repository_and_without_remembering(console: Console) -> None:
    found = console.run("verify --repo 2 --do-not-remember")
    assert [b["repo"] for b in found["backups"]] == [2] and found["remembered"] == 0
    assert not [call for call in console.repository.calls if call[0] == "annotate"]
    assert "no repo3" in console.refused("verify --repo 3", Usage).message


def test_a_damaged_file_is_named_remembered_and_ends_with_1(console: Console) -> None:
    full = console.repository.backups[-20]
    console.repository.damaged[full.key] = "pg_data/base/1/1249.zst"
    error = console.refused("verify", Failed)
    assert error.code == Code.FAILED
    assert f"{full.name} is damaged: 1 of 10 files" in error.message and "1249.zst" in error.message
    assert not json.loads(console.printed)["whole"]
    state = {b["label"]: b for b in console.run("plan")["now"]["backups"]}
    assert not state[full.label]["sound"] and "1249" in state[full.label]["bad"]


def test_a_missing_segment_behind_the_window_is_a_gap_and_one_before_it_is_expiry(console: Console) -> None:
    newest = int(console.repository.backups[-2].wal_start, 16) & 0xFFFF
    console.repository.missing[1] = {newest + 2}
    error = console.refused("verify --repo 1", Failed)
    assert f"WAL segment 0000000100000000000000{newest + 2:02X} is missing" in error.message
    assert "written between" in error.message
    console.repository.missing[1].clear()
    assert console.run("expire --yes")["removed_wal_segments"]
    assert console.run("verify --repo 1")["whole"]


def test_a_repository_that_cannot_be_read_ends_with_4_and_the_other_is_verified(console: Console) -> None:
    console.repository.troubles[2] = "[HostConnectError] unable to connect to 'store'"
    error = console.refused("verify", Unreachable)
    assert error.code == Code.UNREACHABLE and "repo2: [HostConnectError]" in error.message
    assert {b["repo"] for b in json.loads(console.printed)["backups"]} == {1}


def test_expire_says_what_it_would_do_and_does_nothing(console: Console) -> None:
    found = console.run("expire --dry-run")
    assert found["schema"] == "wmsctl.backup.expire/v1" and found["dry_run"] and found["removed"] == []
    assert found["expire"] and found["wal_segments"][0]["repo"] == 1
    assert (
        not [call for call in console.repository.calls if call[0] == "expire"] and console.operations() == []
    )
    text = console.run("expire --dry-run", Format.table)
    assert "backups go, in this order:" in text and "This can no longer be restored to then:" in text


def test_expire_removes_what_was_planned_and_nothing_else(console: Console) -> None:
    planned = console.run("expire --dry-run")
    before = {b.key for b in console.repository.backups}
    done = console.run("expire --yes")
    gone = before - {b.key for b in console.repository.backups}
    assert gone == {(b["repo"], b["label"]) for b in planned["expire"]}
    assert done["removed"] == planned["expire"]
    assert done["removed_wal_segments"] == planned["wal_segments"] and done["warnings"] == []
    assert console.operations() == [("backup expire", "done")]
    assert console.door.held == ["expire"]
    line = json.loads((console.state / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["action"], line["result"]) == ("backup expire", "done")
    again = console.run("expire --yes")
    assert again["removed"] == [] and again["expire"] == [] and len(console.operations()) == 1
    assert console.run("verify")["whole"]


def test_expire_asks_and_without_an_answer_removes_nothing(console: Console) -> None:
    assert "--yes" in console.refused("expire", Refused).hint
    assert not [call for call in console.repository.calls if call[0] == "expire"]


def test_expire_refuses_while_nothing_is_proven(console: Console) -> None:
    console.repository.annotations.clear()
    error = console.refused("expire --yes", Refused)
    assert error.code == Code.REFUSED and "left without a backup that was proven" in error.message
    assert not [call for call in console.repository.calls if call[0] == "expire"]


def test_expire_refuses_what_breaks_a_chain(console: Console) -> None:
    full = [b for b in console.repository.backups if b.type == "full" and b.repo == 1][-1]
    error = console.refused(f"expire --yes --set repo1:{full.label}", Refused)
    assert "is needed by" in error.message
    assert "names no backup" in console.refused("expire --set nonsense", Usage).message


def test_expire_stops_when_the_repository_changes_after_it_was_planned(console: Console) -> None:
    label = console.run("expire --dry-run")["expire"][0]["label"]
    looks = 0

    def meddle(call: list[str]) -> None:
        nonlocal looks
        looks += call[0] == "info"
        if looks == 2:
            held = console.repository.chain.held
            console.repository.chain.held = [h for h in held if h.backup.label != label]

    console.repository.before = meddle
    error = console.refused("expire --yes", Refused)
    assert "have changed since this was planned" in error.message and label in error.message
    assert not [call for call in console.repository.calls if call[0] == "expire"]


def test_expire_stops_when_more_went_than_was_to_go(console: Console) -> None:
    planned = console.run("expire --dry-run")["expire"]
    bystander = console.repository.backups[-2]

    def meddle(call: list[str]) -> None:
        if call[0] == "expire":
            held = console.repository.chain.held
            console.repository.chain.held = [h for h in held if h.backup.key != bystander.key]

    console.repository.before = meddle
    error = console.refused("expire --yes", Failed)
    assert f"went {bystander.label}" in error.message and "nothing more is removed" in error.message
    assert len([call for call in console.repository.calls if call[0] == "expire"]) == 1 < len(planned)
    assert console.operations() == [("backup expire", "failed")]


def test_expire_tells_of_wal_that_went_beside_the_plan(console: Console) -> None:
    newest = int(console.repository.backups[-2].wal_start, 16) & 0xFFFF

    def meddle(call: list[str]) -> None:
        if any("retention-archive=" in word for word in call):
            console.repository.missing[1].add(newest)

    console.repository.before = meddle
    error = console.refused("expire --yes", Failed)
    assert "lost WAL that was not to go" in error.message


def test_a_running_backup_is_a_refusal_with_the_reason(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Done(
        LOCKED,
        b"",
        "ERROR: [050]: unable to acquire lock on file '/x/wms.lock': Resource temporarily unavailable",
    )
    monkeypatch.setattr(Pgbackrest, "_expire", lambda *_: held)
    error = console.refused("expire --yes", Refused)
    assert "another backup or expiry is under way" in error.message


def test_plan_shows_every_backup_with_what_it_is_kept_for(console: Console) -> None:
    found = console.run("plan")
    assert found["schema"] == "wmsctl.backup.plan/v1" and found["simulated"] == []
    assert len(found["now"]["backups"]) == len(console.repository.backups)
    kinds = {reason["kind"] for b in found["now"]["backups"] for reason in b["reasons"]}
    assert {"daily", "weekly", "monthly", "archive", "point-in-time", "base", "newest", "needed"} == kinds
    text = console.run("plan", Format.table)
    assert "KEPT FOR" in text and "monthly of" in text and "proven" in text


def test_r5_plan_plays_years_from_nothing_without_asking_a_repository(console: Console) -> None:
    found = console.run("plan --days 800 --from 2027-01-01")
    assert console.repository.calls == [] and found["now"] is None
    last = found["simulated"][-1]
    assert last["day"] == "2029-03-10"
    assert last["tiers"] == {"daily": 7, "weekly": 4, "monthly": 12, "archive": 3}
    assert last["oldest"]["archive"] == "2027-01-01" and last["oldest"]["monthly"] == "2028-04-01"
    assert [row["day"] for row in found["simulated"][:3]] == ["2027-01-01", "2027-01-31", "2027-02-28"]
    text = console.run("plan --days 10 --from 2027-01-01", Format.table)
    assert len(text.splitlines()) == 11 and "POINT IN TIME SINCE" in text


def test_plan_goes_on_from_what_there_is(console: Console) -> None:
    found = console.run("plan --days 3")
    assert [row["day"] for row in found["simulated"]] == [
        str(datetime.now(UTC).date() + timedelta(days=n)) for n in range(3)
    ]
    assert found["simulated"][1]["made"] >= 4 and found["simulated"][2]["failed"] == 0


def test_a_wrong_day_and_a_platform_without_backups_are_mistakes_of_usage(console: Console) -> None:
    assert "is no day" in console.refused("plan --from tomorrow", Usage).message
    console.inventory = replace(builders.inventory(), backup=None)
    assert "has no backups" in console.refused("plan", Usage).message
