"""A pgBackRest in memory: answers the commands that the engine gives, in the words of version 2.45."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.unit.wmsctl.backup.worlds import Chain
from wmsctl.backup.catalogue import Backup, dependents, index
from wmsctl.backup.engine import MISSING, Engine
from wmsctl.deadline import Deadline
from wmsctl.invocation import Invocation

STANZA = "wms"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: bytes
    log: str


@dataclass
class Pgbackrest:
    """Two repositories with the backups of a chain, and a WAL segment for each number up to the newest.

    `before` is called with each command, so that a test can have something happen in between.
    """

    chain: Chain
    annotations: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict)
    missing: dict[int, set[int]] = field(default_factory=lambda: {1: set(), 2: set()})
    """Numbers of segments that are not in the archive of a repository."""
    damaged: dict[tuple[int, str], str] = field(default_factory=dict)
    """What verify finds wrong, by backup."""
    troubles: dict[int, str] = field(default_factory=dict)
    """Repositories that cannot be read."""
    calls: list[list[str]] = field(default_factory=list)
    before: Callable[[list[str]], None] = lambda _: None

    def engine(self) -> Engine:
        return Engine(self, STANZA, Deadline.after(60))

    def __call__(self, arguments: Sequence[str], deadline: Deadline) -> Done:
        given = [word for word in arguments if not word.startswith("--log-level")]
        self.calls.append(given)
        self.before(given)
        options = dict(word[2:].split("=", 1) for word in given if word.startswith("--") and "=" in word)
        words = [word for word in given if not word.startswith("--")]
        return getattr(self, "_" + words[0].replace("-", "_"))(options, words[1:])  # type: ignore[no-any-return]

    @property
    def backups(self) -> list[Backup]:
        return [b for b in self.chain.backups if b.repo not in self.troubles]

    def _info(self, options: dict[str, str], words: list[str]) -> Done:
        repos = [
            {
                "key": repo,
                "cipher": "none",
                "status": {"code": 99, "message": self.troubles[repo]}
                if repo in self.troubles
                else {"code": 0, "message": "ok"},
            }
            for repo in (1, 2)
        ]
        stanza = {
            "name": STANZA,
            "status": {"code": 0, "message": "ok", "lock": {"backup": {"held": False}}},
            "repo": repos,
            "db": [{"id": 1, "repo-key": repo, "version": "15"} for repo in (1, 2)],
            "archive": [
                {"id": "15-1", "database": {"id": 1, "repo-key": repo}, "min": None, "max": None}
                for repo in (1, 2)
                if repo not in self.troubles
            ],
            "backup": [self._entry(backup) for backup in self.backups],
        }
        return Done(0, json.dumps([stanza]).encode(), "")

    def _entry(self, backup: Backup) -> dict[str, Any]:
        return {
            "label": backup.label,
            "type": backup.type,
            "prior": backup.prior or None,
            "reference": list(backup.references) or None,
            "timestamp": {"start": int(backup.started.timestamp()), "stop": int(backup.stopped.timestamp())},
            "lsn": {"start": "0/1", "stop": "0/2"},
            "archive": {"start": backup.wal_start, "stop": backup.wal_stop},
            "info": {"size": 10, "delta": 5, "repository": {"delta": 1, "size": 2}},
            "database": {"id": 1, "repo-key": backup.repo},
            "error": False,
            "annotation": self.annotations.get(backup.key),
        }

    def _segments(self, repo: int) -> dict[str, datetime]:
        """Name → when it was stored."""
        first = self.chain.backups[0].started
        last = max(int(b.wal_stop, 16) & 0xFFFF for b in self.chain.backups) + 3
        return {
            f"{1:08X}{0:08X}{number:08X}": first + timedelta(minutes=number)
            for number in range(last)
            if number not in self.missing[repo]
        }

    def _repo_ls(self, options: dict[str, str], words: list[str]) -> Done:
        listing: dict[str, Any] = {".": {"type": "path"}}
        for name, at in self._segments(int(options["repo"])).items():
            path = f"{name[:16]}/{name}-{'0' * 40}.zst"
            listing[path] = {"type": "file", "size": 1, "time": int(at.timestamp())}
        return Done(0, json.dumps(listing).encode(), "")

    def _repo_get(self, options: dict[str, str], words: list[str]) -> Done:
        return Done(0, f"manifest of {words[0].removesuffix('.copy')}".encode(), "")

    def _verify(self, options: dict[str, str], words: list[str]) -> Done:
        repo = int(options["repo"])
        bad = any(key[0] == repo for key in self.damaged)
        lines = [f"stanza: {STANZA}", f"status: {'error' if bad else 'ok'}"]
        log = []
        counts = "    missing: 0, checksum invalid: {}, size invalid: 0, other: 0"
        number = len(self._segments(repo))
        lines += [
            f"  archiveId: 15-1, total WAL checked: {number}, total valid WAL: {number}",
            counts.format(0),
        ]
        for backup in self.backups:
            if backup.repo != repo:
                continue
            wrong = self.damaged.get(backup.key)
            state, valid = ("invalid", 9) if wrong else ("valid", 10)
            lines.append(
                f"  backup: {backup.label}, status: {state}, total files checked: 10, total valid files: {valid}"
            )
            lines.append(counts.format(10 - valid))
            if wrong:
                log.append(f"P01   INFO: invalid checksum '{backup.label}/{wrong}'")
        return Done(0, "\n".join(lines).encode() + b"\n", "\n".join(log))

    def _annotate(self, options: dict[str, str], words: list[str]) -> Done:
        name, value = options["annotation"].split("=", 1)
        self.annotations.setdefault((int(options["repo"]), options["set"]), {})[name] = value
        return Done(0, b"", "")

    def _expire(self, options: dict[str, str], words: list[str]) -> Done:
        repo = int(options["repo"])
        if "set" in options:
            known = index(tuple(self.chain.backups))
            backup = known.get((repo, options["set"]))
            if backup is None:
                return Done(0, b"", "WARN: backup does not exist")
            gone = {backup.key, *(other.key for other in dependents(backup, known))}
            self.chain.held = [h for h in self.chain.held if h.backup.key not in gone]
            return Done(0, b"", "")
        kept = int(options[f"repo{repo}-retention-archive"])
        mine = sorted((b for b in self.chain.backups if b.repo == repo), key=lambda b: b.label)
        floor, older = mine[-kept], mine[:-kept]
        needed = {int(b.wal_start, 16) & 0xFFFF for b in older}
        below = range(int(floor.wal_start, 16) & 0xFFFF)
        self.missing[repo] |= {number for number in below if number not in needed}
        return Done(0, b"", "")

    def _unknown(self, options: dict[str, str], words: list[str]) -> Done:
        return Done(MISSING, b"", "")


class Door:
    """How commands under test reach it."""

    def __init__(self, repository: Pgbackrest) -> None:
        self.repository = repository
        self.held: list[str] = []

    def engine(self, invocation: Invocation, deadline: Deadline) -> Engine:
        return self.repository.engine()

    def exclusively(self, invocation: Invocation, what: str) -> AbstractContextManager[None]:
        self.held.append(what)
        return nullcontext()
