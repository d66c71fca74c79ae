"""Archiving: what PostgreSQL calls, what a stop may wait for, and which repository gets what."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from stacks import spec
from stacks.engines import patroni, pgbackrest
from stacks.local import contents
from stacks.render import Process, secrets_in
from tests.stacks.golden import SITE

PLATFORM = spec.load("local")


def process(node: str) -> Process:
    return next(each for each in pgbackrest.processes(PLATFORM, SITE) if each.node == node)


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Section → option → its values, of one of pgBackRest's files."""
    found: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            current.setdefault(name, []).append(value)
    return found


class Push:
    """The archive_command in a data folder of its own, with a pgBackRest that exits as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.called = folder, folder / "called"
        self.data = folder / "data"
        self.data.mkdir()
        program = folder / "pgbackrest"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.called}\nexit ${{EXIT:-0}}\n')
        program.chmod(0o755)
        text = process("pg-1").files[pgbackrest.PUSH]
        assert pgbackrest.PROGRAM in text
        self.script = folder / "archive-push"
        self.script.write_text(text.replace(pgbackrest.PROGRAM, str(program)))

    def postmaster(self, state: str, age_s: float = 0) -> None:
        """PostgreSQL's own file: eight lines, of which the last is the state, padded."""
        path = self.data / "postmaster.pid"
        path.write_text(f"4711\n{self.data}\n1795527529\n5432\n/tmp\n127.0.0.1\n  1234  5\n{state:8}\n")
        os.utime(path, (time.time() - age_s,) * 2)

    def run(self, code: int = 0) -> int:
        done = subprocess.run(
            ["/bin/sh", str(self.script), "pg_wal/000000010000000000000001"],
            cwd=self.data,
            env={"PATH": os.environ["PATH"], "EXIT": str(code)},
            timeout=10,
        )
        return done.returncode


@pytest.fixture
def push(tmp_path: Path) -> Push:
    return Push(tmp_path)


@pytest.mark.parametrize("code", [0, 82, 103])
def test_a_running_server_learns_how_the_push_ended(push: Push, code: int) -> None:
    push.postmaster("ready")
    assert push.run(code) == code
    assert push.called.read_text().split()[-1] == "pg_wal/000000010000000000000001"


def test_a_stopping_server_still_archives(push: Push) -> None:
    push.postmaster("stopping")
    assert push.run() == 0
    assert push.called.exists()


def test_a_stop_does_not_wait_for_a_store_that_is_away(push: Push) -> None:
    """126 ends PostgreSQL's archiver; any other code makes it try twice more (pgarch.c)."""
    push.postmaster("stopping")
    assert push.run(82) == 126


def test_a_stop_does_not_wait_for_a_long_queue(push: Push) -> None:
    push.postmaster("stopping", age_s=PLATFORM.backup.push_wait_s + 2)
    assert push.run() == 126
    assert not push.called.exists()


def test_without_a_postmaster_it_pushes(push: Push) -> None:
    """Patroni archives what a killed server left before it rewinds it."""
    assert push.run() == 0
    assert push.run(82) == 82


@pytest.mark.parametrize("node", ["pg-1", "pg-2", "pg-3", "pg-4"])
def test_a_node_is_the_first_of_its_own_list_and_reaches_the_others_by_tls(node: str) -> None:
    found = sections(process(node).files[pgbackrest.CONFIG])[PLATFORM.backup.stanza]
    assert found["pg1-path"] == [f"{SITE.folder(node, 'patroni')}/data"]
    assert "pg1-host" not in found
    others = sorted({"pg-1", "pg-2", "pg-3", "pg-4"} - {node})
    for number, other in enumerate(others, 2):
        pg = f"pg{number}"
        assert found[f"{pg}-path"] == [f"{SITE.folder(other, 'patroni')}/data"]
        assert (found[f"{pg}-host-type"], found[f"{pg}-host-ca-file"]) == (["tls"], [SITE.ca])
    assert sections(process(node).files[pgbackrest.CONFIG])["global"]["tls-server-auth"] == [
        f"{other}={PLATFORM.backup.stanza}" for other in others
    ]


def test_wal_goes_to_the_first_repository_only() -> None:
    files = process("pg-1").files
    repositories = {
        name: {key[:5] for key in sections(files[name])["global"] if key.startswith("repo")}
        for name in (pgbackrest.CONFIG, pgbackrest.ARCHIVE_CONFIG, pgbackrest.LONG_TERM_CONFIG)
    }
    assert repositories == {
        pgbackrest.CONFIG: {"repo1", "repo2"},
        pgbackrest.ARCHIVE_CONFIG: {"repo1"},
        pgbackrest.LONG_TERM_CONFIG: {"repo2"},
    }
    assert f"/{pgbackrest.ARCHIVE_CONFIG} " in files[pgbackrest.PUSH]


def test_each_repository_is_encrypted_with_its_own_passphrase_and_verified() -> None:
    found = sections(process("pg-1").files[pgbackrest.CONFIG])["global"]
    for number in ("1", "2"):
        assert found[f"repo{number}-cipher-type"] == ["aes-256-cbc"]
        assert found[f"repo{number}-storage-verify-tls"] == ["y"]
        assert found[f"repo{number}-storage-ca-file"] == [SITE.ca]
        assert secrets_in(found[f"repo{number}-cipher-pass"][0]) == {f"backup/repo{number}"}
    assert found["repo1-s3-bucket"] != found["repo2-s3-bucket"]


def test_nothing_makes_pgbackrest_drop_wal_or_expire_by_itself() -> None:
    for name, text in process("pg-1").files.items():
        options = {key for values in sections(text).values() for key in values}
        assert "archive-push-queue-max" not in options, name
    found = sections(process("pg-1").files[pgbackrest.CONFIG])["global"]
    assert found["expire-auto"] == ["n"]


def test_patroni_archives_and_reads_the_archive_only_as_a_fallback() -> None:
    assert patroni.dynamic(PLATFORM)["postgresql"]["parameters"]["archive_mode"] == "on"
    for node in patroni.processes(PLATFORM, SITE):
        given = yaml.safe_load(node.files["patroni.yml"])["postgresql"]["parameters"]
        folder = SITE.folder(node.node, pgbackrest.NAME)
        assert given["archive_command"] == f"/bin/sh {folder}/{pgbackrest.PUSH} %p"
        assert given["restore_command"] == f'exec /bin/sh {folder}/{pgbackrest.GET} %f "%p"'


class Get:
    """The restore_command, with a pgBackRest that exits as it is told and no pause after a failure."""

    def __init__(self, folder: Path) -> None:
        self.called, self.fallback = folder / "called", folder / pgbackrest.FALLBACK
        program = folder / "pgbackrest"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.called}\nexit ${{EXIT:-0}}\n')
        program.chmod(0o755)
        text = process("pg-1").files[pgbackrest.GET]
        text = text.replace(pgbackrest.PROGRAM, str(program)).replace("sleep 1", ":")
        self.script = folder / "archive-get"
        self.script.write_text(
            text.replace(f"{SITE.folder('pg-1', 'pgbackrest')}/{pgbackrest.FALLBACK}", str(self.fallback))
        )

    def run(self, code: int = 0, caller: str = "") -> int:
        command = ["/bin/sh", str(self.script), "000000010000000000000007", "pg_wal/RECOVERYXLOG"]
        if caller:  # a process with that name, which stays there
            command = ["/bin/sh", "-c", f'printf {caller} > /proc/$$/comm; "$@"; exit $?', "sh", *command]
        environment = {"PATH": os.environ["PATH"], "EXIT": str(code)}
        return subprocess.run(command, env=environment, timeout=10).returncode


def test_a_replica_that_streams_is_told_that_the_archive_has_nothing(tmp_path: Path) -> None:
    get = Get(tmp_path)
    assert get.run() == 1
    assert not get.called.exists()


def test_a_replica_that_cannot_stream_reads_the_archive(tmp_path: Path) -> None:
    get = Get(tmp_path)
    get.fallback.touch()
    assert get.run() == 0
    assert get.called.read_text().split()[-2:] == ["000000010000000000000007", "pg_wal/RECOVERYXLOG"]
    assert get.run(1) == 1


def test_pg_rewind_reads_the_archive(tmp_path: Path) -> None:
    get = Get(tmp_path)
    assert get.run(caller="pg_rewind") == 0
    assert get.run(caller="postgres") == 1


def test_only_where_the_server_listens_restarts_it() -> None:
    server = process("pg-1")
    assert server.restart_only and server.reload_signal == "HUP"
    text = server.files[pgbackrest.CONFIG]
    part = server.restart_only(pgbackrest.CONFIG, text)
    assert part.splitlines() == [
        f"tls-server-address={PLATFORM.network}.2.1",
        f"tls-server-port={PLATFORM.backup.port}",
    ]
    assert server.restart_only(pgbackrest.PUSH, "anything") == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"backup": {"schedule": {"daily": "24:00"}}}, "backup.schedule.daily: found '24:00'"),
        ({"backup": {"schedule": {"daily": "00:00\n"}}}, "backup.schedule.daily: found"),
        ({"backup": {"schedule": {"full_day": "Sunday"}}}, "allowed: monday, tuesday"),
        ({"backup": {"port": 8008}}, "backup.port: found 8008"),
        ({"backup": {"long_term_bucket": "wms-backup"}}, "backup.long_term_bucket: found 'wms-backup'"),
        (
            {"backup": {"schedule": {"incremental": ["06:00", "00:00"]}}},
            "backup.schedule.incremental: found '00:00'",
        ),
        ({"backup": {"switch_wal_s": 301}}, "backup.switch_wal_s: found 301"),
        ({"backup": {"retention": {"daily_days": 0}}}, "backup.retention.daily_days: found 0"),
        ({"postgres": {"settings": {"archive_mode": "off"}}}, "postgres.settings.archive_mode: found 'off'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(spec.SpecError) as caught:
        spec.load("local", overrides)
    assert message in str(caught.value)


def test_a_backup_of_a_replica_adds_the_primary_and_no_other_node() -> None:
    """pgBackRest waits for each node that it is told of, also for one that is away."""
    files = process("pg-3").files
    for name in (pgbackrest.ARCHIVE_CONFIG, pgbackrest.LONG_TERM_CONFIG):
        alone = sections(files[name])[PLATFORM.backup.stanza]
        assert {key.partition("-")[0] for key in alone} == {"pg1"}
    for other in ("pg-1", "pg-2", "pg-4"):
        added = sections(files[f"{pgbackrest.PRIMARY}/{other}/member.conf"])[PLATFORM.backup.stanza]
        assert added["pg" + next(iter(added))[2] + "-path"] == [f"{SITE.folder(other, 'patroni')}/data"]
        assert len({key.partition("-")[0] for key in added}) == 1
    assert f"{pgbackrest.PRIMARY}/pg-3/member.conf" not in files


@pytest.mark.parametrize(
    ("codes", "code", "calls"),
    [([0], 0, 1), ([50, 50, 0], 0, 3), ([50, 32], 32, 2), ([32], 32, 1)],
)
def test_the_stanza_waits_for_a_lock_and_for_nothing_else(
    tmp_path: Path, codes: list[int], code: int, calls: int
) -> None:
    answers, called = tmp_path / "answers", tmp_path / "called"
    answers.write_text("".join(f"{each}\n" for each in codes))
    program = f'echo >> {called}; exit "$(sed -n "$(wc -l < {called})p" {answers})"'
    command = ["/bin/sh", "-c", contents.UNLOCKED, "sh", "/bin/sh", "-c", program]
    assert subprocess.run(command, timeout=20).returncode == code
    assert len(called.read_text()) == calls
