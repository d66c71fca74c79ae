"""DatabaseScript: idempotent SQL (schemas, functions, grants), run again whenever its text or fingerprint
changes.
"""

from __future__ import annotations

from typing import Any, cast

from stacks.local.provider.databases import LOOK_SECONDS, Connection, NoSuchDatabase, session
from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made
from stacks.local.provider.values import Values


class DatabaseScriptInputs(Inputs, frozen=True, kw_only=True):
    connection: Connection
    sql: str
    """Run as one transaction; running it twice must do no harm."""
    fingerprint: str = ""
    """A change runs the script again although its text is the same."""
    check_sql: str = ""
    """A query for one boolean: true while what the script made is there. Empty: a refresh takes that on
    trust.
    """
    drop_sql: str = ""
    """Run when the resource is deleted."""


class DatabaseScriptHandler(Handler[DatabaseScriptInputs]):
    """Output: state (applied, undone, unreachable)."""

    inputs_type = DatabaseScriptInputs
    outputs = ("state",)
    healthy = "applied"

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "applied"}

    def make(self, name: str, inputs: DatabaseScriptInputs) -> Made:
        return Made(name, self.run(inputs))

    def change(self, resource_id: str, state: Values, inputs: DatabaseScriptInputs) -> Values:
        return self.run(inputs)

    def observe(self, resource_id: str, inputs: DatabaseScriptInputs, state: Values) -> Values | None:
        try:
            with session(inputs.connection, LOOK_SECONDS) as database:
                if not inputs.check_sql:
                    return {"state": "applied"}
                row = database.execute(cast(Any, inputs.check_sql)).fetchone()
        except NoSuchDatabase:
            return None
        except Unreachable:
            raise
        except ProviderError:
            # What the query asks about is not even there.
            return {"state": "undone"}
        return {"state": "applied" if row and row[0] is True else "undone"}

    def remove(self, resource_id: str, inputs: DatabaseScriptInputs, state: Values) -> None:
        if not inputs.drop_sql:
            return
        try:
            with session(inputs.connection, LOOK_SECONDS) as database, database.transaction():
                database.execute(cast(Any, inputs.drop_sql))
        except (Unreachable, NoSuchDatabase):
            return

    @staticmethod
    def run(inputs: DatabaseScriptInputs) -> Values:
        """Run the script."""
        with session(inputs.connection) as database, database.transaction():
            database.execute(cast(Any, inputs.sql))
        return {"state": "applied"}
