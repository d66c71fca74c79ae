"""A throw-away PostgreSQL that archives to two pgBackRest repositories on disk, all as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.support.postgres import BINARIES
from tests.support.sandbox import service_user
from wmsctl.deadline import Deadline

STANZA = "wms"
PASSPHRASES = {1: "passphrase-of-repo1", 2: "passphrase-of-repo2"}

_POSTGRES = """
listen_addresses = ''
unix_socket_directories = '{home}'
archive_mode = on
archive_command = 'pgbackrest --config={home}/pgbackrest.conf --stanza=wms archive-push %p'
wal_level = replica
max_wal_senders = 3
shared_buffers = '16MB'
full_page_writes = on
fsync = off
"""
_PGBACKREST = """[global]
repo1-path={home}/repo1
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={first}
repo1-retention-full=9999999
repo2-path={home}/repo2
repo2-cipher-type=aes-256-cbc
repo2-cipher-pass={second}
repo2-retention-full=9999999
lock-path={home}/lock
log-path={home}/log
spool-path={home}/spool
log-level-console=info
log-level-file=off
log-level-stderr=off
compress-type=zst
compress-level=1
start-fast=y
archive-timeout=20
[wms]
pg1-path={home}/data
pg1-socket-path={home}
pg1-user=postgres
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: bytes
    log: str


class Backups:
    """The server, its repositories and the command; files are below `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        user = service_user()
        self._account = pwd.getpwnam(user) if user else None
        self._server: subprocess.Popen[bytes] | None = None
        for name in ("repo1", "repo2", "lock", "log", "spool"):
            (home / name).mkdir()
        (home / "pgbackrest.conf").write_text(
            _PGBACKREST.format(home=home, first=PASSPHRASES[1], second=PASSPHRASES[2])
        )
        (home / "pgbackrest.conf").chmod(0o600)
        for path in (home, *home.iterdir()):
            if self._account:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self._run(
            BINARIES / "initdb", "-D", home / "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A",
            "trust", "-N", "-k",
        )  # fmt: skip
        with (home / "data/postgresql.conf").open("a") as file:
            file.write(_POSTGRES.format(home=home))
        self.start()
        self.command("stanza-create")

    def start(self) -> None:
        """Start the server and wait until it takes connections. Raises TimeoutError with its log."""
        log = self.home / "postgres.log"
        with log.open("ab") as file:
            self._server = subprocess.Popen(
                [BINARIES / "postgres", "-D", self.home / "data"], cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True, **self._identity(),
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._server.poll() is None:
            with contextlib.suppress(psycopg.Error):
                self.connect().close()
                return
            time.sleep(0.05)
        raise TimeoutError(f"PostgreSQL does not answer:\n{log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server without waiting for its clients."""
        if self._server is None:
            return
        self._server.send_signal(2)
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, 9)
            self._server.wait(10)
        self._server = None

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the superuser in autocommit."""
        return psycopg.connect(
            host=str(self.home), dbname="postgres", user="postgres", connect_timeout=5, autocommit=True
        )

    def switch(self, count: int = 1) -> list[str]:
        """Fill and archive `count` segments; their names."""
        names = []
        with self.connect() as connection:
            for _ in range(count):
                connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
                row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
                assert row is not None
                names.append(row[0])
        deadline = time.monotonic() + 20
        while not list(self.home.glob(f"repo2/archive/*/*/*/{names[-1]}-*")):
            assert time.monotonic() < deadline, f"{names[-1]} was not archived"
            time.sleep(0.05)
        return names

    def __call__(self, arguments: Sequence[str], deadline: Deadline) -> Done:
        """Run pgbackrest for wmsctl."""
        done = self.pgbackrest(*arguments, timeout=deadline.timeout(60, "pgbackrest"))
        return Done(done.returncode, done.stdout.encode(), done.stderr)

    def pgbackrest(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run pgbackrest, whatever it ends with."""
        return subprocess.run(
            ["pgbackrest", f"--config={self.home}/pgbackrest.conf", f"--stanza={STANZA}", *arguments],
            cwd=self.home, capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}, **self._identity(),
        )  # fmt: skip

    def command(self, *arguments: str) -> str:
        """Run pgbackrest; what it printed. Raises AssertionError when it fails."""
        done = self.pgbackrest(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def backup(self, kind: str, *, repo: int = 1, copy: bool = False) -> str:
        """Take a backup; its label."""
        out = self.command(
            "backup", f"--repo={repo}", f"--type={kind}", *(["--archive-copy"] if copy else [])
        )
        line = next(line for line in out.splitlines() if "new backup label" in line)
        return line.rsplit("= ", 1)[1].strip()

    def promote(self) -> None:
        """Make the server begin a new timeline, as a promotion does; its history file is archived."""
        self.stop()
        (self.home / "data/standby.signal").touch()
        if self._account:
            os.chown(self.home / "data/standby.signal", self._account.pw_uid, self._account.pw_gid)
        self.start()
        with self.connect() as connection:
            row = connection.execute("SELECT pg_promote(true, 20)").fetchone()
        assert row == (True,)

    def restore(self, label: str, *, repo: int = 1) -> Path:
        """Restore a backup into a folder of its own, without starting a server; the folder."""
        target = self.home / "restored"
        target.mkdir(mode=0o700, exist_ok=True)
        if self._account:
            os.chown(target, self._account.pw_uid, self._account.pw_gid)
        self.command(
            "restore", f"--repo={repo}", f"--set={label}", f"--pg1-path={target}", "--delta", "--force"
        )
        return target

    def info(self) -> str:
        return self.command("info", "--output=json", "--log-level-console=off")

    def files(self, repo: int, pattern: str) -> list[Path]:
        """Files of a repository, by glob."""
        return sorted(path for path in (self.home / f"repo{repo}").glob(pattern) if path.is_file())

    def _run(self, *command: Any) -> None:
        subprocess.run(
            command, cwd=self.home, check=True, timeout=60, stdout=subprocess.DEVNULL, **self._identity()
        )

    def _identity(self) -> Mapping[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}


@contextlib.contextmanager
def backups() -> Iterator[Backups]:
    """The server and its repositories in a folder of their own, removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="wmsb-"))
    made: Backups | None = None
    try:
        made = Backups(home)
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(home, ignore_errors=True)
