"""Requests that change something: taken once per Idempotency-Key, refused with a problem, answered with an LSN."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from wms.api.operation import Call, Nothing, Reply
from wms.api.problem import Problem, wrong_field
from wms.store import commands
from wms.store.commands import Outcome
from wms.store.database import Statement

Refusals = Mapping[str, Callable[[bytes | None], Problem]]
"""Outcome → the problem that tells it, made from the JSON text that came with the outcome."""

KEY_RULE = "1 to 128 characters out of A-Z a-z 0-9 . _ : -"
KEY_HEADER = {"Idempotency-Key": f"Required: {KEY_RULE}."}
"""For `header_params` of every operation that changes something."""
_KEY = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

ONCE = (
    "Sent again with the same Idempotency-Key within 24 hours, the first answer is given again and nothing changes "
    "twice; a refused request does not use its key up."
)
"""For the description of such an operation."""


def idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    """The request's Idempotency-Key. Raises Problem 400 when it is missing or malformed."""
    key = headers.get(b"idempotency-key")
    if key is None:
        raise wrong_field("Idempotency-Key", "header", "missing", KEY_RULE)
    if not _KEY.fullmatch(key):
        raise wrong_field("Idempotency-Key", "header", "malformed", KEY_RULE)
    return key.decode()


def request_hash(call: Call[Any, Any]) -> bytes:
    """SHA-256 over method, path, parameters and body, 32 bytes: what a key stands for.

    Of the decoded request, so that white space and the order of fields make no other request of it.
    """
    parts = [f"{call.method} {call.path}".encode()]
    if not isinstance(call.params, Nothing):
        parts.append(msgspec.json.encode(call.params, order="sorted"))
    parts.append(msgspec.json.encode(call.body, order="sorted"))
    return hashlib.sha256(b"\n".join(parts)).digest()


async def run(call: Call[Any, Any], statement: Statement, arguments: Sequence[object]) -> Outcome:
    """Run the command of a request, after tenant, key and hash with `arguments`.

    Raises Problem 400 (no valid Idempotency-Key), Unavailable.
    """
    key = idempotency_key(call.headers)
    return await commands.run(
        call.services.database, statement, call.tenant_id, key, request_hash(call), *arguments
    )


def reply(outcome: Outcome, kind: Any, refusals: Refusals, status: int = 201) -> Reply:
    """The answer to an outcome: its JSON decoded as `kind`, with its commit.

    Raises the problem that tells a refusal; RuntimeError for an outcome that nobody has foreseen.
    """
    if not outcome.done:
        raise _refusal(outcome, refusals)
    if outcome.answer is None:
        raise RuntimeError(f"the outcome {outcome.name} came without an answer")
    content = msgspec.json.decode(outcome.answer, type=kind)
    return Reply(content, status, commit=outcome.commit, repeated=outcome.replayed)


async def execute(
    call: Call[Any, Any],
    statement: Statement,
    arguments: Sequence[object],
    kind: Any,
    refusals: Refusals,
    status: int = 201,
) -> Reply:
    """Run the command of a request and answer with its JSON decoded as `kind`.

    Raises Problem 400 (Idempotency-Key), 422 (the key was used for another request), 409 (a request with the key is
    still at work), the problems of `refusals`, Unavailable.
    """
    return reply(await run(call, statement, arguments), kind, refusals, status)


def _refusal(outcome: Outcome, refusals: Refusals) -> Problem:
    if outcome.name in refusals:
        return refusals[outcome.name](outcome.answer)
    if outcome.name == "in_flight":
        text = "a request with this Idempotency-Key is still at work; ask again"
        return Problem(409, "request-in-flight", text, headers={"retry-after": "1"})
    if outcome.name == "key_reused":
        allowed = "the request first sent with this key, or another key"
        return wrong_field("Idempotency-Key", "header", "used for another request", allowed, status=422)
    raise RuntimeError(f"an outcome that nobody has foreseen: {outcome.name}")
