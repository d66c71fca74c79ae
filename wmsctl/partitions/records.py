"""ops.partition_archives: what became of each archive, in the database that it came from."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from wmsctl.clients.postgres import rows
from wmsctl.errors import Failed
from wmsctl.partitions.manifest import Manifest
from wmsctl.partitions.periods import Period


def identifier(partition: str) -> str:
    """A new id, which sorts by time: two archives of one partition never share a folder of the store."""
    return f"{partition}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def begin(connection: Any, archive: str, table: str, partition: str, period: Period) -> None:
    """Record that the archive of a partition begins."""
    connection.execute(
        "INSERT INTO ops.partition_archives (archive, table_name, partition, lower_bound, upper_bound)"
        " VALUES (%s, %s, %s, %s, %s)",
        (archive, table, partition, period.lower, period.upper),
    )


def exported(connection: Any, archive: str, key: str, sha256: str, manifest: Manifest) -> None:
    """Record that everything is in the store, not yet proven."""
    _changed(
        connection,
        "UPDATE ops.partition_archives SET manifest = %s, manifest_sha256 = %s, rows = %s, bytes = %s"
        " WHERE archive = %s AND state = 'open'",
        (key, sha256, manifest.rows, manifest.bytes, archive),
        archive,
    )


def forget_export(connection: Any, archive: str) -> None:
    """Record that what is in the store is of no use: it is to be exported again."""
    _changed(
        connection,
        "UPDATE ops.partition_archives SET manifest = '', manifest_sha256 = '', rows = NULL, bytes = NULL"
        " WHERE archive = %s AND state = 'open'",
        (archive,),
        archive,
    )


def proven(connection: Any, archive: str) -> None:
    """Record that it was read back and compared: from now on the table is only kept."""
    _changed(
        connection,
        "UPDATE ops.partition_archives SET state = 'proven', proven_at = now() WHERE archive = %s AND state = 'open'",
        (archive,),
        archive,
    )


def restored(connection: Any, archive: str) -> None:
    """Record that the partition is attached again; in the transaction that attaches it."""
    _changed(
        connection,
        "UPDATE ops.partition_archives SET state = 'restored', restored_at = now()"
        " WHERE archive = %s AND state IN ('open', 'proven', 'dropped')",
        (archive,),
        archive,
    )


def expired(connection: Any, archive: str) -> None:
    """Record that it is not in the store any more."""
    _changed(
        connection,
        "UPDATE ops.partition_archives SET state = 'expired', expired_at = now()"
        " WHERE archive = %s AND state IN ('dropped', 'restored')",
        (archive,),
        archive,
    )


def state(connection: Any, archive: str) -> str:
    """The state as it is now; empty when there is no such archive."""
    found = rows(connection, "SELECT state FROM ops.partition_archives WHERE archive = %s", (archive,))
    return str(found[0][0]) if found else ""


def _changed(connection: Any, statement: str, parameters: tuple[Any, ...], archive: str) -> None:
    if connection.execute(statement, parameters).rowcount != 1:
        raise Failed(
            f"the record of {archive} is {state(connection, archive) or 'not there'} and was not changed",
            hint="see: wmsctl partitions status",
        )
