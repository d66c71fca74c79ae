"""What the service's roles may do in the database, asked of its catalogue, so that nothing new is overlooked."""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

OPEN_AS_OWNER = {
    "principal_of_api_key(bytea)": "Asked before the tenant is known. Gives what belongs to exactly this SHA-256.",
    "tenant_of_refresh_token(bytea)": "The same, of a refresh token.",
    "skus_matching(text,text,text,integer)": "Row-level security would keep the search from its index; the function "
    "asks for the tenant that the transaction has named, and finds nothing when it has named none.",
}
"""Functions that run as the owner, past row-level security, and that wms_app may call: why each of them may be open."""

OF_THE_WORKER = {
    "claim_job(text,text,integer,integer)",
    "ended_credentials(double precision)",
    "classify_abc(integer)",
    "finish_job(text,text)",
    "forget_events(integer,integer)",
    "forget_idempotency_keys(integer)",
    "forget_sessions(integer)",
    "relay_turn(text,integer,bigint,integer)",
    "warm_skus(integer,integer)",
    "warm_warehouses()",
}
"""All that wms_worker may call that runs as the owner."""

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def run_as_owner(connection: Connection, role: str) -> set[str]:
    """Signatures of all functions of the database that `role` may execute and that run as their owner."""
    rows = connection.execute(
        """
        SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.prosecdef AND has_function_privilege(%s, p.oid, 'EXECUTE')
            AND has_schema_privilege(%s, p.pronamespace, 'USAGE')
        """,
        (role, role),
    ).fetchall()
    return {row[0] for row in rows}


def standing(connection: Connection, role: str) -> tuple[bool, int, int, int]:
    """(whether `role` is above the rules, how many objects it owns, roles it is in, objects it may read or change)."""
    row = connection.execute(
        f"""
        SELECT r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication,
            (SELECT count(*) FROM pg_shdepend d WHERE d.refobjid = r.oid AND d.deptype = 'o'),
            (SELECT count(*) FROM pg_auth_members m WHERE m.member = r.oid),
            (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE {_OURS} AND CASE c.relkind
                    WHEN 'S' THEN has_sequence_privilege(r.oid, c.oid, 'USAGE, SELECT, UPDATE')
                    WHEN 'i' THEN false
                    WHEN 'I' THEN false
                    ELSE has_table_privilege(
                            r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                        OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
                AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e'))
        FROM pg_roles r WHERE r.rolname = %s
        """.encode(),
        (role,),
    ).fetchone()
    assert row is not None, f"there is no role {role}"
    return bool(row[0]), int(row[1]), int(row[2]), int(row[3])


def tables(connection: Connection) -> dict[str, bool]:
    """Every relation with rows in the database, an extension's excepted → whether it has a column tenant_id."""
    rows = connection.execute(
        f"""
        SELECT c.oid::regclass::text, EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e')
        """.encode()
    ).fetchall()
    return dict(rows)


def granted(connection: Connection, role: str, table: str) -> tuple[set[str], list[str]]:
    """(what `role` may do with the table or with a column of it, columns that it may update)."""
    found = {
        kind
        for kind, question in (
            *((kind, "has_any_column_privilege") for kind in ("SELECT", "INSERT", "UPDATE", "REFERENCES")),
            *((kind, "has_table_privilege") for kind in ("DELETE", "TRUNCATE", "TRIGGER")),
        )
        if connection.execute(f"SELECT {question}(%s, %s, %s)".encode(), (role, table, kind)).fetchone()
        == (True,)
    }
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
        "AND has_column_privilege(%s, attrelid, attnum, 'UPDATE') ORDER BY attnum",
        (table, role),
    ).fetchall()
    return found, [row[0] for row in columns]


def insertable(connection: Connection, role: str, table: str) -> list[str]:
    """The columns that `role` may give a value to in a new row."""
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
        "AND has_column_privilege(%s, attrelid, attnum, 'INSERT') ORDER BY attnum",
        (table, role),
    ).fetchall()
    return [row[0] for row in rows]


def digests(connection: Connection, tenant: int) -> dict[str, tuple[int, str]]:
    """Table → (how many rows the tenant has there, a digest over all of them); partitions count in their parent."""
    found: dict[str, tuple[int, str]] = {}
    for table, has_tenant in tables(connection).items():
        row = connection.execute(
            "SELECT relispartition FROM pg_class WHERE oid = %s::regclass", (table,)
        ).fetchone()
        if not has_tenant or row == (True,):
            continue
        counted = connection.execute(
            f"SELECT count(*), coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '') "
            f"FROM {table} t WHERE tenant_id = %s".encode(),
            (tenant,),
        ).fetchone()
        assert counted is not None
        found[table] = (counted[0], counted[1])
    return found
