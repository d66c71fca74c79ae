"""pgBackRest's commands, as retention and verification need them. How and where one is run is the runner's business."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from wmsctl.backup import catalogue, verification, wal
from wmsctl.backup.catalogue import Catalogue, printable
from wmsctl.backup.verification import Manifest, Report
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable

LOCKED = 50
"""pgBackRest's exit code when it cannot have its lock."""
MISSING = 55
"""When a file that it is to read is not there."""

QUIET = ("--log-level-console=off", "--log-level-stderr=info")
"""Standard output is the answer alone; what happened is on standard error."""

_WAL_COPY = re.compile(r"^pg_data/pg_wal/[0-9A-F]{24}=", re.MULTILINE)


class Ended(Protocol):
    """How a command ended. The log is for people, and holds no passphrase: pgBackRest hides them."""

    @property
    def code(self) -> int: ...
    @property
    def output(self) -> bytes: ...
    @property
    def log(self) -> str: ...


class Runner(Protocol):
    """Runs pgbackrest with its configuration and stanza, as the user that it needs, with TZ=UTC for its labels."""

    def __call__(self, arguments: Sequence[str], deadline: Deadline) -> Ended:
        """Run it to its end. Raises Unreachable when there is nowhere to run it, Unknown when the deadline passes."""
        ...


class Engine:
    """One stanza. Every method raises Failed or Unreachable with pgBackRest's own reason, and Refused when another
    backup or expiry is under way.
    """

    def __init__(self, run: Runner, stanza: str, deadline: Deadline) -> None:
        self._run, self.stanza, self._deadline = run, stanza, deadline

    def catalogue(self) -> Catalogue:
        """What there is now."""
        done = self._done("info", "--output=json")
        return catalogue.parse(done.output, self.stanza)

    def verify(self, repo: int) -> Report:
        """Read every file of a repository and compare its checksum: as long as reading all of it takes."""
        done = self._done("verify", f"--repo={repo}", "--output=text", "--verbose")
        return verification.parse(done.output.decode(errors="replace"), done.log, self.stanza)

    def manifest(self, repo: int, label: str) -> Manifest:
        """Look at a backup's manifest and at the copy of it. What is wrong with them is in the answer."""
        folder = f"backup/{self.stanza}/{label}/backup.manifest"
        main, copy = self._get(repo, folder), self._get(repo, f"{folder}.copy")
        text = main if main is not None else copy
        trouble = ""
        if text is None:
            trouble = "neither its manifest nor the copy of it can be read"
        elif main is None:
            trouble = "its manifest cannot be read; the copy of it can"
        elif copy is None:
            trouble = "the copy of its manifest cannot be read; the manifest can"
        elif main != copy:
            trouble = "its manifest and the copy of it differ"
        if text is None:
            return Manifest("", 0, trouble)
        return Manifest(
            hashlib.sha256(text).hexdigest(), len(_WAL_COPY.findall(text.decode(errors="replace"))), trouble
        )

    def archive(self, repo: int, archive: str, segment_bytes: int = wal.SEGMENT_BYTES) -> wal.Archive:
        """Every segment and history file of one archive. Raises WalError for a file that PostgreSQL would not write."""
        folder = f"archive/{self.stanza}/{archive}"
        segments: dict[wal.Segment, datetime] = {}
        histories: dict[int, tuple[wal.Switch, ...]] = {}
        for path, stored in self._list(repo, folder).items():
            name = path.rsplit("/", 1)[-1]
            if found := wal.SEGMENT.match(name):
                segments[wal.segment(found[1], segment_bytes)] = stored
            elif found := wal.HISTORY.match(name):
                text = self._get(repo, f"{folder}/{name}")
                timeline = int(found[1], 16)
                if text is not None:
                    histories[timeline] = wal.history(text.decode(errors="replace"), timeline)
        return wal.Archive(archive, segments, histories, segment_bytes)

    def expire(self, repo: int, label: str) -> None:
        """Remove a backup and, which the caller has to rule out, whatever depends on it."""
        self._done("expire", f"--repo={repo}", f"--set={label}")

    def expire_wal(self, repo: int, kept: int) -> None:
        """Remove WAL that is older than the `kept` newest backups, but for what makes older ones consistent."""
        option = f"--repo{repo}-retention-archive"
        self._done("expire", f"--repo={repo}", f"{option}-type=incr", f"{option}={kept}")

    def annotate(self, repo: int, label: str, values: Mapping[str, str]) -> None:
        """Set annotations of a backup; an empty value removes one."""
        options = [f"--annotation={name}={value}" for name, value in values.items()]
        self._done("annotate", f"--repo={repo}", f"--set={label}", *options)

    def _get(self, repo: int, path: str) -> bytes | None:
        """A file of the repository, decrypted; None when it is missing or is not what it was when it was written."""
        done = self._call("repo-get", f"--repo={repo}", path)
        if done.code == 0 and done.output:
            return done.output
        if done.code in (0, MISSING) or _is_content(done):
            return None
        raise self._failure("repo-get", done)

    def _list(self, repo: int, path: str) -> dict[str, datetime]:
        """Every file below a folder of the repository, and when it was stored."""
        done = self._done("repo-ls", f"--repo={repo}", "--recurse", "--output=json", path)
        try:
            found = json.loads(done.output)
            return {
                name: datetime.fromtimestamp(entry["time"], UTC)
                for name, entry in found.items()
                if entry["type"] == "file"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failed(f"pgbackrest repo-ls printed no listing of {path}: {error}") from error

    def _done(self, *arguments: str) -> Ended:
        done = self._call(*arguments)
        if done.code != 0:
            raise self._failure(arguments[0], done)
        return done

    def _call(self, *arguments: str) -> Ended:
        return self._run([*QUIET, *arguments], self._deadline)

    def _failure(self, command: str, done: Ended) -> Failed | Refused | Unreachable:
        reason = _reason(done.log) or f"exit code {done.code}"
        # The code is the same when the lock's folder is not ours to write.
        if done.code == LOCKED and "temporarily unavailable" in reason:
            return Refused(
                f"pgbackrest {command} cannot begin: another backup or expiry is under way ({reason})",
                hint="wait for it to end: wmsctl backup list",
            )
        if re.search(r"HostConnectError|unable to connect|unable to get address|timeout", reason):
            return Unreachable(
                f"pgbackrest {command} cannot reach the repository: {reason}", hint="wmsctl status"
            )
        return Failed(f"pgbackrest {command} failed: {reason}")


def _reason(log: str) -> str:
    """The first error that the log tells, in one line."""
    found = re.search(r"ERROR: (?:\[\d+\]: )?(.*?)(?=\n\S|\Z)", log, re.DOTALL)
    return printable(found[1], 300) if found else ""


def _is_content(done: Ended) -> bool:
    """Whether a file was there and could not be decrypted or decompressed: truncated, or changed."""
    return bool(
        re.search(r"unable to flush|CryptoError|cipher header|FormatError|zst error|[Cc]hecksum", done.log)
    )
