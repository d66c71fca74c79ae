"""SKUs: what a tenant stores. Found by code, or by words of their Portuguese names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wms.api import cached
from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem
from wms.api.rules import LINE, Code
from wms.store import skus

AbcClass = Literal["A", "B", "C"]
Query = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=LINE,
        description='Words of the name, all of them; "a phrase", or, and -not as in a search engine.',
    ),
]


class SkusParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the SKUs."""

    q: Query | None = None
    abc_class: AbcClass | None = None


class SkuPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One SKU by its code."""

    sku: Code


class Sku(msgspec.Struct, frozen=True):
    """A SKU; `weight_g` in grams per unit, `image` the name of its picture."""

    sku: str
    name: str
    barcode: str | None
    unit: str
    weight_g: int | None
    abc_class: AbcClass
    image: str | None
    updated_at: datetime


def _shown(sku: skus.Sku) -> Sku:
    return Sku(
        sku.code,
        sku.name,
        sku.barcode,
        sku.unit,
        sku.weight_g,
        msgspec.convert(sku.abc_class, AbcClass),
        sku.image,
        sku.updated_at.astimezone(UTC),
    )


async def list_skus(call: Call[SkusParams, Nothing]) -> Reply:
    """A page of SKUs by code."""
    asked = call.params
    (last,) = after(call, tuple[str]) or (None,)
    found = await skus.page(
        call.services.database, call.tenant_id, asked.q, asked.abc_class, last, asked.limit + 1
    )
    return Reply(page(call, found, key=lambda sku: (sku.code,), item=_shown))


async def one(call: Call[SkuPath, Nothing]) -> Reply:
    """One SKU."""
    held = await cached.sku(call.services, call.tenant_id, call.params.sku)
    if held.value is None:
        raise Problem(404, "unknown-sku", f"there is no SKU {call.params.sku}")
    return Reply(_shown(held.value), made_of=held)


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/skus",
        name="listSkus",
        summary="SKUs, by code; searched by words of their names",
        description=(
            "The search is Portuguese: it finds other forms of a word (parafusos, parafuso), and words typed without "
            "their accents (valvula)."
        ),
        handler=list_skus,
        params=SkusParams,
        answers={200: Answer(Page[Sku], "The SKUs, by code.")},
        permission="stock:read",
        cache=CachePolicy(surrogate_s=300, keys=("sku",)),
    ),
    Operation(
        method="GET",
        path="/api/v1/skus/{sku}",
        name="getSku",
        summary="One SKU",
        handler=one,
        params=SkuPath,
        answers={200: Answer(Sku, "The SKU.")},
        problems={404: "The tenant has no such SKU."},
        permission="stock:read",
        cache=CachePolicy(surrogate_s=300, keys=("sku:{sku}",)),
    ),
)
