"""Pages by cursor (row A1) and what is answered of an item (row A2)."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wms.test_service_api import Harness
from wms.api.operation import Call
from wms.api.pages import Page, PageParams, SelectPageParams, after, page
from wms.api.problem import Problem
from wms.api.selection import Selectable, SelectParams
from wms.domain.roles import NOBODY

NOW = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ROWS = [(NOW - timedelta(seconds=n // 3), n) for n in range(10)]
"""Newest first, several of one second."""


class ListParams(SelectPageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A list with a filter."""

    colour: str | None = None


def call(tenant_id: int = 7, operation: str = "listThings", **params: Any) -> Call[Any, Any]:
    principal = replace(NOBODY, tenant_id=tenant_id)
    return Call(SERVICES, principal, ListParams(**params), None, {}, operation)


SERVICES = Harness().services
Key = tuple[datetime, int]
KEY: Any = Key


def listed(asked: Call[Any, Any], rows: list[Key] = ROWS) -> Page[int]:
    """What a handler does; the database is a list."""
    last: Key | None = after(asked, KEY)
    place = 0 if last is None else next((i for i, row in enumerate(rows) if row[1] > last[1]), len(rows))
    return page(
        asked, rows[place : place + asked.params.limit + 1], key=lambda row: row, item=lambda row: row[1]
    )


def test_a1_the_shape_is_exact() -> None:
    first = msgspec.json.decode(msgspec.json.encode(listed(call(limit=4))))
    cursor = first["pagination"]["cursor_after"]
    assert first == {
        "data": [0, 1, 2, 3],
        "pagination": {"cursor_after": cursor, "has_more": True, "limit": 4},
    }
    assert isinstance(cursor, str)
    last = msgspec.json.decode(msgspec.json.encode(listed(call())))
    assert last["pagination"] == {"cursor_after": None, "has_more": False, "limit": 50}


@given(limit=st.integers(1, 12), size=st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_a1_the_pages_of_a_list_are_the_list(limit: int, size: int) -> None:
    seen: list[int] = []
    cursor = None
    while True:
        found = listed(call(limit=limit, cursor_after=cursor), ROWS[:size])
        seen += found.data
        cursor = found.pagination.cursor_after
        assert found.pagination.has_more == (cursor is not None)
        if cursor is None:
            break
        assert len(found.data) == limit
    assert seen == list(range(size))


def test_a1_pages_are_stable_while_rows_come_and_go() -> None:
    cursor = listed(call(limit=4)).pagination.cursor_after
    without_the_last_seen = [(NOW + timedelta(days=1), -1), *ROWS[:3], *ROWS[4:]]
    assert listed(call(limit=4, cursor_after=cursor), without_the_last_seen).data == [4, 5, 6, 7]


def test_a1_limit_fields_and_include_may_change_between_pages() -> None:
    cursor = listed(call(limit=4, fields="id")).pagination.cursor_after
    assert listed(call(limit=2, include="x", cursor_after=cursor)).data == [4, 5]


def flipped(cursor: str, place: int) -> str:
    raw = bytearray(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[place] ^= 1
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a1_a_cursor_of_anything_else_is_refused() -> None:
    cursor = listed(call(limit=4, colour="red")).pagination.cursor_after
    assert cursor is not None
    assert listed(call(colour="red", cursor_after=cursor)).data
    others = [
        call(cursor_after=cursor),
        call(colour="green", cursor_after=cursor),
        call(tenant_id=8, colour="red", cursor_after=cursor),
        call(operation="listOthers", colour="red", cursor_after=cursor),
        *(call(colour="red", cursor_after=flipped(cursor, place)) for place in (0, 15, 16, -1)),
        *(call(colour="red", cursor_after=wrong) for wrong in ("A", "AAAA", cursor[:-4], cursor + "AAAA")),
    ]
    for other in others:
        with pytest.raises(Problem) as raised:
            after(other, KEY)
        assert (raised.value.status, raised.value.errors[0].field) == (400, "cursor_after")


def test_a1_another_key_or_another_shape_is_refused() -> None:
    cursor = listed(call(limit=4)).pagination.cursor_after
    with pytest.raises(Problem, match="another release"):
        after(call(cursor_after=cursor), tuple[int, int, int])
    stranger = Harness().services
    with pytest.raises(Problem, match="not a cursor of this list"):
        after(msgspec.structs.replace(call(cursor_after=cursor), services=stranger), KEY)


def test_a1_page_sizes_are_limited() -> None:
    for wrong in (0, 201, -1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"limit": str(wrong)}, PageParams, strict=False)
    assert msgspec.convert({"limit": "200"}, PageParams, strict=False).limit == 200


class Thing(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """An item with an include."""

    id: int
    kind: str
    size: int | None = None
    parts: list[int] | msgspec.UnsetType = msgspec.UNSET


THING = Selectable(Thing, includes=("parts",))


def shown(fields: str | None, include: str | None) -> Any:
    chosen = THING.chosen(SelectParams(fields=fields, include=include))
    parts = [1, 2] if "parts" in chosen.include else msgspec.UNSET
    return msgspec.json.decode(msgspec.json.encode(chosen.of(Thing(1, "box", None, parts))))


@pytest.mark.parametrize(
    ("fields", "include", "expected"),
    [
        (None, None, {"id": 1, "type": "box", "size": None}),
        (None, "parts", {"id": 1, "type": "box", "size": None, "parts": [1, 2]}),
        ("id", None, {"id": 1}),
        ("type,size", None, {"type": "box", "size": None}),
        ("id,id", "parts", {"id": 1, "parts": [1, 2]}),
    ],
)
def test_a2_only_what_is_asked_for_is_answered(
    fields: str | None, include: str | None, expected: Any
) -> None:
    assert shown(fields, include) == expected


@pytest.mark.parametrize(
    ("fields", "include", "field", "allowed"),
    [
        ("id,colour", None, "fields", "id, type, size"),
        ("kind", None, "fields", "id, type, size"),
        ("parts", None, "fields", "id, type, size"),
        ("", None, "fields", "id, type, size"),
        ("id,", None, "fields", "id, type, size"),
        (None, "owner", "include", "parts"),
        (None, "id", "include", "parts"),
    ],
)
def test_a2_what_is_unknown_is_named_with_what_is_allowed(
    fields: str | None, include: str | None, field: str, allowed: str
) -> None:
    with pytest.raises(Problem) as raised:
        shown(fields, include)
    (error,) = raised.value.errors
    assert (raised.value.status, error.field, error.allowed) == (400, field, allowed)
