"""What is read through the cache, and the one place that says so: handlers and the warming share these loaders.

A `Held` is for a handler whose whole answer is made of one value: it says so (Reply.made_of), and the answer is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from wms.api.operation import Services
from wms.cache import keys
from wms.cache.cache import Amend
from wms.cache.near import Held
from wms.store import accounts, orders, skus
from wms.store import stock as stocks
from wms.store.database import Row

FIRST_ENTRIES = 201
"""So many rows of a list are kept: the longest first page, and one more that says whether it goes on."""
_ENTRIES = list[accounts.ConfigurationRow]


async def stock(services: Services, tenant_id: int, sku: str) -> Held[stocks.SkuTotals | None]:
    """The stock of a SKU over all warehouses. Raises Unavailable, as everything here."""
    return await services.cache.held(
        keys.stock(tenant_id, sku),
        lambda: stocks.totals(services.database, tenant_id, sku),
        stocks.SkuTotals,
    )


async def stock_in(
    services: Services, tenant_id: int, warehouse_id: int, sku: str
) -> Held[list[stocks.Balance]]:
    """The balances of a SKU in one warehouse."""
    return await services.cache.held(
        keys.stock_in(tenant_id, warehouse_id, sku),
        lambda: stocks.lookup(services.database, tenant_id, warehouse_id, sku),
        list[stocks.Balance],
    )


async def sku(services: Services, tenant_id: int, code: str) -> Held[skus.Sku | None]:
    """What a SKU is."""
    return await services.cache.held(
        keys.sku(tenant_id, code), lambda: skus.lookup(services.database, tenant_id, code), skus.Sku
    )


async def capacity(services: Services, tenant_id: int, warehouse_id: int) -> Held[skus.Capacity | None]:
    """How full a warehouse is."""
    return await services.cache.held(
        keys.capacity(tenant_id, warehouse_id),
        lambda: skus.capacity(services.database, tenant_id, warehouse_id),
        skus.Capacity,
    )


async def warehouses(services: Services, tenant_id: int) -> list[skus.Warehouse]:
    """The first FIRST_ENTRIES warehouses by code."""
    return await services.cache.get(
        keys.layout(tenant_id),
        lambda: skus.warehouses(services.database, tenant_id, None, FIRST_ENTRIES),
        list[skus.Warehouse],
    )


async def order(services: Services, tenant_id: int, warehouse_id: int, order_id: int) -> orders.Order | None:
    """An order without its lines and customer: its events tell when its state changes, not of every pick."""
    return await services.cache.get(
        keys.order(tenant_id, warehouse_id, order_id),
        lambda: orders.lookup(services.database, tenant_id, warehouse_id, order_id, frozenset()),
        orders.Order,
    )


async def access(services: Services, tenant_id: int, user_id: int) -> accounts.Access | None:
    """A user's state and roles."""
    return await services.cache.get(
        keys.permissions(tenant_id, user_id),
        lambda: accounts.access(services.database, tenant_id, user_id),
        accounts.Access,
    )


async def configuration(services: Services, tenant_id: int) -> Sequence[Row]:
    """The first FIRST_ENTRIES entries of the configuration, as wms.store.accounts.configuration gives them."""
    return await services.cache.get(
        keys.configuration(tenant_id),
        lambda: accounts.configuration(services.database, tenant_id, None, FIRST_ENTRIES),
        _ENTRIES,
    )


def amend_configuration(tenant_id: int, row: accounts.ConfigurationRow) -> Amend:
    """One entry was created or changed; none ever goes."""

    def change(rows: Sequence[Row]) -> list[Row]:
        by_key = {found[0]: found for found in rows}
        known = by_key.get(row[0])
        if known is None or known[2] < row[2]:
            by_key[row[0]] = row
        # By their bytes, as the database sorts keys; what is beyond the first page falls out of it.
        return sorted(by_key.values())[:FIRST_ENTRIES]

    return Amend(keys.configuration(tenant_id), change, _ENTRIES)
