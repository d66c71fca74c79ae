"""Users, sessions and configuration of a tenant. Reads come from a replica, changes go to the primary."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from wms.domain.roles import Principal, Tier
from wms.store.database import Commit, Database, Row, Rows, Statement
from wms.store.keys import hash_of

CREATE_USER = Statement(
    "create_user",
    "SELECT outcome, answer FROM create_user(%s, %s, %s, %s, %s, %s, %s::text[])",
    marked=True,
)
"""A command (wms/store/commands.py); its own arguments: user name, display name, password hash, roles."""
_USERS = Statement(
    "user_page",
    "SELECT user_id, username, display_name, active, roles, created_at, updated_at FROM user_page(%s, %s, %s)",
)
_ACCESS = Statement("user_access", "SELECT username, active, roles FROM user_access(%s, %s)")
_SET_ROLES = Statement(
    "set_user_roles", "SELECT outcome, answer FROM set_user_roles(%s, %s, %s::text[])", marked=True
)
_CREDENTIALS = Statement("user_credentials", "SELECT user_id, password_hash FROM user_credentials(%s, %s)")
_OPEN = Statement("open_session", "SELECT outcome, answer FROM open_session(%s, %s, %s, %s, %s, %s)")
_SET_ACTIVE = Statement(
    "set_user_active", "SELECT outcome, answer FROM set_user_active(%s, %s, %s)", marked=True
)
_PASSWORD = Statement("user_password", "SELECT username, password_hash FROM user_password(%s, %s)")
_CHANGE_PASSWORD = Statement(
    "change_password", "SELECT outcome, answer FROM change_password(%s, %s, %s, %s, %s)"
)
_REFRESH = Statement("refresh_session", "SELECT outcome, answer FROM refresh_session(%s, %s)")
_END = Statement("end_session", "SELECT outcome, answer FROM end_session(%s)")
_FORGET = Statement("forget_sessions", "SELECT forget_sessions(%s)")
_CONFIGURATION = Statement(
    "configuration_page",
    "SELECT key, value, version, updated_at, updated_by FROM configuration_page(%s, %s, %s)",
)
_SET_CONFIGURATION = Statement(
    "set_configuration",
    "SELECT outcome, answer FROM set_configuration(%s, %s, %s::jsonb, %s, %s)",
    marked=True,
)

ConfigurationRow = tuple[str, str, int, datetime, str]
"""Key, value as JSON text, version, updated at and by."""
SESSION_S = 12 * 3600
"""From sign-in to the end of the session, however often it is refreshed (OWASP ASVS 4.0, 3.3.2: 12 hours)."""
REFRESH_PREFIX = "wmsr_"
FORGET_BATCH = 2_000


class Access(msgspec.Struct, frozen=True):
    """A user's state and roles."""

    username: str
    active: bool
    roles: list[str]


class Session(msgspec.Struct, frozen=True):
    """An open session, and what its user may do now."""

    tenant_id: int
    user_id: int
    session_id: int
    roles: list[str]
    tier: Tier
    expires_at: datetime

    def principal(self) -> Principal:
        """Whom an access token of this session is for."""
        subject = f"user:{self.user_id}"
        return Principal(self.tenant_id, subject, frozenset(self.roles), self.tier, self.session_id)


@dataclass(frozen=True, slots=True)
class Changed:
    """How a change ended: its outcome, the JSON text that came with it, and its commit."""

    outcome: str
    answer: bytes
    commit: Commit


def new_refresh_token() -> str:
    """256 random bits, so that a plain SHA-256 of it is safe to keep."""
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


async def users(database: Database, tenant_id: int, after: str | None, limit: int) -> Rows:
    """Up to `limit` users after the name `after`: id, name, display name, active, roles, created, updated.

    Raises Unavailable, as everything here.
    """
    return await database.read(_USERS, (tenant_id, after, limit))


async def access(database: Database, tenant_id: int, user_id: int) -> Access | None:
    """A user's state and roles, or None when the tenant has no such user."""
    rows = await database.read(_ACCESS, (tenant_id, user_id))
    return Access(*rows[0]) if rows else None


async def set_roles(database: Database, tenant_id: int, user_id: int, roles: Sequence[str]) -> Changed:
    """Give a user exactly these roles. Outcomes: done (an Access), unknown_user."""
    return await _change(database, _SET_ROLES, (tenant_id, user_id, list(roles)))


async def set_active(database: Database, tenant_id: int, user_id: int, active: bool) -> Changed:
    """Let a user in again, or put it out and end its sessions. Outcomes: done (an Access), unknown_user."""
    return await _change(database, _SET_ACTIVE, (tenant_id, user_id, active))


async def credentials(database: Database, tenant_id: int, username: str) -> tuple[int, str] | None:
    """(id, password hash) of an active user, from the primary: a password that was changed is changed."""
    rows = await database.read(_CREDENTIALS, (tenant_id, username), primary=True)
    return (rows[0][0], rows[0][1]) if rows else None


async def password(database: Database, tenant_id: int, user_id: int) -> tuple[str, str] | None:
    """(user name, password hash) of an active user, from the primary."""
    rows = await database.read(_PASSWORD, (tenant_id, user_id), primary=True)
    return (rows[0][0], rows[0][1]) if rows else None


async def change_password(
    database: Database, tenant_id: int, user_id: int, before: str, after: str, session_id: int
) -> Changed:
    """Put the hash `after` in the place of `before` and end the user's other sessions than `session_id`.

    Outcomes: done ({"sessions_ended": n}), changed (it is not `before` any more, or the user is not active).
    """
    return await _change(database, _CHANGE_PASSWORD, (tenant_id, user_id, before, after, session_id))


async def open_session(
    database: Database, tenant_id: int, user_id: int, password_hash: str, token: str, tier: Tier
) -> Session | None:
    """A new session with its first refresh token; None when the user is not active any more, or its password is not the
    one that was checked.
    """
    changed = await _change(
        database, _OPEN, (tenant_id, user_id, password_hash, hash_of(token), tier, SESSION_S)
    )
    return msgspec.json.decode(changed.answer, type=Session) if changed.outcome == "done" else None


async def refresh_session(database: Database, token: str, successor: str) -> Session | str:
    """The session after its refresh token was exchanged, or why it was not: unknown, reused, ended."""
    changed = await _change(database, _REFRESH, (hash_of(token), hash_of(successor)))
    if changed.outcome != "done":
        return changed.outcome
    return msgspec.json.decode(changed.answer, type=Session)


async def end_session(database: Database, token: str) -> None:
    """End the session of a refresh token, if there is one."""
    await _change(database, _END, (hash_of(token),))


async def forget_sessions(database: Database) -> int:
    """Delete a batch of sessions that ran out a day ago; returns how many."""
    row, _commit = await database.write(_FORGET, (FORGET_BATCH,), final=_any)
    return int(row[0])


async def configuration(database: Database, tenant_id: int, after: str | None, limit: int) -> Rows:
    """Up to `limit` entries after the key `after`, each a ConfigurationRow."""
    return await database.read(_CONFIGURATION, (tenant_id, after, limit))


async def set_configuration(
    database: Database, tenant_id: int, key: str, value: bytes, version: int, by: str
) -> Changed:
    """Set one key to a JSON text if it is at `version`, 0 for none. Outcomes: done (the entry), version_mismatch
    ({"version": n}).
    """
    return await _change(database, _SET_CONFIGURATION, (tenant_id, key, value.decode(), version, by))


async def _change(database: Database, statement: Statement, parameters: Sequence[Any]) -> Changed:
    """Run a function that is safe to repeat by itself."""
    (outcome, answer), commit = await database.write(statement, parameters, final=_any)
    return Changed(outcome, answer.encode() if isinstance(answer, str) else answer or b"", commit)


def _any(_row: Row, _attempt: int) -> bool:
    return True
