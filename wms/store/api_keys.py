"""API keys as their tenant's administrators see them; who a key is of when one comes is in wms/store/keys.py."""

from __future__ import annotations

from wms.store.database import Commit, Database, Row, Rows, Statement

CREATE = Statement(
    "create_api_key", "SELECT outcome, answer FROM create_api_key(%s, %s, %s, %s, %s, %s, %s, %s)"
)
"""A command (wms/store/commands.py); its own arguments: SHA-256 of the key, name, role, tier, subject of its maker."""
_PAGE = Statement(
    "api_key_page",
    "SELECT api_key_id, name, role, tier, created_at, created_by, revoked_at FROM api_key_page(%s, %s, %s)",
)
_REVOKE = Statement("revoke_api_key", "SELECT outcome, answer FROM revoke_api_key(%s, %s)")


async def page(database: Database, tenant_id: int, after: int | None, limit: int) -> Rows:
    """Up to `limit` keys after the id `after`: id, name, role, tier, created at and by, revoked at.

    Raises Unavailable, as everything here.
    """
    return await database.read(_PAGE, (tenant_id, after, limit))


async def revoke(database: Database, tenant_id: int, api_key_id: int) -> tuple[str | None, Commit]:
    """(JSON text of the key, revoked now or before; None when the tenant has none with this id, the commit)."""
    (_outcome, answer), commit = await database.write(_REVOKE, (tenant_id, api_key_id), final=_any)
    return answer, commit


def _any(_row: Row, _attempt: int) -> bool:
    return True
