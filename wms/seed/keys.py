"""An API key per tenant of the sample data, and the file that holds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from psycopg import Connection

from wms.store.keys import hash_of, new_key


class TenantKey(msgspec.Struct):
    """One entry of the keys file."""

    tenant_id: int
    name: str
    api_key: str
    warehouses: list[int]


def ensure_keys(
    connection: Connection[Any], tenants: dict[int, str], known: Sequence[TenantKey]
) -> list[TenantKey]:
    """A valid key named "seed" for each tenant: the one from `known` where it still opens, else a new one,
    which revokes the former. Raises psycopg.Error.
    """
    keys = []
    held = {entry.tenant_id: entry.api_key for entry in known}
    with connection.transaction():
        for tenant_id, name in tenants.items():
            key = held.get(tenant_id, "")
            row = connection.execute("SELECT tenant_of_api_key(%s)", (hash_of(key),)).fetchone()
            if row is None or row[0] != tenant_id:
                key = new_key()
                connection.execute(
                    "UPDATE api_keys SET revoked_at = now() "
                    "WHERE tenant_id = %s AND name = 'seed' AND revoked_at IS NULL",
                    (tenant_id,),
                )
                connection.execute(
                    "INSERT INTO api_keys (tenant_id, key_hash, name, role, tier) "
                    "VALUES (%s, %s, 'seed', 'administrator', 'premium')",
                    (tenant_id, hash_of(key)),
                )
            # Sample data is there to be tried and measured: not at the pace of a new customer.
            connection.execute(
                "UPDATE api_keys SET tier = 'premium' WHERE key_hash = %s AND tier <> 'premium'",
                (hash_of(key),),
            )
            rows = connection.execute(
                "SELECT warehouse_id FROM warehouses WHERE tenant_id = %s ORDER BY code", (tenant_id,)
            ).fetchall()
            keys.append(TenantKey(tenant_id, name, key, [row[0] for row in rows]))
    return keys


def read_keys(path: Path) -> list[TenantKey]:
    """The keys file at `path`, empty when there is none. Raises ValueError when it is something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[TenantKey])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is not a keys file ({error}): move it away or name another one") from error


def write_keys(path: Path, keys: list[TenantKey]) -> None:
    """Write the keys file, readable by its owner only, in one step. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n")
    temporary.replace(path)
