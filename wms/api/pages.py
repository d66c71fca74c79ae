"""Pages of long lists by cursor (row A1): the same cost at every depth, and stable while rows come and go.

A cursor is the sort key of the last row of a page, so the next one starts after it, whatever was written in between;
nothing is counted or skipped. It is opaque and signed: HMAC-SHA256 over the operation, the tenant, the filters and the
key, so that it continues only the list that it came from. A cursor does not expire.

How a list is written, with keyset columns (created_at, order_id):

    class ListParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
        warehouse_id: Id

    async def list_orders(call: Call[ListParams, Nothing]) -> Reply:
        last = after(call, tuple[datetime, int]) or (None, None)
        rows = await database.read(_LIST, (call.tenant_id, call.params.warehouse_id, *last, call.params.limit + 1))
        return Reply(page(call, rows, key=lambda row: (row[3], row[0]), item=lambda row: Order(*row)))
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from wms.api.operation import Call
from wms.api.problem import wrong_field
from wms.api.selection import Names

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")

MAX_LIMIT = 200
_MAX_CURSOR = 1024
_MAC_BYTES = 16
"""Half of the digest: 128 bits are far beyond guessing over HTTP (RFC 2104 §5 allows half)."""
_NOT_FILTERS = frozenset({"limit", "cursor_after", "fields", "include"})
"""What may change between two pages of one list."""

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Most items of the page.")]
Cursor = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=_MAX_CURSOR,
        pattern=r"^[A-Za-z0-9_-]+$(?!\n)",
        description="The cursor_after of the page before; without it, the first page.",
    ),
]


class PageParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every paged list takes; its own filters are the fields of a subclass."""

    limit: Limit = 50
    cursor_after: Cursor | None = None


class SelectPageParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A paged list whose clients choose what they are shown of its items (wms/api/selection.py)."""

    fields: Names | None = None
    include: Names | None = None


class Pagination(msgspec.Struct, frozen=True):
    """Where the next page starts: null when this is the last one."""

    cursor_after: str | None
    has_more: bool
    limit: int


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list, in its order."""

    data: list[T]
    pagination: Pagination


def after(call: Call[Any, Any], kind: type[K]) -> K | None:
    """The sort key of the last row before the asked page, as `kind` (a tuple type); None for the first page.

    Raises Problem 400 for a cursor that this operation did not give to this tenant with these filters.
    """
    cursor = call.params.cursor_after
    if cursor is None:
        return None
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raw = b""
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not payload or not hmac.compare_digest(mac, _mac(call, payload)):
        raise wrong_field(
            "cursor_after",
            "query",
            "not a cursor of this list",
            "pagination.cursor_after of an answer of this operation to the same filters",
        )
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        # Signed by us, of another shape: another release made it.
        raise wrong_field(
            "cursor_after", "query", "a cursor of another release", "none: start at the first page"
        ) from error


def page(
    call: Call[Any, Any], rows: Sequence[R], key: Callable[[R], tuple[Any, ...]], item: Callable[[R], T]
) -> Page[T]:
    """The page that `rows` make: in order, one more than the asked limit when there are more.

    `key` gives a row's sort key (text, whole numbers, times, null), `item` what is shown of it.
    """
    limit = call.params.limit
    has_more = len(rows) > limit
    shown = rows[:limit]
    cursor = _cursor(call, key(shown[-1])) if has_more else None
    return Page([item(row) for row in shown], Pagination(cursor, has_more, limit))


def _cursor(call: Call[Any, Any], key: tuple[Any, ...]) -> str:
    payload = msgspec.msgpack.encode(key)
    return urlsafe_b64encode(_mac(call, payload) + payload).rstrip(b"=").decode()


def _mac(call: Call[Any, Any], payload: bytes) -> bytes:
    filters = {
        name: getattr(call.params, name) for name in call.params.__struct_fields__ if name not in _NOT_FILTERS
    }
    # One encoded value, so that no two different lists run together into the same bytes.
    signed = msgspec.msgpack.encode((call.operation, call.tenant_id, filters, payload), order="sorted")
    return hmac.digest(call.services.settings.cursor_key, signed, "sha256")[:_MAC_BYTES]
