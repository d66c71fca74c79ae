"""Database: a database of PostgreSQL."""

from __future__ import annotations

from stacks.local.provider.databases import LOOK_SECONDS, Connection, NoSuchDatabase, session
from stacks.local.provider.errors import Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made
from stacks.local.provider.values import Values


class DatabaseInputs(Inputs, frozen=True, kw_only=True):
    connection: Connection
    """To another database of the same server, such as postgres."""
    name: str
    owner: str
    connection_limit: int = -1


class DatabaseHandler(Handler[DatabaseInputs]):
    """Output: state (present, unreachable). Deleting it drops the data: protect the resource where data
    matter.
    """

    inputs_type = DatabaseInputs
    outputs = ("state",)
    replace_on = frozenset({"name"})
    healthy = "present"

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "present"}

    def make(self, name: str, inputs: DatabaseInputs) -> Made:
        return Made(inputs.name, self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: DatabaseInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: DatabaseInputs, state: Values) -> Values | None:
        with session(inputs.connection, LOOK_SECONDS) as database:
            row = database.execute(
                "SELECT pg_get_userbyid(datdba), datconnlimit FROM pg_database WHERE datname = %s",
                (inputs.name,),
            ).fetchone()
        return {"owner": row[0], "connection_limit": row[1], "state": "present"} if row else None

    def remove(self, resource_id: str, inputs: DatabaseInputs, state: Values) -> None:
        from psycopg import sql

        try:
            with session(inputs.connection, LOOK_SECONDS) as database:
                database.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(inputs.name))
                )
        except (Unreachable, NoSuchDatabase):
            return

    @staticmethod
    def put(inputs: DatabaseInputs) -> Values:
        """Create or alter it."""
        from psycopg import sql

        name, owner = sql.Identifier(inputs.name), sql.Identifier(inputs.owner)
        limit = sql.Literal(inputs.connection_limit)
        with session(inputs.connection) as database:
            row = database.execute("SELECT 1 FROM pg_database WHERE datname = %s", (inputs.name,)).fetchone()
            if row is None:
                database.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {} CONNECTION LIMIT {}").format(name, owner, limit)
                )
            else:
                database.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, owner))
                database.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, limit))
        return {"state": "present"}
