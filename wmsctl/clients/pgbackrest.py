"""pgBackRest on one node: how it is called, how far it is, and what its errors mean.

Standard output is for answers, standard error for its log. No passphrase is ever an argument: they are in the node's
own files.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unknown, Unreachable, WmsctlError
from wmsctl.inventory import Backup

LOCKED, TERMINATED = 50, 63
"""Exit codes of pgBackRest: another one holds its lock; it was told to stop."""
STOP_S = 30.0
"""How long one that was told to stop may take before it is killed; it ends the backup in PostgreSQL."""

LINE = re.compile(r"(?:\S+ \S+ P\d\d +)?([A-Z]+): (.*)")
"""On standard error it leaves time and process out."""
COPIED = re.compile(r"\((?:bundle [^,]*, )?([0-9.]+)([KMGT]?)B, ([0-9.]+)%\)")
LABEL = re.compile(r"new backup label = (\S+)")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Shell(Protocol):
    """Where commands are run; `wmsctl.execution` has the local target's."""

    def available(self, node: str) -> bool: ...
    def folder(self, node: str, process: str) -> str: ...
    def start(self, node: str, process: str, command: Sequence[str]) -> subprocess.Popen[bytes]: ...


@dataclass(frozen=True)
class Ended:
    """A command that ran to its end."""

    code: int
    output: bytes
    log: str


@dataclass(frozen=True)
class Copied:
    """How far a backup is: bytes of the database so far, and percent of what it copies."""

    size: int
    percent: float


@dataclass
class BackupLog:
    """What a backup told of itself."""

    label: str = ""
    copied: int = 0
    damaged: list[str] = field(default_factory=list)
    """Its warnings about pages with a wrong checksum."""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def read(self, line: str) -> Copied | None:
        """Take in one line of its log; the progress if it tells any."""
        found = LINE.match(line)
        if found is None:  # the second line of something
            if line.startswith(" ") and self.errors:
                self.errors[-1] += "\n" + line.strip()
            return None
        level, text = found.groups()
        if level == "ERROR":
            self.errors.append(text)
        elif level == "WARN":
            (self.damaged if "invalid page checksum" in text else self.warnings).append(text)
        if label := LABEL.search(text):
            self.label = label[1]
        if level == "DETAIL" and (copied := COPIED.search(text)):
            number, unit, percent = copied.groups()
            self.copied += round(float(number) * UNITS[unit])
            return Copied(self.copied, float(percent))
        return None


class PgBackRest:
    """pgBackRest with the files of `node`."""

    def __init__(self, shell: Shell, settings: Backup, node: str) -> None:
        self._shell, self._settings, self.node = shell, settings, node
        self._folder = shell.folder(node, settings.process)

    def __call__(self, arguments: Sequence[str], deadline: Deadline) -> Ended:
        """Run one command with every repository configured. Raises Unknown when the deadline passes."""
        return self._run(self._command(self._settings.config, *arguments), deadline)

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
        """Back up this node's data, with the help of `primary` where that is another node.

        In the repository that WAL goes to it ends when all WAL that it needs has arrived there. In the other one the
        WAL has to be brought by `copy_wal`. Raises what `meaning` makes of an error.
        """
        long_term = self._long_term(repo)
        command = self._command(
            self._settings.long_term_config if long_term else self._settings.archive_config,
            *(
                ["--no-backup-standby"]
                if primary == self.node
                else [
                    "--backup-standby",
                    f"--config-include-path={self._folder}/{self._settings.primary}/{primary}",
                ]
            ),
            *(["--no-archive-check"] if long_term else []),
            *(f"--annotation={name}={value}" for name, value in annotations.items()),
            f"--type={kind}",
            "--log-level-console=off",
            "--log-level-stderr=detail",
            "backup",
        )
        log = BackupLog()
        with self._started(command, deadline) as child:
            assert child.stderr is not None
            for raw in child.stderr:
                progress = log.read(raw.decode(errors="replace").rstrip("\n"))
                if progress is not None:
                    told(progress)
            code = child.wait()
        if code != 0 or not log.label:
            raise meaning(code, "\n".join(log.errors), f"repo{repo}", self.node)
        return log

    def restore(
        self,
        options: Sequence[str],
        *,
        repo: int,
        work: str,
        data: str = "",
        told: Callable[[Copied], None],
        deadline: Deadline,
    ) -> None:
        """Restore into `data` (this node's own folder without one), completing what is there by checksums.

        `work` has a lock and a spool of its own: the node's archiving goes on beside. Recovery gets its WAL from the
        same repository. Raises what `meaning` makes of an error.
        """
        config = self._settings.long_term_config if self._long_term(repo) else self._settings.archive_config
        own = [f"--lock-path={work}/lock", *([f"--pg1-path={data}"] if data else [])]
        fetch = " ".join(
            [
                *self._command(config, *own),
                f"--spool-path={work}/spool",
                "--log-level-console=off",
                "archive-get",
            ]
        )
        command = self._command(
            config,
            *own,
            *options,
            "--delta",
            f'--recovery-option=restore_command={fetch} %f "%p"',
            "--log-level-console=off",
            "--log-level-stderr=detail",
            "restore",
        )
        log = BackupLog()
        with self._started(command, deadline) as child:
            assert child.stderr is not None
            for raw in child.stderr:
                progress = log.read(raw.decode(errors="replace").rstrip("\n"))
                if progress is not None:
                    told(progress)
            code = child.wait()
        if code != 0 and "No space left" in (said := "\n".join(log.errors)):
            raise Failed(
                f"no space is left on {self.node}: {' '.join(said.split())[:300]}",
                hint="free some, then run it again: it goes on where it was",
            )
        if code != 0:
            raise meaning(code, "\n".join(log.errors), f"repo{repo}", self.node)

    def copy_wal(self, segments: Sequence[str], deadline: Deadline) -> None:
        """Bring WAL from the repository that PostgreSQL archives to into the long-term one. Again is harmless."""
        folder = f"{self._folder}/wal"
        quiet = (
            "--no-archive-async",
            "--log-level-console=off",
            "--log-level-stderr=error",
        )
        fetch = self._command(self._settings.archive_config, *quiet, "archive-get")
        store = self._command(self._settings.long_term_config, *quiet, "archive-push")
        script = (
            'set -e\nmkdir -p "$0"\n'
            "for segment; do\n"
            f'    {" ".join(fetch)} "$segment" "$0/$segment"\n'
            f'    {" ".join(store)} "$0/$segment"\n'
            '    rm "$0/$segment"\n'
            "done\n"
        )
        ended = self._run(["/bin/sh", "-c", script, folder, *segments], deadline)
        if ended.code == 1 and not ended.log:
            raise Failed(
                f"WAL that the backup needs is not in the first repository: {', '.join(segments)}",
                hint="see whether archiving works: wmsctl status; then run the backup again",
            )
        if ended.code != 0:
            raise meaning(ended.code, ended.log, "the long-term repository", self.node)

    def _long_term(self, repo: int) -> bool:
        return next(each.long_term for each in self._settings.repositories if each.number == repo)

    def _command(self, config: str, *arguments: str) -> list[str]:
        settings = self._settings
        return [
            settings.program,
            f"--config={self._folder}/{config}",
            f"--stanza={settings.stanza}",
            *arguments,
        ]

    def _run(self, command: Sequence[str], deadline: Deadline) -> Ended:
        with self._started(command, deadline) as child:
            output, log = child.communicate()
        return Ended(child.returncode, output, log.decode(errors="replace"))

    @contextmanager
    def _started(self, command: Sequence[str], deadline: Deadline) -> Iterator[subprocess.Popen[bytes]]:
        """A running command, which does not outlive the body, nor the deadline: then Unknown is raised."""
        what = (
            f"pgbackrest {command[-1]} on {self.node}"
            if command[0] != "/bin/sh"
            else f"the WAL on {self.node}"
        )
        limit = deadline.timeout(86_400 * 7, what)
        child = self._shell.start(self.node, self._settings.process, command)
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.terminate()

        timer = threading.Timer(limit, stop)
        timer.daemon = True
        timer.start()
        try:
            yield child
        except WmsctlError:
            if not late.is_set():
                raise
        finally:
            timer.cancel()
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        if late.is_set():
            raise Unknown(
                f"{what} did not end within {limit:.0f} s and was stopped",
                hint="run it again with a longer --deadline",
            )


MEANINGS: tuple[tuple[str, type[WmsctlError], str, str], ...] = (
    (
        r"unable to load info file.*(FormatError|CryptoError|key/value found outside)",
        Failed,
        "the passphrase of {repo} is wrong, or its backup.info is damaged",
        "was the secret changed? {repo} needs the one that it was made with; wmsctl backup list says more",
    ),
    (
        r"FileMissingError.*stanza-create",
        Failed,
        "{repo} has no stanza: it is empty, or another bucket",
        "make it: make up; if there were backups in it, look at the bucket first",
    ),
    (
        r"No space left|InsufficientStorage|\b507\b|QuotaExceeded|XMinioStorageFull",
        Failed,
        "there is no space left for {repo}: {reason}",
        "free space in the store (wmsctl backup expire --dry-run), then run it again",
    ),
    (
        r"was not archived before|unable to find a valid WAL|WAL segment .* not archived",
        Failed,
        "the backup was made, but its WAL did not reach {repo} in time, so it does not count: {reason}",
        "see why archiving is behind: wmsctl status, and PostgreSQL's log on the primary; then run it again",
    ),
    (
        r"unable to find (standby|primary) cluster",
        Failed,
        "pgBackRest on {node} found no such server: {reason}",
        "the leadership may have moved meanwhile: wmsctl status, then run it again",
    ),
    (
        r"system-id|do not match the database|archive info files do not match",
        Failed,
        "{repo} belongs to another cluster: {reason}",
        "never overwrite it: give this platform a bucket of its own, or restore from it",
    ),
    (
        r"\b403\b|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId",
        Failed,
        "the store refuses the key of {repo}: {reason}",
        "the node's files are stale: make up",
    ),
    (
        r"unable to verify certificate|certificate verify failed|unable to find hostname",
        Failed,
        "the certificate of the other side is not of the platform's authority: {reason}",
        "renew the certificates: make up",
    ),
    (
        r"HostConnectError|unable to connect to|timeout (connecting|waiting|after)|unexpected eof",
        Unreachable,
        "a server that the backup needs does not answer: {reason}",
        "see which: wmsctl status; then run it again",
    ),
)
"""(what its log says, kind of error, message, next step); the first that fits."""


def meaning(code: int, log: str, repo: str, node: str) -> WmsctlError:
    """The error behind pgBackRest's exit code and log, with the next step."""
    flat = " ".join(log.split())
    reason = re.sub(r"^\[\d+\]: ", "", flat.removeprefix("ERROR: "))[:300]
    if code == LOCKED:
        return Refused(
            f"another backup, restore or expiry is under way on {node}",
            hint="wait for it: wmsctl backup list",
        )
    if code < 0 or code == TERMINATED:
        return Failed(
            f"pgbackrest on {node} was ended before its work was done",
            hint="was the node powered off? See wmsctl node list; then run it again",
        )
    for pattern, kind, message, hint in MEANINGS:
        if re.search(pattern, flat):
            return kind(
                message.format(repo=repo, node=node, reason=reason), hint=hint.format(repo=repo, node=node)
            )
    return Failed(f"pgbackrest on {node} ended with {code}: {reason or 'it said nothing'}")
