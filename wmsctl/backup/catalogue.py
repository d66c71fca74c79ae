"""What pgBackRest says there is: the document of `pgbackrest info --output=json` (2.45), as types. Pure.

A backup is named by its repository and its label; labels of two repositories have nothing to do with each other. Times
are UTC. A repository that could not be read has its trouble here and no backups: the other one still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import msgspec

from wmsctl.clients.postgres import lsn_bytes
from wmsctl.errors import Failed, Unreachable

Type = Literal["full", "diff", "incr"]

INVALID = "[invalid]"
"""The stanza's name when no repository of it could be read and none was asked for by name."""

EMPTY = "no valid backups"
"""pgBackRest's word for a repository that is well and has no backup yet."""


_CONTROLS = dict.fromkeys(range(32), " ")


class CatalogueError(Failed):
    """The document is not what pgBackRest 2.45 prints; the message names the place and the reason."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One complete backup. Sizes are bytes, LSNs numbers."""

    repo: int
    label: str
    type: Type
    prior: str
    """Label of the backup that it is the difference to; empty for a full one."""
    references: tuple[str, ...]
    """Labels of all backups that hold files of it."""
    started: datetime
    stopped: datetime
    """The earliest moment that it can be restored to."""
    lsn_start: int
    lsn_stop: int
    wal_start: str
    """First and last WAL segment that make it consistent; empty when it was taken of a stopped server."""
    wal_stop: str
    archive: str
    """The archive that this WAL is in, such as 15-1."""
    size: int
    """Of the database."""
    delta: int
    """Of the files that this run copied."""
    stored: int | None
    """In the repository, with everything it refers to; None where pgBackRest does not know (block incremental)."""
    stored_delta: int
    """In the repository, of this run alone."""
    damaged: bool
    """Pages with a wrong checksum were copied: pgBackRest warns, and calls the backup good."""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    version: str = ""

    @property
    def key(self) -> tuple[int, str]:
        return self.repo, self.label

    @property
    def name(self) -> str:
        """For people: repo1 20261101-000002F."""
        return f"repo{self.repo} {self.label}"


@dataclass(frozen=True, slots=True)
class Archive:
    """The WAL of one database in one repository; the bounds are empty while there is none."""

    repo: int
    id: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Repository:
    key: int
    cipher: str
    """none or aes-256-cbc."""
    trouble: str
    """Why it could not be read; empty when it is well, also while it has no backup."""


@dataclass(frozen=True)
class Catalogue:
    """All backups of one stanza, oldest first within a repository."""

    stanza: str
    repositories: tuple[Repository, ...]
    archives: tuple[Archive, ...]
    backups: tuple[Backup, ...]
    running: bool
    """A backup or an expiry holds pgBackRest's lock on the host that was asked."""

    def of(self, repo: int) -> tuple[Backup, ...]:
        """The backups of one repository, oldest first."""
        return tuple(backup for backup in self.backups if backup.repo == repo)

    def get(self, repo: int, label: str) -> Backup:
        """The backup. Raises CatalogueError saying what there is."""
        for backup in self.backups:
            if backup.key == (repo, label):
                return backup
        there = ", ".join(b.label for b in self.of(repo)[-5:]) or "none"
        raise CatalogueError(f"repo{repo} has no backup {label}; the newest are: {there}")

    def require(self, repo: int) -> Repository:
        """The repository, readable. Raises CatalogueError when it is not configured, Unreachable with what
        pgBackRest said when it cannot be read.
        """
        for repository in self.repositories:
            if repository.key == repo:
                if repository.trouble:
                    raise Unreachable(
                        f"repo{repo} of stanza {self.stanza} cannot be used: {repository.trouble}",
                        hint=_hint(repository.trouble),
                    )
                return repository
        known = ", ".join(f"repo{r.key}" for r in self.repositories) or "none"
        raise CatalogueError(f"stanza {self.stanza} has no repo{repo}; configured: {known}")


def ancestors(backup: Backup, backups: Mapping[tuple[int, str], Backup]) -> tuple[Backup, ...]:
    """The backups that `backup` needs, nearest first, as far as they exist.

    Raises CatalogueError for a chain that leads back to itself.
    """
    chain: list[Backup] = []
    seen = {backup.key}
    prior = backups.get((backup.repo, backup.prior)) if backup.prior else None
    while prior is not None:
        if prior.key in seen:
            raise CatalogueError(f"{backup.name} depends on itself, by way of {prior.label}")
        seen.add(prior.key)
        chain.append(prior)
        prior = backups.get((prior.repo, prior.prior)) if prior.prior else None
    return tuple(chain)


def whole(backup: Backup, backups: Mapping[tuple[int, str], Backup]) -> bool:
    """Whether every backup that this one needs exists."""
    chain = (backup, *ancestors(backup, backups))
    return chain[-1].type == "full" and all((backup.repo, label) in backups for label in backup.references)


def dependents(backup: Backup, backups: Mapping[tuple[int, str], Backup]) -> tuple[Backup, ...]:
    """The backups that are lost with `backup`: pgBackRest expires them together."""
    return tuple(other for other in backups.values() if backup in ancestors(other, backups))


def index(backups: tuple[Backup, ...]) -> dict[tuple[int, str], Backup]:
    """The backups by repository and label."""
    return {backup.key: backup for backup in backups}


def parse(text: str | bytes, stanza: str) -> Catalogue:
    """Read the document; `stanza` is the one that was asked for.

    Raises CatalogueError when it is no such document or speaks of another stanza, Unreachable when no repository
    could be read, with pgBackRest's reason.
    """
    # Reasons may hold what a wrong passphrase makes of a file: bytes that are no text, and control characters that
    # pgBackRest does not escape.
    whole = (text.decode(errors="replace") if isinstance(text, bytes) else text).translate(_CONTROLS)
    try:
        documents = msgspec.json.decode(whole, type=list[_Stanza])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise CatalogueError(
            f"pgbackrest info printed no document of its version 2.45: {error}",
            hint="look at it: pgbackrest info --output=json",
        ) from error
    named = [document for document in documents if document.name in (stanza, INVALID)]
    if not named:
        there = ", ".join(document.name for document in documents) or "no stanza at all"
        raise CatalogueError(
            f"pgbackrest info does not tell of the stanza {stanza}: it has {there}",
            hint="the stanza is made with the platform: make up",
        )
    found = named[0]
    repositories = tuple(Repository(repo.key, repo.cipher, _trouble(repo)) for repo in found.repo)
    if found.name == INVALID or all(repository.trouble for repository in repositories):
        reasons = [f"repo{repo.key}: {repo.trouble}" for repo in repositories if repo.trouble]
        reason = "; ".join(reasons) or printable(found.status.message)
        raise Unreachable(f"no repository of stanza {stanza} can be read: {reason}", hint=_hint(reason))
    return Catalogue(
        stanza=stanza,
        repositories=repositories,
        archives=tuple(
            Archive(a.database.repo_key, a.id, a.min or "", a.max or "") for a in found.archive if a.id
        ),
        backups=_backups(found),
        running=found.status.lock.backup.held,
    )


def _backups(found: _Stanza) -> tuple[Backup, ...]:
    versions = {(db.repo_key, db.id): db.version for db in found.db}
    backups: list[Backup] = []
    for raw in found.backup:
        if raw.type != "full" and not raw.prior:
            raise CatalogueError(f"the {raw.type} backup {raw.label} names no prior one")
        try:
            started, stopped = (
                datetime.fromtimestamp(moment, UTC) for moment in (raw.timestamp.start, raw.timestamp.stop)
            )
            lsn_start, lsn_stop = (
                (lsn_bytes(raw.lsn.start), lsn_bytes(raw.lsn.stop)) if raw.lsn is not None else (0, 0)
            )
        except (ValueError, OverflowError, OSError) as error:
            raise CatalogueError(f"the backup {raw.label} has a wrong time or position: {error}") from error
        if stopped < started:
            raise CatalogueError(f"the backup {raw.label} ends before it begins")
        database = raw.database
        version = versions.get((database.repo_key, database.id), "")
        backups.append(
            Backup(
                repo=database.repo_key,
                label=raw.label,
                type=raw.type,
                prior=raw.prior or "",
                references=tuple(raw.reference or ()),
                started=started,
                stopped=stopped,
                lsn_start=lsn_start,
                lsn_stop=lsn_stop,
                wal_start=raw.archive.start or "",
                wal_stop=raw.archive.stop or "",
                archive=f"{version}-{database.id}",
                size=raw.info.size,
                delta=raw.info.delta,
                stored=raw.info.repository.size,
                stored_delta=raw.info.repository.delta,
                damaged=bool(raw.error),
                annotations=dict(raw.annotation or {}),
                version=raw.backrest.version,
            )
        )
    keys = [backup.key for backup in backups]
    if len(set(keys)) != len(keys):
        raise CatalogueError("pgbackrest info tells of one backup twice")
    return tuple(sorted(backups, key=lambda b: (b.repo, b.started, b.label)))


def _trouble(repo: _Repo) -> str:
    status = repo.status
    if status.code == 0 or status.message == EMPTY:
        return ""
    said = printable(status.message) or f"status {status.code}"
    if repo.cipher != "none" and "unable to load info file" in said:
        # Read with the wrong key a file is noise: pgBackRest then speaks of its format or its padding.
        return f"its passphrase is wrong, or backup.info is damaged ({said})"
    return said


def printable(message: str, limit: int = 200) -> str:
    """What pgBackRest said, in one line of ordinary characters."""
    text = "".join(c if c.isprintable() and c != "\N{REPLACEMENT CHARACTER}" else " " for c in message)
    words = " ".join(text.split())
    return words if len(words) <= limit else words[:limit] + " …"


def _hint(trouble: str) -> str:
    """The next step for the troubles that have a name."""
    if "passphrase" in trouble or "CryptoError" in trouble:
        return "the right passphrase is in the escrow file: wmsctl backup escrow --help"
    if "missing stanza" in trouble:
        return "is it the right bucket? The stanza is made with the platform: make up"
    return "is the object store up? wmsctl status"


class _Part(msgspec.Struct, frozen=True, rename="kebab"):
    """Base of the document's parts. Keys that are not named here are ignored: later versions add some."""


class _Database(_Part, frozen=True):
    id: int
    repo_key: int


class _Version(_Part, frozen=True):
    id: int
    repo_key: int
    version: str = ""


class _Archive(_Part, frozen=True):
    database: _Database
    id: str | None = None
    min: str | None = None
    max: str | None = None


class _Span(_Part, frozen=True):
    start: str | None = None
    stop: str | None = None


class _Positions(_Part, frozen=True):
    start: str
    stop: str


class _Times(_Part, frozen=True):
    start: int
    stop: int


class _Stored(_Part, frozen=True):
    delta: int
    size: int | None = None


class _Sizes(_Part, frozen=True):
    size: int
    delta: int
    repository: _Stored


class _Program(_Part, frozen=True):
    version: str = ""


class _Backup(_Part, frozen=True):
    label: str
    type: Type
    timestamp: _Times
    archive: _Span
    info: _Sizes
    database: _Database
    prior: str | None = None
    reference: list[str] | None = None
    lsn: _Positions | None = None
    error: bool | None = None
    annotation: dict[str, str] | None = None
    backrest: _Program = _Program()


class _Held(_Part, frozen=True):
    held: bool = False


class _Lock(_Part, frozen=True):
    backup: _Held = _Held()


class _Status(_Part, frozen=True):
    code: int = 0
    message: str = ""
    lock: _Lock = _Lock()


class _Repo(_Part, frozen=True):
    key: int
    cipher: str = "none"
    status: _Status = _Status()


class _Stanza(_Part, frozen=True):
    name: str
    status: _Status
    repo: list[_Repo] = []
    db: list[_Version] = []
    archive: list[_Archive] = []
    backup: list[_Backup] = []
