"""Names of cache entries, `{service}:{entity}:{identifier}:{version}` (row K2). Pure.

    inventory:sku:t7.12345:1      order:t7.12345:1      user:permissions:t7.42:1      warehouse:capacity:t7.3:1

The tenant is the first part of the identifier, always, so that no key without one can be written down and two tenants
that use one code never share an entry. It could not be a part of its own: rows and tools count on three colons (two
where service and entity are one word, as in `order`). Its form `t<number>.` cannot be mistaken for what follows,
because the first dot ends it, whatever a SKU's code contains.

The version is the one of the value's shape. Raise it with the shape: in a rolling restart the old and the new release
then keep entries of their own instead of reading each other's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_KEY = re.compile(
    r"(?P<service>[a-z][a-z-]{0,31}):(?:(?P<entity>[a-z][a-z-]{0,31}):)?"
    r"t(?P<tenant>[1-9][0-9]{0,18})\.(?P<identifier>[A-Za-z0-9._-]{1,128}):(?P<version>[1-9][0-9]{0,5})"
)
RULE = "service:[entity:]t<tenant>.<identifier>:<version>, such as inventory:sku:t7.12345:1"


class Key(msgspec.Struct, frozen=True):
    """One entry. `entity` is empty where the service's name says it all; `identifier` is without the tenant."""

    service: str
    entity: str
    tenant_id: int
    identifier: str
    version: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for what `parse` would not take back."""
        if not _KEY.fullmatch(str(self)):
            raise ValueError(f"no cache key: {str(self)!r}, allowed: {RULE}")

    def __str__(self) -> str:
        middle = f"{self.entity}:" if self.entity else ""
        return f"{self.service}:{middle}t{self.tenant_id}.{self.identifier}:{self.version}"

    @property
    def kind(self) -> str:
        """Service and entity, for metrics and lifetimes: inventory:sku, order."""
        return f"{self.service}:{self.entity}" if self.entity else self.service


def parse(text: str) -> Key:
    """The key that `text` is. Raises ValueError with the allowed form."""
    found = _KEY.fullmatch(text)
    if found is None:
        raise ValueError(f"no cache key: {text[:200]!r}, allowed: {RULE}")
    return Key(
        found["service"],
        found["entity"] or "",
        int(found["tenant"]),
        found["identifier"],
        int(found["version"]),
    )


def sku(tenant_id: int, code: str) -> Key:
    """What a SKU is."""
    return Key("inventory", "sku", tenant_id, code)


def stock(tenant_id: int, code: str) -> Key:
    """Units of a SKU over all warehouses."""
    return Key("inventory", "stock", tenant_id, code)


def stock_in(tenant_id: int, warehouse_id: int, code: str) -> Key:
    """Units of a SKU by location of one warehouse."""
    return Key("inventory", "location", tenant_id, f"{warehouse_id}.{code}")


def stocks(tenant_id: int, warehouse_id: int, codes: Iterable[str]) -> list[Key]:
    """What is wrong once units of SKUs moved in a warehouse or were promised there."""
    found: list[Key] = []
    for code in dict.fromkeys(codes):
        found += (stock(tenant_id, code), stock_in(tenant_id, warehouse_id, code))
    return found


def capacity(tenant_id: int, warehouse_id: int) -> Key:
    """How full a warehouse is."""
    return Key("warehouse", "capacity", tenant_id, str(warehouse_id))


def layout(tenant_id: int) -> Key:
    """The warehouses of a tenant, first page."""
    return Key("warehouse", "layout", tenant_id, "first")


def order(tenant_id: int, warehouse_id: int, order_id: int) -> Key:
    """An order, without its lines: a pick changes those without an event of the order."""
    return Key("order", "", tenant_id, f"{warehouse_id}.{order_id}")


def permissions(tenant_id: int, user_id: int) -> Key:
    """What a user may do."""
    return Key("user", "permissions", tenant_id, str(user_id))


def configuration(tenant_id: int) -> Key:
    """The first page of a tenant's configuration."""
    return Key("configuration", "entries", tenant_id, "first")


def changed_by(
    tenant_id: int, event: str, entity: str, identifier: str, payload: Mapping[str, Any]
) -> tuple[Key, ...]:
    """The entries that an event (type, entity, identifier, payload of the outbox) makes wrong.

    How full a warehouse is (`capacity`) is not among them: every movement changes it, and it would be computed all the
    time. It is a report, and as old as its lifetime.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", identifier):
        return ()
    warehouse = payload.get("warehouse_id")
    if entity == "sku":
        if event == "sku.classified":
            # A stock shows the SKU's name, not its class.
            return (sku(tenant_id, identifier),)
        found = [stock(tenant_id, identifier)]
        if isinstance(warehouse, int):
            found.append(stock_in(tenant_id, warehouse, identifier))
        if not event.startswith("stock."):
            found.append(sku(tenant_id, identifier))
        return tuple(found)
    if entity == "order" and isinstance(warehouse, int) and identifier.isdigit():
        return (order(tenant_id, warehouse, int(identifier)),)
    if entity == "user" and identifier.isdigit():
        return (permissions(tenant_id, int(identifier)),)
    if entity == "configuration":
        return (configuration(tenant_id),)
    if entity == "warehouse" and identifier.isdigit():
        return (layout(tenant_id), capacity(tenant_id, int(identifier)))
    return ()
