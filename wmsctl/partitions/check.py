"""`wmsctl partitions verify`: archives against the store, and the record against both. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from wmsctl.errors import Failed
from wmsctl.partitions import archive as archiving
from wmsctl.partitions import database, proof
from wmsctl.partitions.archive import Work
from wmsctl.partitions.manifest import folder_of
from wmsctl.partitions.snapshot import Archive, Snapshot


@dataclass(frozen=True)
class Finding:
    """What one archive was found to be."""

    archive: str
    table: str
    partition: str
    state: str
    whole: bool
    troubles: tuple[str, ...]
    rows: int | None
    bytes: int | None
    files: int | None
    loaded: bool
    """It was also loaded into a scratch table and compared."""


def chosen(snapshot: Snapshot, partition: str) -> tuple[Archive, ...]:
    """The archives with something in the store, of one partition or all, oldest period first."""
    return tuple(
        each
        for table in snapshot.tables
        for each in reversed(table.archives)
        if each.manifest and each.state != "expired" and partition in ("", each.partition)
    )


def verify(work: Work, known: Archive, *, load: bool) -> Finding:
    """Read every file of an archive and compare it with the manifest, and that with the record; with `load` also the
    rows. Raises Unreachable: a store that is away is no damage.
    """
    work.progress(f"verifying {known.id}")
    folder, troubles = folder_of(known.manifest), []
    rows = size = count = None
    loaded = False
    try:
        manifest = proof.load(work.store, known.manifest, known.manifest_sha256)
        rows, size, count = manifest.rows, manifest.bytes, len(manifest.files)
        troubles = proof.files(work.store, folder, manifest)
        if (manifest.archive, manifest.partition, manifest.rows) != (known.id, known.partition, known.rows):
            troubles.append(f"the manifest is that of {manifest.archive}")
        if load and not troubles:
            with database.session(
                work.server, work.partitions.owner, work.deadline, "partitions verify"
            ) as connection:
                archiving.through(connection, work, manifest, folder, known.table)
            loaded = True
    except Failed as error:
        troubles.append(error.message)
    return Finding(
        known.id,
        known.table,
        known.partition,
        known.state,
        not troubles,
        tuple(troubles),
        rows,
        size,
        count,
        loaded,
    )


def strangers(work: Work, snapshot: Snapshot) -> tuple[str, ...]:
    """Folders of archives in the store that no record tells of: what a killed export left, or another database's."""
    known = {each.id for table in snapshot.tables for each in table.archives}
    root = f"{work.partitions.prefix}/{work.inventory.platform}/"
    found = {key.removeprefix(root).split("/")[2] for key in work.store.list(root) if key.count("/") >= 5}
    return tuple(sorted(found - known))
