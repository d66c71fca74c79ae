"""`fields=` and `include=` (row A2): what of an item is answered.

`fields` names fields of the item; without it, all of them. `include` names what belongs to the item and is costly to
fetch, so it is there only when asked for, beside whatever `fields` says. Of the item's type they are fields whose value
is UNSET when they were not asked for.

    class Order(msgspec.Struct, frozen=True):
        id: int
        status: str
        customer: Customer | UnsetType = UNSET

    ORDER = Selectable(Order, includes=("customer",))

    class ListParams(SelectPageParams, frozen=True, forbid_unknown_fields=True, kw_only=True): ...

    async def list_orders(call: Call[ListParams, Nothing]) -> Reply:
        chosen = ORDER.chosen(call.params)        # "customer" in chosen.include
        … item=lambda row: chosen.of(Order(…)) …

    Operation(…, selection=ORDER)                 # describes both parameters
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from wms.api.problem import wrong_field

Names = Annotated[str, Meta(max_length=512, description="Names, comma-separated.")]


class SelectParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operation takes that lets its clients choose."""

    fields: Names | None = None
    include: Names | None = None


class Asked(Protocol):
    """Parameters with both."""

    @property
    def fields(self) -> str | None: ...

    @property
    def include(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """What one request asked for; `fields` are pairs (attribute, name in JSON), None for all."""

    fields: tuple[tuple[str, str], ...] | None
    include: frozenset[str]

    def of(self, item: msgspec.Struct) -> Any:
        """What is to be answered of `item`."""
        if self.fields is None:
            return item
        return {name: getattr(item, attribute) for attribute, name in self.fields}


@dataclass(frozen=True, slots=True)
class Selectable:
    """An item's type and which of its fields are includes."""

    item: type[msgspec.Struct]
    includes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What `fields` may name, in the item's order."""
        return tuple(
            field.encode_name
            for field in msgspec.structs.fields(self.item)
            if field.encode_name not in self.includes
        )

    def chosen(self, params: Asked) -> Selection:
        """What a request asked for. Raises Problem 400 naming what is unknown, with all that is allowed."""
        include = _known("include", params.include, self.includes)
        if params.fields is None:
            return Selection(None, include)
        wanted = _known("fields", params.fields, self.names) | include
        return Selection(
            tuple(
                (field.name, field.encode_name)
                for field in msgspec.structs.fields(self.item)
                if field.encode_name in wanted
            ),
            include,
        )


def _known(parameter: str, value: str | None, allowed: Iterable[str]) -> frozenset[str]:
    if value is None:
        return frozenset()
    found = frozenset(value.split(","))
    unknown = sorted(found.difference(allowed))
    if unknown:
        names = ", ".join(name or "(empty)" for name in unknown)[:128]
        raise wrong_field(parameter, "query", f"unknown: {names}", ", ".join(allowed) or "none")
    return found
