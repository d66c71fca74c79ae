"""Sample data: `python -m wms.seed --tenants 2 --warehouses 2 --skus 500 --seed 1 [--keys-out FILE]`.

The same numbers give the same data (times are relative to now), and a second run adds only what is missing:
larger numbers extend what is there. Every opening balance has its receipt in the ledger, so the ledger sums
to the stock from the start. API keys are random whatever the seed, and exist only in the file (mode 0600) or
on the terminal they were written to.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psycopg
from psycopg import Connection

from wms.migrations import runner
from wms.settings import SettingsError, load_owner
from wms.store.keys import hash_of

HISTORY_DAYS = 45
"""Opening receipts are spread over so many days before now."""

# fmt: off
_THINGS = (
    "Parafuso", "Rolamento", "Correia", "Filtro de óleo", "Pastilha de freio", "Lâmpada", "Cabo elétrico",
    "Disjuntor", "Tinta acrílica", "Luva de proteção", "Caixa de papelão", "Fita adesiva", "Mangueira",
    "Válvula", "Sensor de pressão", "Chave de fenda", "Furadeira", "Bateria", "Pneu", "Amortecedor",
)
_QUALITIES = (
    "aço inox", "reforçado", "compacto", "industrial", "leve", "alta pressão", "automotivo", "econômico",
    "profissional", "resistente à água",
)
# fmt: on
_CITIES = (
    "São Paulo",
    "Recife",
    "Curitiba",
    "Belo Horizonte",
    "Porto Alegre",
    "Salvador",
    "Fortaleza",
    "Manaus",
)

_STAGE = """
CREATE TEMPORARY TABLE stage_skus (code text, name text) ON COMMIT DROP;
CREATE TEMPORARY TABLE stage_locations
    (warehouse text, code text, aisle text, level integer, position integer) ON COMMIT DROP;
CREATE TEMPORARY TABLE stage_balances
    (warehouse text, sku text, location text, on_hand bigint, received_at timestamptz) ON COMMIT DROP;
"""

_MERGE_SKUS = """
INSERT INTO skus (tenant_id, code, name) SELECT %(tenant)s, code, name FROM stage_skus ON CONFLICT DO NOTHING
"""
_MERGE_LOCATIONS = """
INSERT INTO locations (tenant_id, warehouse_id, code, aisle, level, position)
SELECT w.tenant_id, w.warehouse_id, s.code, s.aisle, s.level, s.position
FROM stage_locations s JOIN warehouses w ON w.tenant_id = %(tenant)s AND w.code = s.warehouse
ON CONFLICT DO NOTHING
"""
# Only a balance that this run created gets a receipt: the rest has a history already.
_MERGE_BALANCES = """
WITH staged AS (
    SELECT k.tenant_id, w.warehouse_id, k.sku_id, l.location_id, s.on_hand, s.received_at
    FROM stage_balances s
    JOIN warehouses w ON w.tenant_id = %(tenant)s AND w.code = s.warehouse
    JOIN skus k ON k.tenant_id = w.tenant_id AND k.code = s.sku
    JOIN locations l ON l.tenant_id = w.tenant_id AND l.warehouse_id = w.warehouse_id AND l.code = s.location
), made AS (
    INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand, updated_at)
    SELECT tenant_id, warehouse_id, sku_id, location_id, on_hand, received_at FROM staged
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, warehouse_id, sku_id, location_id, on_hand, updated_at
)
INSERT INTO inventory_transactions
    (tenant_id, warehouse_id, sku_id, kind, to_location_id, quantity, created_at, reference)
SELECT tenant_id, warehouse_id, sku_id, 'receipt', location_id, on_hand, updated_at, 'opening stock'
FROM made ORDER BY updated_at
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much: warehouses per tenant, SKUs per tenant; `seed` chooses which data."""

    tenants: int
    warehouses: int
    skus: int
    seed: int


class TenantKey(msgspec.Struct):
    """One entry of the keys file."""

    tenant_id: int
    name: str
    api_key: str
    warehouses: list[int]


def sku_code(number: int) -> str:
    """The code of the SKU number 1, 2, …"""
    return f"SKU-{number:06d}"


def skus(size: Size, tenant: int) -> Iterator[tuple[str, str]]:
    """(code, Portuguese name) of every SKU of a tenant."""
    for number in range(1, size.skus + 1):
        random = Random(f"{size.seed}:{tenant}:sku:{number}")
        yield (
            sku_code(number),
            f"{random.choice(_THINGS)} {random.choice(_QUALITIES)} {random.randint(1, 500)} mm",
        )


def location(number: int) -> tuple[str, str, int, int]:
    """(code, aisle, level, position) of location 0, 1, …: 50 positions of 4 levels make an aisle."""
    aisle, rest = divmod(number, 200)
    level, position = divmod(rest, 50)
    letters = chr(ord("A") + aisle % 26) + (str(aisle // 26) if aisle >= 26 else "")
    return f"{letters}-{level + 1}-{position + 1}", letters, level + 1, position + 1


def balances(
    size: Size, tenant: int, warehouse: int, until: datetime
) -> Iterator[tuple[str, str, int, datetime]]:
    """(SKU, location, units, received at) of one warehouse: one or two locations per SKU."""
    for number in range(1, size.skus + 1):
        random = Random(f"{size.seed}:{tenant}:{warehouse}:balance:{number}")
        own = (number - 1) // 2 % location_count(size)
        for place in sorted({own, own // 2} if random.random() < 0.5 else {own}):
            # Few SKUs make most of the stock, as ABC classes have it.
            units = int(10 + 1000 * random.paretovariate(1.2)) % 100_000 + 1
            received = until - timedelta(seconds=random.randint(0, HISTORY_DAYS * 86_400))
            yield sku_code(number), location(place)[0], units, received


def location_count(size: Size) -> int:
    """Locations per warehouse: one for two SKUs, at least an aisle."""
    return min(20_000, max(200, (size.skus + 1) // 2))


def load(connection: Connection[Any], size: Size) -> dict[int, str]:
    """Load everything, one transaction per tenant; returns tenant id → name. Progress goes to stderr.

    Raises psycopg.Error; what earlier tenants got stays, and the next run goes on from there.
    """
    until = datetime.now(UTC)
    loaded = {}
    with connection.transaction():
        connection.execute(
            "SELECT ensure_transaction_partitions(%s::date, 3)",
            ((until - timedelta(days=HISTORY_DAYS)).date(),),
        )
    for tenant in range(1, size.tenants + 1):
        started = time.monotonic()
        name = f"tenant-{tenant:03d}"
        with connection.transaction():
            connection.execute("INSERT INTO tenants (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
            tenant_id = _one(connection, "SELECT tenant_id FROM tenants WHERE name = %s", (name,))
            rows = _load_tenant(connection, size, tenant, tenant_id, until)
        loaded[tenant_id] = name
        seconds = time.monotonic() - started
        _say(f"{name}: {rows} new balances with their receipts, {seconds:.1f} s ({tenant}/{size.tenants})")
    return loaded


def _load_tenant(
    connection: Connection[Any], size: Size, tenant: int, tenant_id: int, until: datetime
) -> int:
    codes = [f"wh{number:03d}" for number in range(1, size.warehouses + 1)]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO warehouses (tenant_id, code, name) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [(tenant_id, code, f"CD {_CITIES[i % len(_CITIES)]}") for i, code in enumerate(codes)],
        )
        cursor.execute(_STAGE)
        _copy(cursor, "stage_skus", skus(size, tenant))
        places = [location(number) for number in range(location_count(size))]
        _copy(cursor, "stage_locations", ((code, *place) for code in codes for place in places))
        _copy(
            cursor,
            "stage_balances",
            ((code, *row) for i, code in enumerate(codes) for row in balances(size, tenant, i, until)),
        )
        cursor.execute("ANALYZE stage_skus; ANALYZE stage_locations; ANALYZE stage_balances")
        for statement in (_MERGE_SKUS, _MERGE_LOCATIONS, _MERGE_BALANCES):
            cursor.execute(statement, {"tenant": tenant_id})
        return cursor.rowcount


def _copy(cursor: psycopg.Cursor[Any], table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with cursor.copy(psycopg.sql.SQL("COPY {} FROM STDIN").format(psycopg.sql.Identifier(table))) as copy:
        for row in rows:
            copy.write_row(row)


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
            if _one(connection, "SELECT tenant_of_api_key(%s)", (hash_of(key),)) != tenant_id:
                key = "wms_" + secrets.token_urlsafe(32)
                connection.execute(
                    "UPDATE api_keys SET revoked_at = now() "
                    "WHERE tenant_id = %s AND name = 'seed' AND revoked_at IS NULL",
                    (tenant_id,),
                )
                connection.execute(
                    "INSERT INTO api_keys (tenant_id, key_hash, name) VALUES (%s, %s, 'seed')",
                    (tenant_id, hash_of(key)),
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


def _one(connection: Connection[Any], statement: str, parameters: tuple[Any, ...]) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    return row[0] if row else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command; exit code 0 done, 1 failed, 2 wrong usage or settings, 4 database out of reach."""
    parser = argparse.ArgumentParser(prog="python -m wms.seed", description="Load sample data (repeatable).")
    for name, default, highest in (("tenants", 2, 999), ("warehouses", 2, 999), ("skus", 500, 999_999)):
        parser.add_argument(
            f"--{name}", type=_bounded(1, highest), default=default, help=f"1 to {highest}, {default}"
        )
    parser.add_argument("--seed", type=_bounded(0, 2**31), default=1, help="chooses the data (1)")
    parser.add_argument(
        "--keys-out", metavar="FILE", help="write an API key per tenant there (mode 0600); - prints"
    )
    arguments = parser.parse_args()
    size = Size(arguments.tenants, arguments.warehouses, arguments.skus, arguments.seed)
    target = arguments.keys_out
    try:
        settings = load_owner(os.environ)
        known = read_keys(Path(target)) if target and target != "-" else []
        with runner.connect(settings, "wms-seed") as connection:
            connection.autocommit = True
            tenants = load(connection, size)
            connection.execute(
                "ANALYZE tenants, warehouses, skus, locations, inventory_master, inventory_transactions"
            )
            keys = ensure_keys(connection, tenants, known) if target else []
        if target == "-":
            print(msgspec.json.encode(keys).decode())
        elif target:
            write_keys(Path(target), keys)
    except SettingsError as error:
        _say(f"wms.seed: wrong settings:\n{error}")
        return 2
    except psycopg.errors.UndefinedTable:
        _say("wms.seed: the schema is missing; first run: python -m wms.migrations up")
        return 1
    except psycopg.errors.UndefinedFunction:
        _say("wms.seed: the schema is older than this release; first run: python -m wms.migrations up")
        return 1
    except psycopg.OperationalError as error:
        _say(f"wms.seed: cannot reach the database: {error}")
        return 4
    except (psycopg.Error, OSError, ValueError) as error:
        _say(f"wms.seed: {error}")
        return 1
    return 0


def _bounded(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed: {low} to {high}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
