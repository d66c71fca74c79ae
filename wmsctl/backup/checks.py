"""Verifies repositories: every checksum, every manifest, the WAL behind every backup; and remembers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from wmsctl.backup import verification, wal
from wmsctl.backup.catalogue import Backup
from wmsctl.backup.engine import Engine
from wmsctl.backup.observe import Seen, chain_of, look
from wmsctl.backup.verification import Files, Finding, Report
from wmsctl.backup.wal import Archive, Follower, Segment


@dataclass(frozen=True)
class ArchiveFinding:
    """The WAL of one archive."""

    repo: int
    id: str
    checked: int
    first: str
    last: str
    stored: datetime | None
    """When the last one was stored."""
    timeline: int
    troubles: tuple[str, ...]


@dataclass(frozen=True)
class Verified:
    """One verification."""

    backups: tuple[Finding, ...]
    archives: tuple[ArchiveFinding, ...]
    unreadable: tuple[str, ...]
    """Repositories that could not be verified, and why."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """All that is wrong, worst first."""
        return (
            *(f"{f.backup.name} is damaged: {trouble}" for f in self.backups for trouble in f.troubles),
            *(f"{f.backup.name}: {warning}" for f in self.backups for warning in f.warnings),
            *(f"repo{a.repo} {a.id}: {trouble}" for a in self.archives for trouble in a.troubles),
        )


def verify(
    engine: Engine,
    repos: Iterable[int],
    since: Callable[[Seen], dict[int, str]],
    progress: Callable[[str], None],
    *,
    segment_bytes: int = wal.SEGMENT_BYTES,
) -> Verified:
    """Read all of the repositories `repos`.

    `since`: repository → label of the backup from which on WAL must be unbroken up to the newest segment. Older
    backups need only what makes them consistent, for the rest has expired.
    """
    before = look(engine, segment_bytes=segment_bytes)
    reports: dict[int, Report] = {}
    unreadable: list[str] = []
    for repo in repos:
        trouble = next(
            (r.trouble for r in before.catalogue.repositories if r.key == repo), "it is not configured"
        )
        if trouble:
            unreadable.append(f"repo{repo}: {trouble}")
            continue
        progress(f"verifying repo{repo}: every file of {len(before.catalogue.of(repo))} backups, and its WAL")
        reports[repo] = engine.verify(repo)
    # Reading all took a while: what went or came meanwhile is not judged.
    after = look(engine, segment_bytes=segment_bytes)
    known = {backup.key for backup in before.catalogue.backups}
    floors = since(after)
    archives = {
        (repo, name): Follower(_intact(follower.archive, reports[repo].archives.get(name)))
        for (repo, name), follower in after.archives.items()
        if repo in reports
    }
    findings = [
        _judge(engine, backup, reports[backup.repo], archives, floors, segment_bytes)
        for backup in after.catalogue.backups
        if backup.repo in reports and backup.key in known
    ]
    return Verified(
        tuple(findings),
        tuple(
            _archive(repo, name, after, reports[repo].archives.get(name), archives[repo, name], findings)
            for repo, name in sorted(archives)
        ),
        tuple(unreadable),
    )


def remember(engine: Engine, findings: Iterable[Finding], at: datetime) -> int:
    """Write each result into the repository; how many were written."""
    count = 0
    for finding in findings:
        if finding.state != "unknown":
            value = verification.remember(finding, at)
            engine.annotate(finding.backup.repo, finding.backup.label, {verification.ANNOTATION: value})
            count += 1
    return count


def damaged_segments(files: Files | None, segment_bytes: int) -> frozenset[Segment]:
    """The segments that a verification named as damaged."""
    found: set[Segment] = set()
    for text in files.damaged if files else ():
        for word in text.replace("(", " ").split():
            if match := wal.SEGMENT.match(word.rsplit("/", 1)[-1]):
                found.add(wal.segment(match[1], segment_bytes))
    return frozenset(found)


def _intact(archive: Archive, files: Files | None) -> Archive:
    """The archive without what cannot be replayed."""
    bad = damaged_segments(files, archive.segment_bytes)
    return replace(archive, segments={s: at for s, at in archive.segments.items() if s not in bad})


def _judge(
    engine: Engine,
    backup: Backup,
    report: Report,
    archives: dict[tuple[int, str], Follower],
    floors: dict[int, str],
    segment_bytes: int,
) -> Finding:
    manifest = engine.manifest(backup.repo, backup.label)
    chain = chain_of(backup, archives, segment_bytes, lambda: manifest.wal_copies)
    found = verification.judge(backup, report.backups.get(backup.label), manifest, chain)
    floor = floors.get(backup.repo)
    if floor is None or backup.label < floor:
        # Its WAL ends where it was let go.
        return replace(found, gaps=())
    return found


def _archive(
    repo: int, name: str, seen: Seen, files: Files | None, intact: Follower, findings: list[Finding]
) -> ArchiveFinding:
    """The troubles of one archive: what is damaged, what is missing behind a backup that is to be carried on."""
    troubles = list(intact.troubles)
    if files is not None and not files.intact and files.checked:
        troubles.append(files.trouble)
    gaps = dict.fromkeys(
        gap for f in findings if (f.backup.repo, f.backup.archive) == (repo, name) for gap in f.gaps
    )
    troubles += [str(gap) for gap in gaps]
    follower = seen.archives[repo, name]
    stored = sorted(follower.archive.segments)
    end = follower.end()
    return ArchiveFinding(
        repo,
        name,
        files.checked if files else 0,
        follower.archive.name(stored[0]) if stored else "",
        follower.archive.name(end) if end else "",
        follower.archive.segments.get(end) if end else None,
        follower.timeline,
        tuple(troubles),
    )
