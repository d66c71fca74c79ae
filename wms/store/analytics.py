"""Figures of a warehouse, read from a replica."""

from __future__ import annotations

from wms.store.database import Database, Statement

_SUMMARY = Statement("analytics_summary", "SELECT analytics_summary(%s, %s)")


async def summary(database: Database, tenant_id: int, warehouse_id: int) -> str | None:
    """The summary as JSON text, or None when the tenant has no such warehouse. Raises Unavailable."""
    rows = await database.read(_SUMMARY, (tenant_id, warehouse_id))
    found = rows[0][0]
    return None if found is None else str(found)
