"""DatabaseRole: a role of PostgreSQL with its options, settings, memberships and password."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from stacks.local.provider.databases import LOOK_SECONDS, Connection, NoSuchDatabase, session, verifies
from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values


class Options(Inputs, frozen=True, kw_only=True):
    """Attributes of a role, with PostgreSQL's defaults."""

    superuser: bool = False
    createdb: bool = False
    createrole: bool = False
    inherit: bool = True
    replication: bool = False
    bypassrls: bool = False
    connection_limit: int = -1


COLUMNS = {
    "superuser": "rolsuper",
    "createdb": "rolcreatedb",
    "createrole": "rolcreaterole",
    "inherit": "rolinherit",
    "replication": "rolreplication",
    "bypassrls": "rolbypassrls",
    "connection_limit": "rolconnlimit",
}
LISTS = frozenset({"search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces"})
"""Settings that are lists of names: quoting the whole would make one name of it."""


class DatabaseRoleInputs(Inputs, frozen=True, kw_only=True):
    connection: Connection
    name: str
    password: str = ""
    """Empty: the role has none."""
    login: bool = True
    options: Options = msgspec.field(default_factory=Options)
    member_of: list[str] = msgspec.field(default_factory=list)
    settings: dict[str, str] = msgspec.field(default_factory=dict)


class DatabaseRoleHandler(Handler[DatabaseRoleInputs]):
    """Output: state (present, password changed, unreachable)."""

    inputs_type = DatabaseRoleInputs
    outputs = ("state",)
    replace_on = frozenset({"name"})
    healthy = "present"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "name" in inputs and not 0 < len(inputs["name"].encode()) <= 63:
            yield Problem("name", "must have 1 to 63 bytes")

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "present"}

    def make(self, name: str, inputs: DatabaseRoleInputs) -> Made:
        return Made(inputs.name, self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: DatabaseRoleInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: DatabaseRoleInputs, state: Values) -> Values | None:
        with session(inputs.connection, LOOK_SECONDS) as database:
            found = look(database, inputs.name)
        if found is None:
            return None
        options, login, settings, groups, verifier = found
        defaults = msgspec.to_builtins(Options())
        given = state.get("options", {})
        return {
            # A default that the program does not name is no difference; anything else is.
            "options": {k: v for k, v in options.items() if k in given or v != defaults[k]},
            "login": login,
            "settings": {
                k: v if plain(v) != plain(inputs.settings.get(k, v)) else inputs.settings.get(k, v)
                for k, v in settings.items()
            },
            "member_of": inputs.member_of if set(groups) == set(inputs.member_of) else groups,
            "state": "present" if holds(verifier, inputs.password) else "password changed",
        }

    def remove(self, resource_id: str, inputs: DatabaseRoleInputs, state: Values) -> None:
        try:
            drop(inputs.connection, inputs.name)
        except (Unreachable, NoSuchDatabase):
            # The server is gone, and the role with it: roles live in its data folder.
            return

    @staticmethod
    def put(inputs: DatabaseRoleInputs) -> Values:
        """Create or alter the role. The clear password never leaves this process: only its SCRAM verifier
        does.
        """
        from psycopg import sql

        role = sql.Identifier(inputs.name)
        with session(inputs.connection) as database, database.transaction():
            found = look(database, inputs.name)
            if found is None:
                database.execute(sql.SQL("CREATE ROLE {}").format(role))
                found = look(database, inputs.name)
            if found is None:
                raise ProviderError(f"role {inputs.name} vanished while it was made", "Run pulumi up again")
            _, _, settings, groups, verifier = found
            flags = [("LOGIN" if inputs.login else "NOLOGIN")]
            for name, value in msgspec.to_builtins(inputs.options).items():
                if name == "connection_limit":
                    flags.append(f"CONNECTION LIMIT {int(value)}")
                else:
                    flags.append(name.upper() if value else f"NO{name.upper()}")
            database.execute(sql.SQL("ALTER ROLE {} WITH {}").format(role, sql.SQL(" ".join(flags))))
            if not holds(verifier, inputs.password):
                secret = None
                if inputs.password:
                    secret = database.pgconn.encrypt_password(
                        inputs.password.encode(), inputs.name.encode(), b"scram-sha-256"
                    ).decode()
                database.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(secret)))
            for name in settings.keys() - inputs.settings.keys():
                database.execute(sql.SQL("ALTER ROLE {} RESET {}").format(role, setting(name)))
            for name, value in inputs.settings.items():
                if plain(settings.get(name, "")) != plain(value) or name not in settings:
                    database.execute(
                        sql.SQL("ALTER ROLE {} SET {} = {}").format(
                            role, setting(name), setting_value(name, value)
                        )
                    )
            for group in sorted(set(inputs.member_of) - set(groups)):
                database.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), role))
            for group in sorted(set(groups) - set(inputs.member_of)):
                database.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), role))
        return {"state": "present"}


def look(
    database: Any, name: str
) -> tuple[dict[str, Any], bool, dict[str, str], list[str], str | None] | None:
    """(options, login, settings, groups, verifier) of a role; None when there is no such role.

    The verifier is "?" when we may not see it.
    """
    columns = ", ".join(COLUMNS.values())
    row = database.execute(
        f"SELECT rolcanlogin, coalesce(rolconfig, '{{}}'), {columns} FROM pg_roles WHERE rolname = %s",
        (name,),
    ).fetchone()
    if row is None:
        return None
    groups = database.execute(
        "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s ORDER BY 1",
        (name,),
    ).fetchall()
    verifier: str | None = "?"
    if database.execute("SELECT has_table_privilege('pg_authid', 'SELECT')").fetchone()[0]:
        verifier = database.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (name,)
        ).fetchone()[0]
    settings = dict(entry.split("=", 1) for entry in row[1])
    return dict(zip(COLUMNS, row[2:], strict=True)), row[0], settings, [each[0] for each in groups], verifier


def holds(verifier: str | None, password: str) -> bool:
    """Whether the stored verifier is that of `password`; no password fits no verifier."""
    return verifies(verifier, password) if password else verifier is None


def plain(value: str) -> str:
    """A setting without the quotes and spaces in which the server keeps lists."""
    return value.replace('"', "").replace(", ", ",")


def setting(name: str) -> Any:
    """The name of a setting; extensions' have a dot."""
    from psycopg import sql

    return sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))


def setting_value(name: str, value: str) -> Any:
    """The value of a setting: a literal, or the names of a list."""
    from psycopg import sql

    if name in LISTS:
        return sql.SQL(", ").join(sql.Identifier(part.strip().strip('"')) for part in value.split(","))
    return sql.Literal(value)


def drop(connection: Connection, name: str) -> None:
    """Drop a role together with the privileges it was granted; refuses while it owns something.

    Raises ProviderError naming the databases that hold what it owns.
    """
    from psycopg import sql

    role = sql.Identifier(name)
    with session(connection, LOOK_SECONDS) as database:
        held = database.execute(
            "SELECT d.deptype::text, coalesce(b.datname, current_database()) FROM pg_shdepend d"
            " JOIN pg_roles r ON r.oid = d.refobjid LEFT JOIN pg_database b ON b.oid = d.dbid"
            " WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = %s GROUP BY 1, 2",
            (name,),
        ).fetchall()
        owners = sorted({place for kind, place in held if kind == "o"})
        if owners:
            raise ProviderError(
                f"role {name} owns objects in {', '.join(owners)} and is not dropped",
                f'Give them away first: REASSIGN OWNED BY "{name}" TO postgres',
            )
        for place in sorted({place for _, place in held}):
            # It owns nothing, so this only takes back what it was granted.
            with session(connection, LOOK_SECONDS, dbname=place) as there:
                there.execute(sql.SQL("DROP OWNED BY {}").format(role))
        database.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
