"""The archive of seven years: a full backup copied out of its repository into a bucket under Object Lock.

What is copied is a pgBackRest repository of its own: the backup, the WAL that makes it consistent, and the two info
files that hold the keys of both. With the passphrase from the escrow any pgBackRest restores it from a folder, when
nothing of the platform is left. A list of every file with its SHA-256 and the version in the bucket stands beside it.

Everything is written, read back and compared before it is locked: what is locked wrong stays wrong for seven years.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from wmsctl.backup import wal
from wmsctl.backup.catalogue import Backup
from wmsctl.clients.vault import Hashing, Readable, Stored
from wmsctl.errors import Failed, Refused, Usage

VERSION = "wms.archive/v1"
LIST = "archive.json"
"""Name of the list of an archive's files."""
REPOSITORY = "repository"
"""Name of the folder that is a pgBackRest repository."""


class Source(Protocol):
    """Where the repository lies; keys have the path of the repository in front."""

    def list(self, prefix: str) -> Mapping[str, int]: ...
    def open(self, key: str) -> AbstractContextManager[Readable]: ...


class Vault(Protocol):
    """Where the archive goes; `wmsctl.clients.vault.Vault` is the real one."""

    def exists(self) -> bool: ...
    def ensure(self) -> bool: ...
    def store(self, key: str, content: Readable) -> str: ...
    def open(self, key: str, version: str = "") -> AbstractContextManager[Readable]: ...
    def lock(self, key: str, version: str, until: datetime) -> None: ...
    def locked_until(self, key: str, version: str) -> datetime | None: ...
    def versions(self, prefix: str) -> Sequence[Stored]: ...
    def destroy(self, stored: Sequence[Stored]) -> Sequence[Stored]: ...


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the repository, by its path below REPOSITORY."""

    path: str
    size: int
    sha256: str
    version: str


class Archive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The list of an archive."""

    version: str
    platform: str
    environment: str
    stanza: str
    label: str
    postgres_version: int
    pgbackrest_version: str
    started: datetime
    stopped: datetime
    wal_start: str
    wal_stop: str
    created: datetime
    kept_until: datetime
    cipher: str
    fingerprint: str
    """Of the passphrase: which escrow opens it."""
    restore: str
    """How to, in words."""
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class About:
    """What is known of a backup beside the catalogue."""

    platform: str
    environment: str
    stanza: str
    path: str
    """Of the repository in its bucket."""
    postgres_version: int
    cipher: str
    fingerprint: str
    restore: str


@dataclass(frozen=True)
class Checked:
    """What a verification of an archive found."""

    archive: Archive | None
    files: int
    troubles: tuple[str, ...]


def wanted(source: Source, backup: Backup, about: About) -> dict[str, str]:
    """Path below the repository → key in the source, of everything that a restore of `backup` needs.

    Raises Refused for a backup that needs another one, or whose WAL is not beside it.
    """
    if backup.type != "full":
        raise Refused(f"{backup.name} needs other backups; an archive is made of a full one")
    root = about.path.strip("/") + "/" if about.path.strip("/") else ""
    own = f"backup/{about.stanza}/{backup.label}/"
    found = {key.removeprefix(root): key for key in source.list(f"{root}{own}")}
    if f"{own}backup.manifest" not in found:
        raise Refused(
            f"{backup.name} has no manifest where it is looked for: {root}{own}", hint="wmsctl backup verify"
        )
    first, last = wal.segment(backup.wal_start), wal.segment(backup.wal_stop)
    names: set[str] = set()
    for folder in dict.fromkeys([backup.wal_start[:16], backup.wal_stop[:16]]):
        segments = f"archive/{about.stanza}/{backup.archive}/{folder}/"
        for key in source.list(f"{root}{segments}"):
            match = wal.SEGMENT.match(key.rsplit("/", 1)[-1])
            if match and backup.wal_start <= match[1] <= backup.wal_stop:
                found[key.removeprefix(root)] = key
                names.add(match[1])
    missing = last.number - first.number + 1 - len(names)
    if missing and not _holds_wal(found, own, backup):
        raise Refused(
            f"{backup.name} is not self-contained: {missing} of the WAL segments that it needs are not beside it",
            hint="take it again: wmsctl backup run --type full --repo 2",
        )
    others = [
        f"{kind}/{about.stanza}/{kind}.info{end}" for kind in ("backup", "archive") for end in ("", ".copy")
    ]
    if first.timeline > 1:
        others.append(f"archive/{about.stanza}/{backup.archive}/{first.timeline:08X}.history")
    for path in others:
        if source.list(f"{root}{path}").get(f"{root}{path}") is not None:
            found[path] = f"{root}{path}"
    for kind in ("backup", "archive"):
        if not {f"{kind}/{about.stanza}/{kind}.info", f"{kind}/{about.stanza}/{kind}.info.copy"} & set(found):
            raise Refused(f"repo{backup.repo} has no {kind}.info: nothing can be restored without it")
    return dict(sorted(found.items()))


def export(
    source: Source,
    vault: Vault,
    backup: Backup,
    about: About,
    until: datetime,
    now: datetime,
    progress: Callable[[str], None],
) -> Archive:
    """Copy `backup` into the vault and lock it until `until`. Again it goes on, and changes nothing that is done.

    Raises Refused (see `wanted`), Failed when what was written is not what is read back; then nothing is locked.
    """
    vault.ensure()
    done = load(vault, backup.label)
    if done is None:
        keys = wanted(source, backup, about)
        # What a run that died left behind is not locked, and nobody's.
        vault.destroy(vault.versions(f"{backup.label}/"))
        items = []
        for number, (path, key) in enumerate(keys.items(), 1):
            if number == 1 or number % 100 == 0:
                progress(f"{backup.name}: file {number} of {len(keys)}")
            items.append(_copy(source, vault, key, f"{backup.label}/{REPOSITORY}/{path}", path))
        done = Archive(
            version=VERSION,
            platform=about.platform,
            environment=about.environment,
            stanza=about.stanza,
            label=backup.label,
            postgres_version=about.postgres_version,
            pgbackrest_version=backup.version,
            started=backup.started,
            stopped=backup.stopped,
            wal_start=backup.wal_start,
            wal_stop=backup.wal_stop,
            created=now,
            kept_until=until,
            cipher=about.cipher,
            fingerprint=about.fingerprint,
            restore=about.restore,
            items=tuple(items),
        )
        text = msgspec.json.format(msgspec.json.encode(done), indent=2)
        _write(vault, f"{backup.label}/{LIST}", text)
    progress(f"{backup.name}: locking {len(done.items) + 1} files until {done.kept_until:%Y-%m-%d}")
    for key, version in _files(vault, done):
        held = vault.locked_until(key, version)
        if held is None or held < done.kept_until:
            vault.lock(key, version, done.kept_until)
    return done


def load(vault: Vault, label: str) -> Archive | None:
    """The list of an archive; None when there is none: it was not finished. Raises Failed for a damaged one."""
    versions = [each for each in vault.versions(f"{label}/{LIST}") if each.key == f"{label}/{LIST}"]
    if not versions:
        return None
    # A later version may be anybody's: the oldest is the one that was locked first.
    with vault.open(versions[-1].key, versions[-1].version) as body:
        text = body.read()
    try:
        found = msgspec.json.decode(text, type=Archive)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Failed(f"the list of archive {label} cannot be read: {error}") from error
    if found.version != VERSION:
        raise Failed(f"archive {label} is of version {found.version}; this wmsctl reads {VERSION}")
    return found


def labels(vault: Vault) -> list[str]:
    """Every archive, finished or not, oldest first."""
    if not vault.exists():
        return []
    return sorted({each.key.split("/", 1)[0] for each in vault.versions("")})


def verify(vault: Vault, label: str, progress: Callable[[str], None]) -> Checked:
    """Read every file of an archive and compare it; look at every lock."""
    found = load(vault, label)
    if found is None:
        return Checked(None, 0, (f"archive {label} was never finished: export it again",))
    troubles: list[str] = []
    for number, item in enumerate(found.items, 1):
        if number == 1 or number % 100 == 0:
            progress(f"archive {label}: file {number} of {len(found.items)}")
        key = f"{label}/{REPOSITORY}/{item.path}"
        try:
            with vault.open(key, item.version) as body:
                content = Hashing(body)
                content.drain()
        except Failed as error:
            troubles.append(f"{item.path}: {error.message}")
            continue
        if (content.sha256, content.size) != (item.sha256, item.size):
            troubles.append(f"{item.path}: its content is another one than was archived")
    for key, version in _files(vault, found):
        held = vault.locked_until(key, version)
        if held is None or held < found.kept_until:
            word = f"until {held:%Y-%m-%d} only" if held else "not at all"
            troubles.append(f"{key} is locked {word}, and not until {found.kept_until:%Y-%m-%d}")
    return Checked(found, len(found.items), tuple(troubles))


def fetch(vault: Vault, label: str, folder: Path, progress: Callable[[str], None]) -> tuple[Archive, Path]:
    """Bring an archive into `folder`, which is made; the repository in it is what pgBackRest's repo1-path takes.

    Raises Usage for a folder that holds something, Failed when a file is not what was archived.
    """
    found = load(vault, label)
    if found is None:
        there = ", ".join(labels(vault)) or "none"
        raise Usage(f"there is no archive {label}; there are: {there}")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise Usage(f"{folder} is not empty", hint="name a folder that is to be made")
        for number, item in enumerate(found.items, 1):
            if number == 1 or number % 100 == 0:
                progress(f"archive {label}: file {number} of {len(found.items)}")
            path = folder / REPOSITORY / _relative(item.path)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with vault.open(f"{label}/{REPOSITORY}/{item.path}", item.version) as body:
                content = Hashing(body)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    content.drain(file)
            if content.sha256 != item.sha256:
                raise Failed(f"{item.path} of archive {label} is not what was archived; {path} is of no use")
    except OSError as error:
        raise Failed(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return found, folder / REPOSITORY


def purge(vault: Vault, label: str, now: datetime) -> int:
    """Delete an archive whose time is over, every version of it; how many. Raises Refused before its time."""
    found = load(vault, label)
    if found is not None and now < found.kept_until:
        raise Refused(f"archive {label} is kept until {found.kept_until:%Y-%m-%d}")
    stored = vault.versions(f"{label}/")
    held = vault.destroy(stored)
    if held:
        raise Refused(
            f"the store still holds {len(held)} of {len(stored)} files of archive {label}: {held[0].key}"
        )
    return len(stored)


def _copy(source: Source, vault: Vault, key: str, target: str, path: str) -> Item:
    with source.open(key) as body:
        content = Hashing(body)
        version = vault.store(target, content)
    with vault.open(target, version) as stored:
        back = Hashing(stored)
        back.drain()
    if (back.sha256, back.size) != (content.sha256, content.size):
        raise Failed(
            f"{path} was written and reads back as something else; nothing is locked", hint="run it again"
        )
    return Item(path=path, size=content.size, sha256=content.sha256, version=version)


def _write(vault: Vault, key: str, text: bytes) -> None:
    version = vault.store(key, io.BytesIO(text))
    with vault.open(key, version) as stored:
        if stored.read() != text:
            raise Failed(
                f"{key} was written and reads back as something else; nothing is locked", hint="run it again"
            )


def _files(vault: Vault, found: Archive) -> Iterator[tuple[str, str]]:
    """(key, version) of every file and of the list."""
    for item in found.items:
        yield f"{found.label}/{REPOSITORY}/{item.path}", item.version
    key = f"{found.label}/{LIST}"
    yield key, [each for each in vault.versions(key) if each.key == key][-1].version


def _holds_wal(found: Mapping[str, str], own: str, backup: Backup) -> bool:
    """Whether the backup itself holds its WAL (--archive-copy), as files of their own."""
    first, last = wal.segment(backup.wal_start), wal.segment(backup.wal_stop)
    names = [wal.Segment(first.timeline, n).name() for n in range(first.number, last.number + 1)]
    return all(any(path.startswith(f"{own}pg_data/pg_wal/{name}") for path in found) for name in names)


def _relative(path: str) -> PurePosixPath:
    """A path of the list, which came from a store: it stays below the folder. Raises Failed."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise Failed(f"the list of the archive names {path!r}, which is no path of a repository")
    return pure


class Folder:
    """A repository on disk as a source; keys are paths below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self, prefix: str) -> dict[str, int]:
        """Key → bytes of every file whose key begins so."""
        start = self.root / prefix
        base = start if start.is_dir() else start.parent
        return {
            str(path.relative_to(self.root)): path.stat().st_size
            for path in base.rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and str(path.relative_to(self.root)).startswith(prefix)
        }

    def open(self, key: str) -> AbstractContextManager[Readable]:
        return (self.root / key).open("rb")
