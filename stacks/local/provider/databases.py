"""Speaking to PostgreSQL: connections that are retried within a deadline, and errors without statements."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Inputs
from stacks.local.provider.waiting import pause

if TYPE_CHECKING:
    import psycopg

CHANGE_SECONDS = 120.0
"""How long a change waits for a primary: longer than any failover."""
LOOK_SECONDS = 5.0
"""How long a refresh or a delete waits."""
LOCK_TIMEOUT = "10s"
"""A change gives up rather than queue before the application's statements."""


class Connection(Inputs, frozen=True, kw_only=True):
    """Where the primary is found. `host` may be several, separated by commas; all answer at `port`."""

    host: str
    port: int
    user: str
    password: str
    dbname: str = "postgres"
    sslrootcert: str = ""
    """Path of the CA bundle; with one the server's certificate is verified (sslmode verify-ca)."""


class NoSuchDatabase(ProviderError):
    """The server runs but does not have that database."""


@contextmanager
def session(
    to: Connection, seconds: float = CHANGE_SECONDS, dbname: str = ""
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection in autocommit mode to a server that accepts writes; retried until `seconds` have passed.

    Raises Unreachable at the deadline, NoSuchDatabase, and ProviderError at once for a refused login and for
    statements that fail inside the block.
    """
    import psycopg

    database = dbname or to.dbname
    connection = connected(to, seconds, database)
    try:
        with connection:
            connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            yield connection
    except psycopg.OperationalError as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise Unreachable(
                f"the connection to database {database} at {to.host}:{to.port} broke", "Run pulumi up again"
            ) from None
        raise told(error, database, to) from None
    except psycopg.Error as error:
        raise told(error, database, to) from None


def connected(to: Connection, seconds: float, database: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect, again and again. See `session`."""
    import psycopg

    limit = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(
                host=to.host,
                port=to.port,
                user=to.user,
                password=to.password,
                dbname=database,
                sslmode="verify-ca" if to.sslrootcert else "prefer",
                sslrootcert=to.sslrootcert or None,
                target_session_attrs="read-write",
                connect_timeout=3,
                application_name="pulumi",
                options="-c statement_timeout=0",
                autocommit=True,
            )
        except psycopg.OperationalError as error:
            words = str(error)
            if f'database "{database}" does not exist' in words:
                raise NoSuchDatabase(f"there is no database {database} at {to.host}:{to.port}") from None
            if "authentication failed" in words:
                raise ProviderError(
                    f"PostgreSQL at {to.host}:{to.port} refuses the password of {to.user}",
                    "Compare the stack's secret with the role's password",
                ) from None
            if time.monotonic() >= limit:
                last = words.strip().splitlines()[-1] if words.strip() else type(error).__name__
                raise Unreachable(
                    f"no primary answers at {to.host}:{to.port} within {seconds:g} s ({last})",
                    "See wmsctl status, and the logs of Patroni and HAProxy",
                ) from None
        pause(0.3)


def told(error: psycopg.Error, database: str, to: Connection) -> ProviderError:
    """What the server said, without the statement, which may hold a secret."""
    detail = error.diag
    words = detail.message_primary or type(error).__name__
    more = f" ({detail.message_detail})" if detail.message_detail and error.sqlstate == "2BP01" else ""
    return ProviderError(
        f"database {database} at {to.host}:{to.port}: {words}{more} [{error.sqlstate or '-'}]",
        detail.message_hint or "",
    )


def verifies(verifier: str | None, password: str) -> bool:
    """Whether `password` fits a stored SCRAM verifier (RFC 5803:
    SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey).
    """
    try:
        scheme, parameters, keys = (verifier or "").split("$")
        iterations, salt = parameters.split(":")
        stored = base64.b64decode(keys.split(":")[0], validate=True)
        salted = hashlib.pbkdf2_hmac(
            "sha256", password.encode(), base64.b64decode(salt, validate=True), int(iterations)
        )
    except (ValueError, binascii.Error):
        return False
    client = hmac.digest(salted, b"Client Key", "sha256")
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(hashlib.sha256(client).digest(), stored)
