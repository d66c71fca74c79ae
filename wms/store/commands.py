"""Commands: changes that are made once per idempotency key, in one statement, one transaction, one round trip.

A command is a function of the database, `f(p_tenant, p_key, p_hash, …, OUT outcome text, OUT answer text)`, that
claims the key, changes what it changes, and keeps its answer under the key (claim_key and keep_answer in
wms/migrations/0004_orders.sql). Refused, it changes nothing and keeps no key.
"""

from __future__ import annotations

from dataclasses import dataclass

from wms.store.database import Commit, Database, Row, Statement

DONE = frozenset({"done", "posted", "replayed"})
"""Outcomes that mean: it has been done, now or by an earlier request with the same key."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    `name` is the function's outcome: one of DONE, key_reused, in_flight, or a refusal of its own. `answer` is the
    JSON text that came with it.
    """

    name: str
    answer: bytes | None
    commit: Commit
    """Of what was done now; a replayed answer has one without a transaction."""
    replayed: bool
    """Whether an earlier request had done it."""

    @property
    def done(self) -> bool:
        """Whether the change is there."""
        return self.name in DONE


async def run(
    database: Database,
    statement: Statement,
    tenant_id: int,
    key: str,
    request_hash: bytes,
    *arguments: object,
) -> Outcome:
    """Run a command once, however often it is sent with this key.

    `statement` is "SELECT outcome, answer FROM f(%s, …)"; its parameters are the tenant, the key, the hash (32
    bytes) and `arguments`. Raises Unavailable.
    """
    again = False

    def final(row: Row, attempt: int) -> bool:
        # A repeated attempt that finds its key in flight, or its work done, has met its own first one: only that
        # one's end is an answer.
        nonlocal again
        again = attempt > 0
        return not (row[0] == "in_flight" and again)

    (name, answer), commit = await database.write(
        statement, (tenant_id, key, request_hash, *arguments), final=final
    )
    raw = answer.encode() if isinstance(answer, str) else answer
    return Outcome(name, raw, commit, name == "replayed" and not again)
