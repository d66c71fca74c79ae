"""pgBackRest as it is called, how its log is read, and what its errors mean. The log lines are of version 2.45."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import builders
from wmsctl import execution
from wmsctl.clients.pgbackrest import BackupLog, Copied, PgBackRest, meaning
from wmsctl.deadline import Deadline
from wmsctl.errors import Code, Failed, Refused, Unknown, Unreachable, Usage, WmsctlError
from wmsctl.inventory import LocalHosts

LOG = """\
INFO: backup command begin 2.45: --annotation=tier=weekly --archive-timeout=60
INFO: execute non-exclusive backup start: backup begins after the requested immediate checkpoint completes
DETAIL: store zero-length file /data/base/1/13394
DETAIL: backup file /data/base/16391/1247 (bundle 2/2554384, 120KB, 49.87%) checksum 7d9e436644e8
DETAIL: backup file /data/base/16391/1249 (1.5GB, 100.00%) checksum 9c6671806c84
INFO: new backup label = 20261124-141306F
"""


class Nodes:
    """A shell whose nodes are folders, with a pgBackRest that is a script of the test."""

    def __init__(self, folder: Path) -> None:
        self.home, self.commands = folder, folder / "commands"
        self.program = folder / "program"
        (folder / "pgbackrest").mkdir()
        self.say("exit 0")

    def say(self, script: str) -> None:
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {self.commands}\n{script}\n')
        self.program.chmod(0o755)

    def available(self, node: str) -> bool:
        return True

    def folder(self, node: str, process: str) -> str:
        return str(self.home / process)

    def start(self, node: str, process: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=self.home / process, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def tool(self, node: str = "pg-3") -> PgBackRest:
        return PgBackRest(self, builders.backup_settings(program=str(self.program)), node)

    def called(self) -> list[list[str]]:
        return [line.split() for line in self.commands.read_text().splitlines()]


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def soon() -> Deadline:
    return Deadline.after(10)


def backup(nodes: Nodes, repo: int = 1, primary: str = "pg-1", told: list[Copied] | None = None) -> BackupLog:
    return nodes.tool().backup(
        repo,
        "full",
        primary=primary,
        annotations={"tier": "weekly"},
        told=(told if told is not None else []).append,
        deadline=soon(),
    )


def test_a_backup_of_a_replica_is_told_the_primary(nodes: Nodes) -> None:
    nodes.say(f"cat >&2 <<'END'\n{LOG}END")
    told: list[Copied] = []
    log = backup(nodes, told=told)
    (command,) = nodes.called()
    assert f"--config={nodes.home}/pgbackrest/archive.conf" in command
    assert f"--config-include-path={nodes.home}/pgbackrest/primary/pg-1" in command
    assert {"--backup-standby", "--type=full", "--annotation=tier=weekly", "--stanza=wms"} <= set(command)
    assert log.label == "20261124-141306F"
    assert told == [Copied(120 << 10, 49.87), Copied((120 << 10) + 3 * (1 << 29), 100.0)]


def test_a_backup_of_the_primary_needs_nobody_else(nodes: Nodes) -> None:
    nodes.say(f"cat >&2 <<'END'\n{LOG}END")
    backup(nodes, primary="pg-3")
    (command,) = nodes.called()
    assert "--no-backup-standby" in command
    assert not [word for word in command if "include" in word]


def test_a_long_term_backup_does_not_wait_for_wal_that_nobody_sends(nodes: Nodes) -> None:
    nodes.say(f"cat >&2 <<'END'\n{LOG}END")
    backup(nodes, repo=2)
    (command,) = nodes.called()
    assert f"--config={nodes.home}/pgbackrest/long-term.conf" in command
    assert "--no-archive-check" in command


def test_its_wal_is_fetched_from_the_first_repository_and_stored_in_the_second(nodes: Nodes) -> None:
    nodes.say('for last; do :; done; case "$*" in *archive-get*) touch "$last";; *) test -e "$last";; esac')
    names = ["00000001000000000000000A", "00000001000000000000000B"]
    nodes.tool().copy_wal(names, soon())
    calls = nodes.called()
    assert [next(word for word in call if word.startswith("archive-")) for call in calls] == [
        "archive-get",
        "archive-push",
    ] * 2
    assert "archive.conf" in calls[0][0] and "long-term.conf" in calls[1][0]
    assert list((nodes.home / "pgbackrest/wal").iterdir()) == []


def test_wal_that_is_not_there_is_named(nodes: Nodes) -> None:
    nodes.say("exit 1")  # archive-get: not found
    with pytest.raises(Failed, match="00000001000000000000000A"):
        nodes.tool().copy_wal(["00000001000000000000000A"], soon())


def test_damaged_pages_are_kept_apart_from_other_warnings() -> None:
    log = BackupLog()
    for line in (
        "WARN: invalid page checksum found in file /data/base/16391/16423 at page 3",
        "WARN: unable to check pg3: [HostConnectError] timeout",
        "ERROR: [049]: unable to load info file '/repo1/backup/wms/backup.info':",
        "       HostConnectError: unable to connect to '127.58.5.1:7070': [111] Connection refused",
    ):
        log.read(line)
    assert log.damaged == ["invalid page checksum found in file /data/base/16391/16423 at page 3"]
    assert log.warnings == ["unable to check pg3: [HostConnectError] timeout"]
    assert log.errors[0].endswith("Connection refused")


def test_the_lines_of_a_log_with_times_are_read_as_well() -> None:
    log = BackupLog()
    log.read("2026-11-24 14:13:10.814 P00   INFO: new backup label = 20261124-141306F")
    assert log.label == "20261124-141306F"


REFUSED = "HostConnectError: unable to connect to '127.58.5.1:7070': [111] Connection refused"
INFO = "unable to load info file '/repo1/backup/wms/backup.info' or '/repo1/backup/wms/backup.info.copy':"
ERRORS: list[tuple[str, int, str, type[WmsctlError], str, str]] = [
    (
        "store away",
        49,
        f"[049]: {INFO}\n{REFUSED}\nHINT: has a stanza-create been performed?",
        Unreachable,
        "does not",
        "status",
    ),
    (
        "wrong passphrase",
        29,
        f"[029]: {INFO}\nFormatError: key/value found outside of section at line 1: S^V",
        Failed,
        "passphrase of repo1 is wrong",
        "needs the one",
    ),
    (
        "wrong passphrase, other words",
        95,
        f"[095]: {INFO}\nCryptoError: cipher header invalid",
        Failed,
        "passphrase of repo1 is wrong",
        "needs the one",
    ),
    (
        "no stanza",
        55,
        f"[055]: {INFO}\nFileMissingError: unable to open missing file\nHINT: has a stanza-create been performed?",
        Failed,
        "repo1 has no stanza",
        "make up",
    ),
    (
        "locked",
        50,
        "[050]: unable to acquire lock on file '/x/wms-backup.lock'",
        Refused,
        "under way on pg-3",
        "wait",
    ),
    ("node killed", -9, "", Failed, "was ended before", "wmsctl node list"),
    ("told to stop", 63, "[063]: terminated on signal [SIGTERM]", Failed, "was ended before", "run it again"),
    (
        "store full",
        101,
        "[101]: HTTP request failed with 507 (Insufficient Storage)",
        Failed,
        "no space left for repo1",
        "expire",
    ),
    (
        "disk full",
        41,
        "[041]: unable to write '/x': [28] No space left on device",
        Failed,
        "no space left",
        "expire",
    ),
    (
        "WAL behind",
        82,
        "[082]: WAL segment 000000010000000000000006 was not archived before the 60000ms timeout",
        Failed,
        "did not reach repo1 in time",
        "archiving",
    ),
    (
        "failed over",
        56,
        "[056]: unable to find primary cluster - cannot proceed\nHINT: are all available clusters in recovery?",
        Failed,
        "leadership|no such server",
        "wmsctl status",
    ),
    (
        "another cluster",
        51,
        "[051]: PostgreSQL version 15, system-id 77 do not match stanza version 15, system-id 78",
        Failed,
        "belongs to another cluster",
        "never overwrite",
    ),
    (
        "key refused",
        101,
        "[101]: HTTP request failed with 403 (Forbidden)",
        Failed,
        "refuses the key",
        "make up",
    ),
    (
        "certificate",
        95,
        "[095]: unable to verify certificate presented by '127.58.5.1:7070': [20] unable to get local issuer",
        Failed,
        "not of the platform's authority",
        "make up",
    ),
    ("unknown", 99, "[099]: something else", Failed, "something else", ""),
    ("silent", 7, "", Failed, "ended with 7", ""),
]


@pytest.mark.parametrize(
    ("code", "log", "kind", "message", "hint"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_an_error_says_what_is_wrong_and_what_to_do(
    code: int, log: str, kind: type[WmsctlError], message: str, hint: str
) -> None:
    found = meaning(code, log, "repo1", "pg-3")
    assert type(found) is kind
    assert any(part in found.message for part in message.split("|")), found.message
    assert hint in found.hint
    assert "[0" not in found.message


def test_a_failed_backup_raises_its_meaning(nodes: Nodes) -> None:
    nodes.say('echo "ERROR: [056]: unable to find primary cluster - cannot proceed" >&2; exit 56')
    with pytest.raises(Failed, match="no such server"):
        backup(nodes)


def test_a_backup_without_a_label_is_none(nodes: Nodes) -> None:
    nodes.say("exit 0")
    with pytest.raises(Failed):
        backup(nodes)


def test_the_deadline_stops_it_and_its_outcome_is_unknown(nodes: Nodes) -> None:
    nodes.say("exec sleep 60")
    started = time.monotonic()
    with pytest.raises(Unknown, match="did not end within"):
        nodes.tool().backup(
            1, "incr", primary="pg-1", annotations={}, told=lambda _: None, deadline=Deadline.after(0.3)
        )
    assert time.monotonic() - started < 10


def test_an_interruption_ends_it(nodes: Nodes, tmp_path: Path) -> None:
    nodes.say(f"echo $$ > {tmp_path}/pid; cat >&2 <<'END'\n{LOG}END\nexec sleep 60")

    def interrupt(_: Copied) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nodes.tool().backup(1, "incr", primary="pg-1", annotations={}, told=interrupt, deadline=soon())
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# The local target's shell


@pytest.fixture
def shell(tmp_path: Path) -> execution.LocalShell:
    (tmp_path / "nodes/pg-1/pgbackrest").mkdir(parents=True)
    hosts = LocalHosts(home=str(tmp_path), supervisor=str(tmp_path / "supervisor.sock"))
    return execution.LocalShell(builders.inventory(hosts=hosts))


def test_a_command_belongs_to_its_node(shell: execution.LocalShell, tmp_path: Path) -> None:
    child = shell.start("pg-1", "pgbackrest", ["/bin/sh", "-c", "pwd; env | sort"])
    out, _ = child.communicate(timeout=10)
    folder = str(tmp_path / "nodes/pg-1/pgbackrest")
    lines = out.decode().splitlines()
    assert lines[0] == folder
    assert {"WMS_NODE=pg-1", "WMS_PROCESS=pg-1/pgbackrest", f"HOME={folder}", "TZ=UTC"} <= set(lines)


def test_nothing_runs_on_a_node_that_is_off(shell: execution.LocalShell, tmp_path: Path) -> None:
    (tmp_path / "nodes/pg-1/power-off").write_text("{}")
    assert not shell.available("pg-1")
    with pytest.raises(Unreachable, match="pg-1 is off") as caught:
        shell.start("pg-1", "pgbackrest", ["/bin/true"])
    assert caught.value.code is Code.UNREACHABLE


def test_a_process_that_a_node_does_not_have_is_named(shell: execution.LocalShell) -> None:
    with pytest.raises(Usage, match="no process postgres"):
        shell.folder("pg-1", "postgres")


def test_it_dies_with_whoever_started_it(tmp_path: Path) -> None:
    """SIGKILL of wmsctl leaves no backup running that nobody waits for."""
    (tmp_path / "nodes/pg-1/pgbackrest").mkdir(parents=True)
    script = f"""
import time
from wmsctl import execution
from wmsctl.inventory import LocalHosts
from tests.support import builders
hosts = LocalHosts(home={str(tmp_path)!r}, supervisor="/nowhere")
child = execution.LocalShell(builders.inventory(hosts=hosts)).start("pg-1", "pgbackrest", ["/bin/sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""
    import sys

    root = Path(__file__).resolve().parents[4]
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(10)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
