"""Customers: who orders."""

from __future__ import annotations

from datetime import datetime

import msgspec

from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.store import orders


class CustomerItem(msgspec.Struct, frozen=True):
    """A customer of the tenant."""

    id: int
    code: str
    name: str
    city: str | None
    created_at: datetime


async def list_customers(call: Call[PageParams, Nothing]) -> Reply:
    """A page of customers by code."""
    (last,) = after(call, tuple[str]) or (None,)
    found = await orders.customers(call.services.database, call.tenant_id, last, call.params.limit + 1)
    return Reply(
        page(
            call,
            found,
            key=lambda c: (c.code,),
            item=lambda c: CustomerItem(c.customer_id, c.code, c.name, c.city, c.created_at),
        )
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/customers",
        name="listCustomers",
        summary="Customers, by code",
        handler=list_customers,
        params=PageParams,
        answers={200: Answer(Page[CustomerItem], "The customers, by code.")},
        permission="orders:read",
        cache=CachePolicy(surrogate_s=300, keys=("customer",)),
    ),
)
