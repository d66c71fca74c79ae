"""The command line: `python -m wms.seed --scale small|medium|large`, or --tenants 2 --warehouses 2 --skus 500 …"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from wms.migrations import runner
from wms.seed.generate import SCALES, Size
from wms.seed.keys import ensure_keys, read_keys, write_keys
from wms.seed.load import TABLES, LoadError, load
from wms.seed.progress import say
from wms.settings import SettingsError, load_owner

DEFAULT = Size(tenants=2, warehouses=2, skus=500, seed=1)
_SIZES = (
    ("tenants", 1, 999, "tenants"),
    ("warehouses", 1, 999, "warehouses of a tenant"),
    ("skus", 1, 999_999, "SKUs of a tenant"),
    ("orders", 0, 9_999_999, "orders of a warehouse, with all that comes of them"),
    ("months", 1, 120, "months that its orders are spread over"),
    ("seed", 0, 2**31, "chooses the data"),
)


def parse(arguments: list[str] | None = None) -> tuple[Size, str | None]:
    """The size and where keys go; a size of one's own takes precedence over that of the scale."""
    parser = argparse.ArgumentParser(prog="python -m wms.seed", description="Load sample data (repeatable).")
    parser.add_argument("--scale", choices=SCALES, help="sizes of all kinds, and a history of orders")
    for name, low, high, meaning in _SIZES:
        default = getattr(DEFAULT, name)
        parser.add_argument(
            f"--{name}",
            type=_bounded(low, high),
            help=f"{meaning}: {low} to {high}, {default} without --scale",
        )
    parser.add_argument(
        "--keys-out", metavar="FILE", help="write an API key per tenant there (mode 0600); - prints"
    )
    found = parser.parse_args(arguments)
    base = SCALES[found.scale] if found.scale else DEFAULT
    given = {name: getattr(found, name) for name, *_ in _SIZES if getattr(found, name) is not None}
    return Size(**(asdict(base) | given)), found.keys_out


def main() -> int:
    """Run the command; exit code 0 done, 1 failed, 2 wrong usage or settings, 4 database out of reach."""
    size, target = parse()
    try:
        settings = load_owner(os.environ)
        known = read_keys(Path(target)) if target and target != "-" else []
        with runner.connect(settings, "wms-seed") as connection:
            connection.autocommit = True
            tenants = load(connection, size)
            connection.execute(f"ANALYZE {', '.join(TABLES)}".encode())
            keys = ensure_keys(connection, tenants, known) if target else []
        if target == "-":
            print(msgspec.json.encode(keys).decode())
        elif target:
            write_keys(Path(target), keys)
    except SettingsError as error:
        say(f"wms.seed: wrong settings:\n{error}")
        return 2
    except psycopg.errors.UndefinedTable:
        say("wms.seed: the schema is missing; first run: python -m wms.migrations up")
        return 1
    except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn):
        say("wms.seed: the schema is older than this release; first run: python -m wms.migrations up")
        return 1
    except psycopg.OperationalError as error:
        say(f"wms.seed: cannot reach the database: {error}")
        return 4
    except (psycopg.Error, LoadError, OSError, ValueError) as error:
        say(f"wms.seed: {error}")
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
