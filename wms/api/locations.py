"""Locations: the places on a warehouse's shelves."""

from __future__ import annotations

import msgspec

from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.rules import Id
from wms.store import skus


class LocationsParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the locations."""

    warehouse_id: Id


class Location(msgspec.Struct, frozen=True):
    """A place on a shelf; `capacity` in units, null where nobody has measured it."""

    location: str
    aisle: str
    level: int
    position: int
    capacity: int | None


async def list_locations(call: Call[LocationsParams, Nothing]) -> Reply:
    """A page of locations by code."""
    asked = call.params
    (last,) = after(call, tuple[str]) or (None,)
    found = await skus.locations(
        call.services.database, call.tenant_id, asked.warehouse_id, last, asked.limit + 1
    )
    return Reply(
        page(
            call,
            found,
            key=lambda place: (place.code,),
            item=lambda place: Location(place.code, place.aisle, place.level, place.position, place.capacity),
        )
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/locations",
        name="listLocations",
        summary="Locations of a warehouse, by code",
        description="Of a warehouse that does not exist there are none.",
        handler=list_locations,
        params=LocationsParams,
        answers={200: Answer(Page[Location], "The locations, by code.")},
        permission="stock:read",
        cache=CachePolicy(surrogate_s=300, keys=("location",)),
    ),
)
