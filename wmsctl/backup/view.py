"""What `wmsctl backup list` and `show` print: pure but for the printing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wmsctl.backup import catalogue, verification
from wmsctl.backup.catalogue import Backup, Catalogue
from wmsctl.errors import Failed
from wmsctl.output import Cell, Printer, Styled, size


@dataclass(frozen=True)
class RepositoryLine:
    number: int
    cipher: str
    trouble: str
    backups: int
    stored: int
    """Bytes of all backups, without WAL."""


@dataclass(frozen=True)
class ArchiveLine:
    repo: int
    id: str
    first: str
    last: str


@dataclass(frozen=True)
class BackupLine:
    """One backup. Times are UTC, sizes bytes."""

    repo: int
    label: str
    type: str
    tier: str
    """What it was made for."""
    source: str
    """The node whose data it is a copy of."""
    started: datetime
    stopped: datetime
    seconds: float
    size: int
    copied: int
    stored: int
    wal_start: str
    wal_stop: str
    damaged: bool
    verified: str
    """When a verification looked at it, empty when none has."""
    whole: bool | None
    """What that found; None when none has."""


@dataclass(frozen=True)
class Listing:
    """wmsctl.backup.list/v1"""

    stanza: str
    running: bool
    repositories: tuple[RepositoryLine, ...]
    archives: tuple[ArchiveLine, ...]
    backups: tuple[BackupLine, ...]


@dataclass(frozen=True)
class Detail:
    """wmsctl.backup.show/v1"""

    backup: BackupLine
    prior: str
    needs: tuple[str, ...]
    """Labels of the backups that a restore reads beside it."""
    needed_by: tuple[str, ...]
    lsn_start: str
    lsn_stop: str
    archive: str
    annotations: dict[str, str]
    version: str
    """Of pgBackRest."""


def line(backup: Backup) -> BackupLine:
    """A backup as it is listed."""
    proof = verification.recall(backup.annotations)
    return BackupLine(
        repo=backup.repo,
        label=backup.label,
        type=backup.type,
        tier=backup.annotations.get("tier", ""),
        source=backup.annotations.get("source", ""),
        started=backup.started,
        stopped=backup.stopped,
        seconds=(backup.stopped - backup.started).total_seconds(),
        size=backup.size,
        copied=backup.delta,
        stored=backup.stored_delta,
        wal_start=backup.wal_start,
        wal_stop=backup.wal_stop,
        damaged=backup.damaged,
        verified=f"{proof.at:%Y-%m-%dT%H:%M:%SZ}" if proof else "",
        whole=proof.whole if proof else None,
    )


def listing(found: Catalogue, repo: int = 0) -> Listing:
    """The document; of one repository with `repo`. Raises what Catalogue.require raises for one that is not there."""
    if repo:
        found.require(repo)
    return Listing(
        stanza=found.stanza,
        running=found.running,
        repositories=tuple(
            RepositoryLine(
                each.key,
                each.cipher,
                each.trouble,
                len(found.of(each.key)),
                sum(backup.stored_delta for backup in found.of(each.key)),
            )
            for each in found.repositories
            if repo in (0, each.key)
        ),
        archives=tuple(
            ArchiveLine(each.repo, each.id, each.first, each.last)
            for each in found.archives
            if repo in (0, each.repo)
        ),
        backups=tuple(line(backup) for backup in found.backups if repo in (0, backup.repo)),
    )


def detail(found: Catalogue, repo: int, label: str) -> Detail:
    """The document of one backup; `latest` is the newest of the repository. Raises Failed when there is none."""
    found.require(repo)
    if label == "latest":
        mine = found.of(repo)
        if not mine:
            raise Failed(f"repo{repo} has no backup yet", hint="make one: wmsctl backup run")
        label = max(mine, key=lambda backup: backup.stopped).label
    backup = found.get(repo, label)
    every = catalogue.index(found.backups)
    return Detail(
        backup=line(backup),
        prior=backup.prior,
        needs=backup.references,
        needed_by=tuple(other.label for other in catalogue.dependents(backup, every)),
        lsn_start=_lsn(backup.lsn_start),
        lsn_stop=_lsn(backup.lsn_stop),
        archive=backup.archive,
        annotations=dict(backup.annotations),
        version=backup.version,
    )


def show_listing(printer: Printer, document: Listing) -> None:
    if document.running:
        printer.text("a backup or an expiry is under way on the node that was asked", "warn")
    if not document.backups:
        printer.text("no backup yet; make one: wmsctl backup run", "warn")
    else:
        rows: list[list[Cell]] = [
            [
                each.repo,
                each.label,
                each.type,
                each.tier or "-",
                f"{each.started:%Y-%m-%d %H:%M:%S}",
                f"{each.seconds:.0f} s",
                size(each.size),
                size(each.stored),
                _state(each),
            ]
            for each in document.backups
        ]
        printer.table(
            ["REPO", "BACKUP", "TYPE", "FOR", "STARTED (UTC)", "TOOK", "DATABASE", "STORED", "STATE"], rows
        )
    for archive in document.archives:
        printer.text(
            f"repo{archive.repo} {archive.id}: WAL {archive.first} to {archive.last}"
            if archive.first
            else f"repo{archive.repo} {archive.id}: no WAL"
        )


def show_detail(printer: Printer, document: Detail) -> None:
    backup = document.backup
    facts: list[tuple[str, str]] = [
        ("backup", f"repo{backup.repo} {backup.label}"),
        ("type", backup.type + (f", for {backup.tier}" if backup.tier else "")),
        ("of", backup.source or "-"),
        ("started", f"{backup.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("stopped", f"{backup.stopped:%Y-%m-%d %H:%M:%S} UTC; it can be restored to from then on"),
        ("database", size(backup.size)),
        ("copied", f"{size(backup.copied)}, stored in {size(backup.stored)}"),
        ("WAL", f"{backup.wal_start} to {backup.wal_stop} ({document.archive})"),
        ("positions", f"{document.lsn_start} to {document.lsn_stop}"),
        ("needs", ", ".join(document.needs) or "nothing"),
        ("needed by", ", ".join(document.needed_by) or "nothing"),
        ("made by", f"pgBackRest {document.version}"),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        printer.text(f"{name.ljust(width)}  {value}")
    state = _state(backup)
    printer.text(f"{'state'.ljust(width)}  {printer.styled(state.text, state.style, printer.stdout)}")


def _state(each: BackupLine) -> Styled:
    if each.damaged:
        return Styled("damaged pages", "bad")
    if each.whole is False:
        return Styled(f"damaged, found {each.verified[:10]}", "bad")
    return Styled(f"verified {each.verified[:10]}", "good") if each.whole else Styled("not verified", "")


def _lsn(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"
