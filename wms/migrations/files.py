"""Migration files and what is to be done with them: reading and deciding, without a database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The history cannot be continued; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number (1, 2, …), its name, its text and the SHA-256 of that, in hex."""

    number: int
    name: str
    sql: str
    checksum: str


def read(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """The migrations in `folder`, by number.

    Raises MigrationError on a misnamed file, a number used twice or a gap.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named NNNN_words_in_lower_case.sql")
        text = path.read_bytes()
        found.append(Migration(int(match[1]), match[2], text.decode(), hashlib.sha256(text).hexdigest()))
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise MigrationError(
                f"{migration.number:04d}_{migration.name}.sql: expected number {expected:04d} here"
            )
    return tuple(found)


@cache
def latest() -> int:
    """The number of the newest migration that this release brings."""
    return read()[-1].number


def pending(files: Sequence[Migration], applied: Mapping[int, str]) -> tuple[Migration, ...]:
    """The files still to be run, given `applied` (number → checksum).

    Raises MigrationError when an applied file has changed or when one is missing in between. A database that
    is ahead of this release (numbers beyond its files) is fine: it was migrated by a newer one.
    """
    for migration in files:
        found = applied.get(migration.number)
        if found is not None and found != migration.checksum:
            raise MigrationError(
                f"{migration.number:04d}_{migration.name}.sql has changed since it was applied "
                f"(applied {found[:12]}, file {migration.checksum[:12]}): "
                "restore it and write a new migration instead"
            )
    todo = tuple(migration for migration in files if migration.number not in applied)
    if todo and applied and todo[0].number < max(applied):
        raise MigrationError(
            f"{todo[0].number:04d}_{todo[0].name}.sql was never applied, although {max(applied):04d} was: "
            "number it after the last one"
        )
    return todo
