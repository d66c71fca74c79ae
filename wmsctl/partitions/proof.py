"""The proof of an archive: its files are read back from the store and are what was written, the CSV is loaded into a
scratch table that comes to the same rows as the source, and the Parquet files hold the same values as the CSV.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wmsctl.clients.objectstore import ObjectStore
from wmsctl.errors import Failed
from wmsctl.partitions import arrow, export
from wmsctl.partitions import manifest as m
from wmsctl.partitions.ddl import named
from wmsctl.partitions.manifest import Column, File, Manifest, Part
from wmsctl.partitions.observe import SCHEMA

SCRATCH = "archive_scratch"


def load(store: ObjectStore, key: str, sha256: str) -> Manifest:
    """The manifest at `key`, if it is the one that was recorded. Raises Failed, Unreachable."""
    content = store.get(key)
    if content is None:
        raise Failed(
            f"{key} is not in {store.where}", hint="nothing is dropped without it; see docs/partitions.md"
        )
    if m.digest(content) != sha256:
        raise Failed(
            f"{key} is not what was written: its SHA-256 is {m.digest(content)}, recorded is {sha256}"
        )
    return m.decode(content, key)


def fetch(store: ObjectStore, folder: str, file: File) -> bytes:
    """One file as it was written. Raises Failed naming what is missing or damaged."""
    content = store.get(folder + file.name)
    if content is None:
        raise Failed(f"{folder}{file.name} is missing in {store.where}")
    if len(content) != file.bytes or m.digest(content) != file.sha256:
        raise Failed(
            f"{folder}{file.name} is damaged: {len(content)} bytes with SHA-256 {m.digest(content)[:16]}…,"
            f" written were {file.bytes} with {file.sha256[:16]}…"
        )
    return content


def raw_of(store: ObjectStore, folder: str, part: Part) -> bytes:
    """The CSV of a part. Raises Failed."""
    raw = arrow.decompress(fetch(store, folder, part.csv), part.raw_bytes)
    if m.digest(raw) != part.raw_sha256:
        raise Failed(f"{folder}{part.csv.name} holds other rows than were written")
    return raw


class Scratch:
    """A table of the session's own, gone with it, that the parts are loaded into one after the other."""

    def __init__(self, connection: Any, store: ObjectStore, folder: str, columns: tuple[Column, ...]) -> None:
        self._connection, self._store, self._folder, self._columns = connection, store, folder, columns
        self.rows = 0

    def add(self, part: Part) -> None:
        """Read a part back from the store, compare its Parquet with its CSV, and load the CSV."""
        raw = raw_of(self._store, self._folder, part)
        table = arrow.from_parquet(fetch(self._store, self._folder, part.parquet))
        if not arrow.same(table, arrow.read(raw, self._columns, part.rows)):
            raise Failed(f"{self._folder}{part.parquet.name} does not hold the values of {part.csv.name}")
        copy_in(self._connection, named(SCRATCH), self._columns, raw)
        self.rows += part.rows

    def compare(self, manifest: Manifest) -> None:
        """Raises Failed unless the scratch table comes to the rows of the source."""
        found = export.fingerprint(self._connection, named(SCRATCH), manifest.row_hash_of)
        if found != (manifest.rows, manifest.row_hash):
            raise Failed(
                f"the archive of {manifest.partition} does not come to its rows: it has {found[0]} with the hash"
                f" {found[1]}, the source had {manifest.rows} with {manifest.row_hash}",
                hint="nothing was dropped; archive it again",
            )


@contextmanager
def scratch(
    connection: Any, store: ObjectStore, folder: str, partition: str, columns: tuple[Column, ...]
) -> Iterator[Scratch]:
    """A scratch table with the columns of an archive, as the table `partition` or its parent has them."""
    from psycopg import sql

    connection.execute(
        sql.SQL("CREATE TEMP TABLE {} AS SELECT {} FROM {} LIMIT 0").format(
            named(SCRATCH), sql.SQL(", ").join(named(each.name) for each in columns), named(SCHEMA, partition)
        )
    )
    yield Scratch(connection, store, folder, columns)
    # After an error the session ends, and the table with it.
    connection.execute(sql.SQL("DROP TABLE {}").format(named(SCRATCH)))


def copy_in(
    connection: Any, relation: Any, columns: tuple[Column, ...], raw: bytes, *, freeze: bool = False
) -> None:
    """Load CSV into a table; `freeze`: one that was made in the same transaction, so that no later pass freezes it."""
    from psycopg import sql

    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH ({})").format(
        relation,
        sql.SQL(", ").join(named(each.name) for each in columns),
        sql.SQL(m.CSV_OPTIONS + (", FREEZE" if freeze else "")),
    )
    with connection.cursor().copy(statement) as copy:
        copy.write(raw)


def files(store: ObjectStore, folder: str, manifest: Manifest) -> list[str]:
    """What is wrong with the files of an archive: missing, damaged, or not known to its manifest. Reads all of them."""
    wrong = []
    for file in manifest.files:
        try:
            fetch(store, folder, file)
        except Failed as error:
            wrong.append(error.message)
    known = {folder + file.name for file in manifest.files} | {f"{folder}manifest.json"}
    wrong += [f"{key} is not part of the archive" for key in sorted(set(store.list(folder)) - known)]
    return wrong
