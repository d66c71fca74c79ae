"""API keys of a tenant: made, listed and revoked by its administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from wms.api import commands
from wms.api.authentication import forbidden
from wms.api.operation import Answer, Call, Nothing, Operation, Reply, nothing_kept
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem
from wms.api.rules import Id, KeyRole, Name
from wms.store import api_keys
from wms.store.keys import hash_of, new_key

KeyTier = Literal["authenticated", "premium"]


class ApiKey(msgspec.Struct, frozen=True):
    """A key. Nothing of the key itself is ever shown again. `created_by` is key:<id>, user:<id>, or setup."""

    api_key_id: int
    name: str
    role: KeyRole
    tier: KeyTier
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class MadeApiKey(ApiKey, frozen=True, kw_only=True):
    """A key that was just made. `key` is shown this once; null when an earlier request with the same Idempotency-Key
    made it: if that answer was lost, revoke this key and make another.
    """

    key: str | None


class _Kept(ApiKey, frozen=True, kw_only=True):
    """What is kept under an Idempotency-Key; `secret` is the SHA-256 of the key, in hex."""

    secret: str


class NewApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be, with one role: what needs two gets two keys."""

    name: Name
    role: KeyRole
    tier: KeyTier = "authenticated"


class KeyParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key."""

    api_key_id: Id


class ListParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A page of keys."""


async def list_keys(call: Call[ListParams, Nothing]) -> Reply:
    """A page of keys, by id; revoked ones too."""
    (last,) = after(call, tuple[int]) or (None,)
    rows = await api_keys.page(call.services.database, call.tenant_id, last, call.params.limit + 1)
    return Reply(page(call, rows, key=lambda row: (row[0],), item=lambda row: ApiKey(*row)))


async def create(call: Call[Nothing, NewApiKey]) -> Reply:
    """A new key, once per idempotency key; it can do no more than the credential that makes it."""
    asked, maker = call.body, call.principal
    commands.idempotency_key(call.headers)
    missing = maker.lacks((asked.role,))
    if missing:
        raise forbidden(maker, missing[0])
    if asked.tier == "premium" and maker.tier != "premium":
        raise Problem(403, "forbidden", "a premium key is made with a premium credential only")
    key = new_key()
    secret = hash_of(key)
    arguments = (secret, asked.name, asked.role, asked.tier, maker.subject)
    made = await commands.execute(call, api_keys.CREATE, arguments, _Kept, {})
    kept: _Kept = made.content
    # Another hash: an earlier request made it, and what that one answered cannot be given again.
    shown = key if kept.secret == secret.hex() else None
    told = {name: getattr(kept, name) for name in ApiKey.__struct_fields__}
    return msgspec.structs.replace(made, content=MadeApiKey(**told, key=shown))


async def revoke(call: Call[KeyParams, Nothing]) -> Reply:
    """Revoke a key, for good."""
    api_key_id = call.params.api_key_id
    answer, commit = await api_keys.revoke(call.services.database, call.tenant_id, api_key_id)
    if answer is None:
        raise Problem(404, "unknown-api-key", f"there is no API key {api_key_id}")
    call.services.keys.forget(call.tenant_id, api_key_id)
    return Reply(msgspec.json.decode(answer, type=ApiKey), commit=commit)


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/api-keys",
        name="listApiKeys",
        summary="API keys, by id",
        handler=list_keys,
        params=ListParams,
        answers={200: Answer(Page[ApiKey], "A page of keys.")},
        permission="keys:admin",
    ),
    Operation(
        method="POST",
        path="/api/v1/api-keys",
        name="createApiKey",
        summary="Make an API key",
        description=f"{commands.ONCE} But the key itself is in the first answer only.",
        handler=create,
        params=Nothing,
        body=NewApiKey,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(MadeApiKey, "Made, now or by an earlier request with this Idempotency-Key.")},
        problems={
            403: "Without keys:admin, or the key would be allowed more than the credential that makes it.",
            409: "A request with this Idempotency-Key is still at work.",
            422: "The Idempotency-Key was used for another request.",
        },
        permission="keys:admin",
        changes=nothing_kept,
    ),
    Operation(
        method="DELETE",
        path="/api/v1/api-keys/{api_key_id}",
        name="revokeApiKey",
        summary="Revoke an API key",
        description=(
            "For good; a key that is revoked already stays so. Every process refuses it a few seconds later, and "
            "while the database does not answer, half a minute later."
        ),
        handler=revoke,
        params=KeyParams,
        answers={200: Answer(ApiKey, "The key, revoked.")},
        problems={404: "The tenant has no such key."},
        permission="keys:admin",
        changes=nothing_kept,
    ),
)
