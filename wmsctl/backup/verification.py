"""What was verified, and what that found: pure.

pgBackRest 2.45 ends `verify` with exit code 0 whatever it finds, so its text is read; a line that is not understood is
an error, for it may be the one that matters. What was found is remembered as an annotation of the backup, in the
repository itself, so that it is known to everybody and goes with the backup:

    verified = whole 2026-11-24T13:40:02Z sha256:… 964 files
    verified = damaged 2026-11-24T13:40:02Z sha256:… invalid checksum: pg_data/base/1/1249.zst
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from wmsctl.backup.catalogue import Backup, printable
from wmsctl.backup.wal import Chain, Gap
from wmsctl.errors import Failed

ANNOTATION = "verified"
LIMIT = 160
"""Characters of a reason that is remembered."""

_HEAD = re.compile(r"stanza: (?P<stanza>\S+)\Z")
_STATUS = re.compile(r"status: (?P<status>ok|error)\Z")
_ARCHIVE = re.compile(
    r"  archiveId: (?P<id>\S+), total WAL checked: (?P<checked>\d+), total valid WAL: (?P<valid>\d+)\Z"
)
_BACKUP = re.compile(
    r"  backup: (?P<label>\S+), status: (?P<status>valid|invalid|manifest missing|in-progress),"
    r" total files checked: (?P<checked>\d+), total valid files: (?P<valid>\d+)\Z"
)
_COUNTS = re.compile(
    r"    missing: (?P<missing>\d+), checksum invalid: (?P<checksum>\d+),"
    r" size invalid: (?P<size>\d+), other: (?P<other>\d+)\Z"
)
_NOTHING = re.compile(
    r"  (?:archiveId: none found|backup: none found|  no archives or backups exist in the repo)\Z"
)
_FILE = re.compile(r"(?P<what>file missing|invalid checksum|invalid size) '(?P<file>[^']+)'")
_OTHER = re.compile(r"(?P<what>invalid result) (?P<file>\S+): (?P<why>.*)")


Status = Literal["valid", "invalid", "manifest missing", "in-progress"]


class VerificationError(Failed):
    """What pgBackRest printed is not what its version 2.45 prints."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the checksums of one backup's, or one archive's, files say."""

    name: str
    status: Status
    checked: int
    valid: int
    damaged: tuple[str, ...] = ()
    """The files, each with what is wrong with it, as far as pgBackRest named them."""

    @property
    def intact(self) -> bool:
        return self.status == "valid" and self.checked == self.valid and self.checked > 0

    @property
    def trouble(self) -> str:
        """What is wrong in a few words; empty when all is well."""
        if self.intact:
            return ""
        if self.status == "manifest missing":
            return "its manifest is missing"
        if self.status == "in-progress":
            return "it is still being made"
        if self.checked == 0:
            return "its manifest cannot be read"
        named = self.damaged[0] if self.damaged else "pgBackRest did not name them"
        count = self.checked - self.valid
        return f"{count} of {self.checked} files are damaged or missing: {named}"


@dataclass(frozen=True)
class Report:
    """One run of `pgbackrest verify` over one repository."""

    backups: Mapping[str, Files]
    archives: Mapping[str, Files]


def parse(output: str, log: str, stanza: str) -> Report:
    """Read what `pgbackrest verify --output=text --verbose` printed on standard output, and its log.

    Raises VerificationError for text that is none of its, and when it could not begin (no usable info file).
    """
    lines = output.rstrip("\n").split("\n")
    head = _HEAD.match(lines[0]) if lines else None
    status = _STATUS.match(lines[1]) if len(lines) > 1 else None
    if head is None or status is None or head["stanza"] != stanza:
        said = printable(output or log) or "nothing"
        raise VerificationError(f"pgbackrest verify of stanza {stanza} printed no report: {said}")
    named = _named(log)
    backups: dict[str, Files] = {}
    archives: dict[str, Files] = {}
    for line in lines[2:]:
        if found := _BACKUP.match(line):
            label = found["label"]
            files = tuple(text for where, text in named if where.split("/")[0] in (label, *_parents(label)))
            state = cast(Status, found["status"])
            backups[label] = Files(label, state, int(found["checked"]), int(found["valid"]), files)
        elif found := _ARCHIVE.match(line):
            checked, valid = int(found["checked"]), int(found["valid"])
            files = tuple(text for where, text in named if where.split("/")[0] == found["id"])
            archives[found["id"]] = Files(
                found["id"], "valid" if checked == valid else "invalid", checked, valid, files
            )
        elif line.startswith("  No usable "):
            what = line.strip().removeprefix("No usable ").removesuffix(" file")
            raise VerificationError(
                f"the repository cannot be verified: neither {what} nor its copy can be read",
                hint="wrong passphrase, wrong bucket, or both files are damaged: wmsctl backup list",
            )
        elif not _COUNTS.match(line) and not _NOTHING.match(line):
            raise VerificationError(
                f"pgbackrest verify printed a line that is not known: {printable(line)!r}"
            )
    parts = [*backups.values(), *archives.values()]
    sound = all(
        part.intact or part.status == "in-progress" or part.checked == 0 == part.valid for part in parts
    )
    if status["status"] == "error" and sound and all(part.status == "valid" for part in parts):
        raise VerificationError(
            f"pgbackrest verify found an error and did not say where: {printable(log) or 'its log is empty'}"
        )
    return Report(backups, archives)


def _named(log: str) -> list[tuple[str, str]]:
    """[(path, what is wrong with it)] of every file that the log names."""
    found = [(m["file"], f"{m['what']}: {m['file']}") for m in _FILE.finditer(log)]
    return found + [
        (m["file"], f"unreadable: {m['file']} ({printable(m['why'], 80)})") for m in _OTHER.finditer(log)
    ]


def _parents(label: str) -> tuple[str, ...]:
    """The full backup whose label a dependent one begins with: its files are told under that."""
    return (label.split("_")[0],) if "_" in label else ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a backup's manifest, which lists its files and their checksums."""

    sha256: str
    """Of the manifest as it is read; empty when it cannot be read."""
    wal_copies: int = 0
    """WAL segments inside the backup (--archive-copy)."""
    trouble: str = ""
    """What is wrong with the manifest or with its copy."""

    @property
    def readable(self) -> bool:
        return bool(self.sha256)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one backup."""

    backup: Backup
    state: Literal["whole", "damaged", "unknown"]
    files: int
    sha256: str
    troubles: tuple[str, ...]
    """Why it is damaged."""
    gaps: tuple[Gap, ...]
    """Of the WAL behind it: it can be restored to its own end and up to the first of them."""
    warnings: tuple[str, ...]
    """Damage that does not keep it from being restored, such as one of the two copies of its manifest."""
    notes: tuple[str, ...]
    """What is worth knowing and no damage."""
    until: datetime | None
    """How far WAL carries it; None when it is a point."""


def judge(backup: Backup, files: Files | None, manifest: Manifest, chain: Chain | None) -> Finding:
    """Put together what the checksums, the manifest and the WAL say of one backup.

    `chain` is None for a backup of a stopped server, which needs no WAL.
    """
    troubles: list[str] = []
    warnings: list[str] = []
    notes: list[str] = []
    gaps: tuple[Gap, ...] = ()
    if files is None:
        troubles.append("pgBackRest did not look at it: it is not in the repository")
    elif files.trouble and (files.checked or manifest.readable):
        troubles.append(files.trouble)
    if manifest.trouble:
        # One copy is enough to restore from.
        (warnings if manifest.readable else troubles).append(manifest.trouble)
    if backup.damaged:
        troubles.append("pages with wrong checksums were copied from the database")
    until = None
    if chain is not None:
        if not chain.consistent:
            troubles += [f"it cannot be made consistent: {gap}" for gap in chain.gaps[:1]]
        else:
            until = chain.until
            gaps = chain.gaps
        if chain.abandoned:
            notes.append("it is on a timeline that was left: WAL carries it to that timeline's end")
    in_progress = files is not None and files.status == "in-progress"
    return Finding(
        backup=backup,
        state="unknown" if in_progress else "damaged" if troubles else "whole",
        files=files.checked if files else 0,
        sha256=manifest.sha256,
        troubles=tuple(troubles),
        gaps=gaps,
        warnings=tuple(warnings),
        notes=tuple(notes),
        until=until,
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """What is remembered of a verification."""

    whole: bool
    at: datetime
    sha256: str
    detail: str
    """How many files, or what is wrong."""


def remember(finding: Finding, at: datetime) -> str:
    """The annotation's value. Raises ValueError for a finding that is none."""
    if finding.state == "unknown":
        raise ValueError("what is not known is not remembered")
    detail = f"{finding.files} files" if finding.state == "whole" else finding.troubles[0]
    # pgBackRest keeps one line.
    text = printable(detail, LIMIT)
    return f"{finding.state} {at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} sha256:{finding.sha256 or '-'} {text}"


_REMEMBERED = re.compile(
    r"(?P<state>whole|damaged) (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) sha256:(?P<sha>[0-9a-f]{64}|-) (?P<detail>.*)\Z"
)


def recall(annotations: Mapping[str, str]) -> Proof | None:
    """What the annotations of a backup tell; None when it was never verified, or not in words of ours."""
    found = _REMEMBERED.match(annotations.get(ANNOTATION, ""))
    if found is None:
        return None
    at = datetime.strptime(found["at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return Proof(found["state"] == "whole", at, found["sha"].replace("-", ""), found["detail"])


def still_valid(proof: Proof, manifest: Manifest) -> bool:
    """Whether a proof is of the backup as it is now: its manifest, and so every checksum in it, is the same."""
    return proof.whole and manifest.readable and proof.sha256 == manifest.sha256


def worst(findings: Sequence[Finding]) -> Literal["whole", "damaged", "unknown"]:
    """The state of all of them together."""
    states = {finding.state for finding in findings}
    return "damaged" if "damaged" in states else "unknown" if "unknown" in states or not states else "whole"
