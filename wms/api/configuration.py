"""The configuration of a tenant: JSON values by key, each with a version that a change must name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wms.api import cached
from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem, wrong_field
from wms.cache.cache import Effect
from wms.store import accounts

KEPT_S = 3600
"""Row K4: configuration is kept an hour by our own caches; a change purges it."""
_TAG = re.compile(rb'"([1-9][0-9]{0,17})"')
# The one JSON text that PostgreSQL cannot keep: an escape of NUL that is not itself escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_MATCH_RULE = 'If-Match: "<version>" to change, If-None-Match: * to create'

Key = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_.-]*$(?!\n)")]


class Entry(msgspec.Struct, frozen=True):
    """One key. `updated_by` is the subject of the credential: key:<id> or user:<id>."""

    key: str
    value: Any
    version: int
    updated_at: datetime
    updated_by: str


class ListParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A page of the configuration."""


class KeyParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key."""

    key: Key


class NewValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any JSON value."""

    value: Any


class _Mismatch(msgspec.Struct):
    version: int


async def list_entries(call: Call[ListParams, Nothing]) -> Reply:
    """A page of the configuration, by key."""
    (last,) = after(call, tuple[str]) or (None,)
    limit = call.params.limit + 1
    rows = (
        (await cached.configuration(call.services, call.tenant_id))[:limit]
        if last is None
        else await accounts.configuration(call.services.database, call.tenant_id, last, limit)
    )
    return Reply(
        page(
            call,
            rows,
            key=lambda row: (row[0],),
            item=lambda row: Entry(row[0], msgspec.json.decode(row[1]), *row[2:]),
        )
    )


async def put(call: Call[KeyParams, NewValue]) -> Reply:
    """Create or change one key."""
    version = expected_version(call.headers)
    value = msgspec.json.encode(call.body.value)
    if _NUL.search(value):
        raise wrong_field("value", "body", "contains the character U+0000", "any JSON value without it")
    key = call.params.key
    changed = await accounts.set_configuration(
        call.services.database, call.tenant_id, key, value, version, call.principal.subject
    )
    if changed.outcome == "version_mismatch":
        there = msgspec.json.decode(changed.answer, type=_Mismatch).version
        state = f"is at version {there}" if there else "does not exist"
        raise Problem(412, "version-mismatch", f"{key} {state}: read it again and decide anew")
    entry = msgspec.json.decode(changed.answer, type=Entry)
    status = 201 if entry.version == 1 else 200
    return Reply(entry, status, ((b"etag", b'"%d"' % entry.version),), commit=changed.commit)


def _changes(call: Call[KeyParams, NewValue], entry: Entry) -> Iterable[Effect]:
    return [cached.amend_configuration(call.tenant_id, _row(entry))]


def _row(entry: Entry) -> accounts.ConfigurationRow:
    """The entry as wms.store.accounts.configuration gives it."""
    value = msgspec.json.encode(entry.value).decode()
    return entry.key, value, entry.version, entry.updated_at, entry.updated_by


def expected_version(headers: Mapping[bytes, bytes]) -> int:
    """The version that a change is meant for, 0 for none: optimistic locking as RFC 9110 §13.1 has it.

    Raises Problem 428 (RFC 6585 §3) without a condition, 400 for one that is no version.
    """
    match, none_match = headers.get(b"if-match"), headers.get(b"if-none-match")
    if match is None and none_match is None:
        raise Problem(428, "precondition-required", f"send {_MATCH_RULE}")
    if match is None and none_match is not None and none_match.strip() == b"*":
        return 0
    found = _TAG.fullmatch(match.strip()) if match is not None and none_match is None else None
    if found is None:
        raise wrong_field("If-Match", "header", "not a version", _MATCH_RULE)
    return int(found[1])


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/configuration",
        name="listConfiguration",
        summary="The configuration, by key",
        handler=list_entries,
        params=ListParams,
        answers={200: Answer(Page[Entry], "A page of entries.")},
        permission="configuration:read",
        cache=CachePolicy(surrogate_s=KEPT_S, keys=("configuration",)),
    ),
    Operation(
        method="PUT",
        path="/api/v1/configuration/{key}",
        name="setConfiguration",
        summary="Create or change one key",
        description=(
            "Only if it is as the client last saw it; the same change sent again by the same principal is done "
            "already and changes nothing."
        ),
        handler=put,
        params=KeyParams,
        body=NewValue,
        header_params={"If-Match": f"Required: {_MATCH_RULE}."},
        answers={200: Answer(Entry, "Changed."), 201: Answer(Entry, "Created.")},
        problems={
            412: "The key is at another version, or exists already, or does not exist.",
            428: "Neither If-Match nor If-None-Match.",
        },
        permission="configuration:write",
        changes=_changes,
    ),
)
