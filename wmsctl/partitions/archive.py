"""Applies the archive of one partition: freeze, carry, detach, export, prove. Each step may be run again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wmsctl.clients.objectstore import ObjectStore
from wmsctl.clients.postgres import Server
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed
from wmsctl.inventory import Inventory, Partitions
from wmsctl.partitions import arrow, database, ddl, export, proof, records
from wmsctl.partitions.ddl import named
from wmsctl.partitions.manifest import Manifest, folder_of
from wmsctl.partitions.observe import SCHEMA
from wmsctl.partitions.plan import Archiving
from wmsctl.partitions.snapshot import Archive, Table
from wmsctl.steps import Steps, moment


@dataclass
class Work:
    """What the steps of one run work with. `connection` holds the lock of the run."""

    connection: Any
    name: str
    """The primary."""
    server: Server
    inventory: Inventory
    partitions: Partitions
    open_store: Callable[[], ObjectStore]
    steps: Steps | None
    """None: what is done changes nothing, and is not journalled."""
    progress: Callable[[str], None]
    deadline: Deadline
    part_bytes: int = export.PART_BYTES
    measured: dict[str, float] = field(default_factory=dict)
    """Seconds by step, of everything that was done in this run."""

    @cached_property
    def store(self) -> ObjectStore:
        """Opened when it is needed: making partitions needs none."""
        return self.open_store()

    def folder(self, table: str, partition: str, archive: str) -> str:
        """Where an archive is in the store."""
        return f"{self.partitions.prefix}/{self.inventory.platform}/{table}/{partition}/{archive}/"

    def step(self, name: str, message: str = "", **detail: Any) -> AbstractContextManager[dict[str, Any]]:
        """A step in the journal; see Steps."""
        assert self.steps is not None
        return self.steps.step(name, message, **detail)

    def took(self, step: str, started: float) -> None:
        self.measured[step] = round(self.measured.get(step, 0.0) + time.monotonic() - started, 3)


def ready(store: ObjectStore, prefix: str) -> None:
    """Refuse to begin what could not be ended: the store takes an object and gives it back, Parquet can be written.

    Raises Usage, Failed, Unreachable; nothing was changed then.
    """
    arrow.library()
    key = f"{prefix}/writable"
    store.put(key, b"1")
    if store.get(key) != b"1":
        raise Failed(f"{store.where} does not give back what it was given")
    store.delete([key])


def apply(work: Work, plan: Archiving, table: Table) -> Manifest:
    """Run the steps; returns the manifest of the proven archive. Raises what the steps raise."""
    connection, name = work.connection, plan.partition
    archive = plan.archive.id if plan.archive else records.identifier(name)
    if plan.archive is None:
        with work.step("record", archive=archive, partition=name):
            records.begin(connection, archive, plan.table, name, plan.period)
    if "freeze" in plan.steps:
        with work.step("freeze", f"freezing {name}", partition=name):
            ddl.freeze(connection, name, work.deadline)
    carried: int | None = None
    if "carry" in plan.steps:
        started = time.monotonic()
        with work.step("carry", f"carrying the balances of {name} forward", partition=name) as facts:
            carried = facts["carried"] = carry(connection, table, plan)
        work.took("carry", started)
    if "detach" in plan.steps:
        started = time.monotonic()
        with work.step("detach", f"detaching {name}", partition=name):
            ddl.detach(connection, plan.table, name, work.deadline)
        work.took("detach", started)
    if "export" in plan.steps:
        return _exported(work, plan, archive, carried)
    assert plan.archive is not None
    return _proven(work, plan, archive, plan.archive.manifest, plan.archive.manifest_sha256)


def carry(connection: Any, table: Table, plan: Archiving) -> int | None:
    """Call the table's own function for what the partition leaves behind; how many balances it says it wrote."""
    from psycopg import sql

    statement = sql.SQL("SELECT {}({})").format(
        named(SCHEMA, table.spec.carry), sql.SQL("{}::date").format(sql.Literal(plan.period.start))
    )
    found = connection.execute(statement).fetchone()
    return int(found[0]) if found and found[0] is not None else None


def _exported(work: Work, plan: Archiving, archive: str, carried: int | None) -> Manifest:
    """Export and prove, part by part at the same time; then the comparison of the whole."""
    name, folder = plan.partition, work.folder(plan.table, plan.partition, archive)
    source = export.Source(
        archive, plan.table, name, plan.key, plan.period.interval, plan.period.lower, plan.period.upper, folder,
        carried,
    )  # fmt: skip
    owner, started = work.partitions.owner, time.monotonic()
    with (
        database.session(work.server, owner, work.deadline, "partitions export") as reader,
        database.session(work.server, owner, work.deadline, "partitions proof") as prover,
    ):
        columns = export.columns_of(reader, name)
        with proof.scratch(prover, work.store, folder, name, columns) as scratch:
            with work.step(
                "export", f"exporting {name} to {folder}", partition=name, archive=archive
            ) as facts:
                manifest, sha256 = export.export(
                    reader, work.inventory, work.store, source, server=work.name, part_bytes=work.part_bytes,
                    written=scratch.add, progress=work.progress,
                )  # fmt: skip
                records.exported(work.connection, archive, f"{folder}manifest.json", sha256, manifest)
                facts.update(rows=manifest.rows, bytes=manifest.bytes, parts=len(manifest.parts))
            work.took("export", started)
            started = time.monotonic()
            with work.step("prove", f"comparing {name} with what the store gives back", partition=name):
                scratch.compare(manifest)
                proof.load(work.store, f"{folder}manifest.json", sha256)
                records.proven(work.connection, archive)
            work.took("prove", started)
    return manifest


def _proven(work: Work, plan: Archiving, archive: str, key: str, sha256: str) -> Manifest:
    """Prove what an earlier run exported. What does not stand the proof is exported again by the next run."""
    name, started = plan.partition, time.monotonic()
    with (
        work.step("prove", f"reading {archive} back from the store", partition=name, archive=archive),
        database.session(work.server, work.partitions.owner, work.deadline, "partitions proof") as prover,
    ):
        try:
            manifest = proof.load(work.store, key, sha256)
            through(prover, work, manifest, folder_of(key), name)
            source = export.fingerprint(prover, named(SCHEMA, name), manifest.row_hash_of)
            if source != (manifest.rows, manifest.row_hash):
                raise Failed(
                    f"{name} is not what was exported: it has {source[0]} rows with the hash {source[1]}"
                )
        except Failed as error:
            records.forget_export(work.connection, archive)
            error.add_note(
                f"{name} is still there, detached; it is exported again by: wmsctl partitions archive {name}"
            )
            raise
        records.proven(work.connection, archive)
    work.took("prove", started)
    return manifest


def through(connection: Any, work: Work, manifest: Manifest, folder: str, like: str) -> None:
    """Load a whole archive into a scratch table with the columns of `like`, and compare. Raises Failed."""
    with proof.scratch(connection, work.store, folder, like, manifest.columns) as scratch:
        for part in manifest.parts:
            scratch.add(part)
            moment(f"prove:{part.number}")
            work.progress(f"  part {part.number} of {len(manifest.parts)} is as it was written")
        scratch.compare(manifest)


def drop(work: Work, known: Archive) -> None:
    """Drop a kept table, after every file of its archive was read once more and the table still is what they hold.

    Raises Failed when anything is wrong with the archive; the table stays then.
    """
    partition = known.partition
    manifest = proof.load(work.store, known.manifest, known.manifest_sha256)
    wrong = proof.files(work.store, folder_of(known.manifest), manifest)
    if wrong:
        raise Failed(
            f"{partition} is not dropped, its archive is not whole: {'; '.join(wrong)}",
            hint=f"bring the table back and archive it again: wmsctl partitions unarchive {partition}",
        )
    if ddl.is_partition(work.connection, partition) is False:
        found = export.fingerprint(work.connection, named(SCHEMA, partition), manifest.row_hash_of)
        if found != (manifest.rows, manifest.row_hash):
            raise Failed(
                f"{partition} is not dropped: it was changed after it was archived",
                hint=f"bring it back and archive it again: wmsctl partitions unarchive {partition}",
            )
    ddl.drop(work.connection, partition, known.id, work.deadline)


def expire(work: Work, known: Archive) -> int:
    """Delete an archive from the store, its manifest first: without it nobody takes the rest for whole. How many
    objects went.
    """
    folder = folder_of(known.manifest)
    if not folder.endswith(f"/{known.id}/"):
        raise Failed(f"{known.manifest} is not the manifest of {known.id}; nothing was deleted")
    found = work.store.list(folder)
    work.store.delete([known.manifest])
    moment("expire:manifest")
    work.store.delete(found)
    records.expired(work.connection, known.id)
    return len(found)
