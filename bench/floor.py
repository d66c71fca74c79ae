"""A stock lookup by the service's server and psycopg's pool, and nothing else of the service: the most to be had.

WMS_BIND_ADDRESS=… FLOOR_TENANT=1 FLOOR_WAREHOUSE=1 python -m bench.floor
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import uvloop
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from wms.server import granian_server
from wms.settings import Settings, load
from wms.store import stock
from wms.store.conninfo import conninfo

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_encode = msgspec.json.Encoder().encode


async def serve(settings: Settings, tenant: int, warehouse: int) -> None:
    """Answer …sku=CODE, and everything else as if there were such a SKU."""
    pool: AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]] = AsyncConnectionPool(
        conninfo(settings.app.database, settings.app.read_name, "floor"),
        kwargs={"password": settings.app.database.password, "autocommit": True, "prepare_threshold": None},
        min_size=settings.app.read_size,
        open=False,
    )

    async def lookup(scope: Any, receive: Any, send: Any) -> None:
        sku = scope["query_string"].rpartition(b"sku=")[2].decode()
        connection = await pool.getconn()
        try:
            found = await connection.execute(stock.LOOKUP.sql, (tenant, warehouse, sku))
            rows = await found.fetchall()
        finally:
            await pool.putconn(connection)
        await send(_START)
        await send({"type": "http.response.body", "body": _encode(rows)})

    await pool.open(wait=True)
    await granian_server(settings).serve(lookup)


if __name__ == "__main__":
    place = int(os.environ["FLOOR_TENANT"]), int(os.environ["FLOOR_WAREHOUSE"])
    uvloop.run(serve(load(os.environ), *place))
