"""`python -m wms.migrations up|status`: exit code 0 when done (status: nothing pending), 1 failed, 2 wrong
usage or settings, 3 refused because the history does not fit or something is pending, 4 the database is out
of reach.
"""

from __future__ import annotations

import argparse
import os
import sys

import psycopg

from wms.migrations import files, runner
from wms.settings import SettingsError, load_owner


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m wms.migrations", description="Apply or show schema migrations."
    )
    parser.add_argument("command", choices=("up", "status"))
    command = parser.parse_args().command
    try:
        settings = load_owner(os.environ)
    except SettingsError as error:
        print(f"wms.migrations: wrong settings:\n{error}", file=sys.stderr)
        return 2
    try:
        found = files.read()
        with runner.connect(settings, "wms-migrations") as connection:
            connection.autocommit = True
            if command == "up":
                count = runner.up(connection, found, settings.lock_timeout_ms, _say)
                _say(f"{count} applied, schema is at {len(found):04d}")
                return 0
            states = runner.status(connection, found)
    except files.MigrationError as error:
        print(f"wms.migrations: {error}", file=sys.stderr)
        return 3 if error.__cause__ is None else 1
    except psycopg.OperationalError as error:
        print(f"wms.migrations: cannot reach the database: {error}", file=sys.stderr)
        return 4
    for state in states:
        applied = state.applied_at.isoformat(timespec="seconds") if state.applied_at else "pending"
        print(f"{state.number:04d}  {state.name:<30}  {applied}")
    return 0 if all(state.applied_at for state in states) else 3


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
