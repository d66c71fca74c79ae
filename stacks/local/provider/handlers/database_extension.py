"""DatabaseExtension: an extension in one database of PostgreSQL."""

from __future__ import annotations

from typing import Any

from stacks.local.provider.databases import LOOK_SECONDS, Connection, NoSuchDatabase, session
from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made
from stacks.local.provider.values import Values


class DatabaseExtensionInputs(Inputs, frozen=True, kw_only=True):
    connection: Connection
    """To the database it is for."""
    name: str
    schema: str = ""
    """Where its objects go; empty: the extension's or the server's own choice."""
    version: str = ""
    """Empty: the newest that is installed on the server, and later ones are not taken by themselves."""


class DatabaseExtensionHandler(Handler[DatabaseExtensionInputs]):
    """Outputs: installed (version), state (present, unreachable)."""

    inputs_type = DatabaseExtensionInputs
    outputs = ("installed", "state")
    replace_on = frozenset({"name"})
    healthy = "present"

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        if state and state.get("version") == inputs.get("version") and "installed" in state:
            return {"installed": state["installed"], "state": "present"}
        return {"state": "present"}

    def make(self, name: str, inputs: DatabaseExtensionInputs) -> Made:
        return Made(f"{inputs.connection.dbname}/{inputs.name}", self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: DatabaseExtensionInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: DatabaseExtensionInputs, state: Values) -> Values | None:
        try:
            with session(inputs.connection, LOOK_SECONDS) as database:
                found = look(database, inputs.name)
        except NoSuchDatabase:
            return None
        if found is None:
            return None
        version, schema = found
        drift = {"version": version} if inputs.version and version != inputs.version else {}
        if inputs.schema and schema != inputs.schema:
            drift["schema"] = schema
        return {**drift, "installed": version, "state": "present"}

    def remove(self, resource_id: str, inputs: DatabaseExtensionInputs, state: Values) -> None:
        from psycopg import sql

        try:
            with session(inputs.connection, LOOK_SECONDS) as database:
                database.execute(sql.SQL("DROP EXTENSION IF EXISTS {}").format(sql.Identifier(inputs.name)))
        except (Unreachable, NoSuchDatabase):
            return

    @staticmethod
    def put(inputs: DatabaseExtensionInputs) -> Values:
        """Create, update or move it."""
        from psycopg import sql

        name, schema = sql.Identifier(inputs.name), sql.Identifier(inputs.schema or "public")
        with session(inputs.connection) as database, database.transaction():
            found = look(database, inputs.name)
            if found is None:
                if inputs.schema:
                    database.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
                place = sql.SQL(" SCHEMA {}").format(schema) if inputs.schema else sql.SQL("")
                version = (
                    sql.SQL(" VERSION {}").format(sql.Literal(inputs.version))
                    if inputs.version
                    else sql.SQL("")
                )
                database.execute(
                    sql.SQL("CREATE EXTENSION IF NOT EXISTS {}{}{}").format(name, place, version)
                )
            else:
                if inputs.version and found[0] != inputs.version:
                    database.execute(
                        sql.SQL("ALTER EXTENSION {} UPDATE TO {}").format(name, sql.Literal(inputs.version))
                    )
                if inputs.schema and found[1] != inputs.schema:
                    database.execute(sql.SQL("ALTER EXTENSION {} SET SCHEMA {}").format(name, schema))
            found = look(database, inputs.name)
        if found is None:
            raise ProviderError(f"extension {inputs.name} vanished while it was made", "Run pulumi up again")
        return {"installed": found[0], "state": "present"}


def look(database: Any, name: str) -> tuple[str, str] | None:
    """(version, schema) of an extension, or None."""
    row = database.execute(
        "SELECT extversion, extnamespace::regnamespace::text FROM pg_extension WHERE extname = %s", (name,)
    ).fetchone()
    return (row[0], row[1]) if row else None
