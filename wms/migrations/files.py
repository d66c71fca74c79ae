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
OUTSIDE = "-- migrate: no transaction"
"""The first line of a file whose statements run outside a transaction, one by one."""
_EACH = "-- migrate: each"
_END = re.compile(r";[ \t]*$", re.MULTILINE)
_INDEX = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(\S+)\s+ON\b", re.IGNORECASE)


class MigrationError(Exception):
    """The history cannot be continued; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number (1, 2, …), its name, its text and the SHA-256 of that, in hex."""

    number: int
    name: str
    sql: str
    checksum: str

    @property
    def outside(self) -> bool:
        """Whether it runs outside a transaction."""
        return self.sql.partition("\n")[0].strip() == OUTSIDE


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a file that runs outside a transaction; `each`: it gives the statements to run, a row each."""

    sql: str
    each: bool = False


def statements(migration: Migration) -> tuple[Statement, ...]:
    """The statements of a file that runs outside a transaction; each ends with a semicolon at the end of a line.

    Raises MigrationError for a statement without an end, and for CREATE INDEX CONCURRENTLY in a form that could not
    be repeated: without a name, or with IF NOT EXISTS, which takes an invalid index for a good one.
    """
    found = []
    *parts, rest = _END.split(migration.sql)
    for part in parts:
        lines = [line for line in part.splitlines() if line.strip()]
        text = "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip()
        each = any(line.strip() == _EACH for line in lines)
        if re.match(r"CREATE\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY", text, re.IGNORECASE) and not index_of(text):
            raise MigrationError(
                f"{migration.number:04d}_{migration.name}.sql: CREATE INDEX CONCURRENTLY needs a name, and no "
                "IF NOT EXISTS: the runner looks by itself"
            )
        found.append(Statement(text, each))
    if any(line.strip() and not line.lstrip().startswith("--") for line in rest.splitlines()):
        raise MigrationError(
            f"{migration.number:04d}_{migration.name}.sql: the last statement has no semicolon at the end of its line"
        )
    return tuple(found)


def index_of(statement: str) -> str | None:
    """The name of the index that a CREATE INDEX CONCURRENTLY builds, as written; None for other statements."""
    match = _INDEX.match(statement.lstrip())
    return match[1] if match else None


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
