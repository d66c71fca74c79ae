"""What a whole platform must show after a Load: the books agree, every event was published once and heard by every
process, and no layer of the caches shows the past.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support import books
from tests.support.fulfilment import Connection, broken_invariants, rows
from tests.support.platform import Live, eventually
from tests.support.workload import Load
from wms.events.stream import STREAM
from wms.seed import TenantKey
from wmsctl.cache import observe
from wmsctl.clients.redis import RedisNode
from wmsctl.errors import WmsctlError
from wmsctl.inventory import Endpoint

DRAINED_S = 20.0
"""By when every event was published, once everything is there again."""
SERVICE_FRESH_S = 3.0
"""By when a service shows what was committed: its near cache forgets in 2 s without any event (docs/adr/0022)."""
GATEWAY_FRESH_S = 6.0
"""The same for a gateway: 5 s (docs/adr/0021)."""
LOOKED_AT = 60
"""Movements whose SKUs are looked up everywhere."""


def url(endpoint: Endpoint) -> str:
    return f"https://{endpoint.address}:{endpoint.port}"


@dataclass(frozen=True)
class Heard:
    """What a service has heard of the stream: its process, events, and gaps that it saw."""

    pid: int
    events: int
    gaps: int


@dataclass(frozen=True)
class Before:
    """The state that a load began with."""

    balances: dict[books.Place, tuple[int, int]]
    last_event: int
    """The highest event id given."""
    sequence: int
    """The last one published."""
    heard: dict[str, Heard]


@contextmanager
def primary(platform: Live) -> Iterator[Connection]:
    """A superuser's connection to the member that leads now."""
    member = platform.inventory.member(platform.leader())
    server = platform.clients.superuser(member, database=platform.inventory.postgres.database)
    with server.connect(timeout=3, statement_timeout=15, limit=60) as connection:
        yield connection


def tenant_ids(tenants: Sequence[TenantKey]) -> list[int]:
    return [tenant.tenant_id for tenant in tenants]


def before(platform: Live, tenants: Sequence[TenantKey]) -> Before:
    """Look at a platform that nobody works on."""
    sequence = published(platform)
    with primary(platform) as connection:
        ((last_event,),) = rows(connection, "SELECT coalesce(max(event_id), 0) FROM outbox")
        return Before(
            books.balances(connection, tenant_ids(tenants)), int(last_event), sequence, heard(platform)
        )


# Events


def stream_owner(platform: Live) -> RedisNode:
    """The Redis master that has the stream."""
    return observe.owner(platform.clients.redis(), STREAM)


def entries(platform: Live, after: int) -> list[tuple[int, dict[str, Any]]]:
    """(sequence, event) of the stream, after that one."""
    with stream_owner(platform).connect(timeout=10) as connection:
        found = connection.call("XRANGE", STREAM, f"({after}-0", "+")
    return [
        (int(entry.partition("-")[0]), json.loads(dict(zip(words[::2], words[1::2], strict=True))["event"]))
        for entry, words in found
    ]


def published(platform: Live) -> int:
    """The last sequence, once every event in the outbox has one and the stream has all of them."""

    def drained() -> tuple[int, int] | None:
        try:
            with primary(platform) as connection:
                ((waiting, last),) = rows(
                    connection,
                    "SELECT count(*) FILTER (WHERE sequence IS NULL), (SELECT sequence FROM event_relay) FROM outbox",
                )
            with stream_owner(platform).connect() as redis:
                newest = redis.call("XREVRANGE", STREAM, "+", "-", "COUNT", "1")
        except WmsctlError as error:
            found["at the end"] = error.message
            return None
        end = int(newest[0][0].partition("-")[0]) if newest else 0
        found["at the end"] = f"{waiting} events wait, {last} have a number, the stream ends at {end}"
        # A tuple, because no event at all is a fine state too.
        return (last, end) if waiting == 0 and last == end else None

    found = {"at the end": ""}
    return eventually(drained, DRAINED_S, lambda: f"events are not published: {found['at the end']}")[0]


def metric(text: str, name: str) -> int:
    """The value of a metric without labels."""
    match = re.search(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(float(match[1])) if match else 0


def heard(platform: Live) -> dict[str, Heard]:
    """Service → what it has heard."""
    web, pids = platform.web(), platform.pids("wms")
    result = {}
    for endpoint in platform.inventory.web.services:
        text = web.request("GET", f"{url(endpoint)}/metrics").data.decode()
        result[endpoint.node] = Heard(
            pids[f"{endpoint.node}.wms"],
            metric(text, "wms_events_latency_seconds_count"),
            metric(text, "wms_events_gaps_total"),
        )
    return result


def prove_events(platform: Live, start: Before, *, gaps: bool) -> int:
    """Every event was published once, in order, and every process that lives since then heard it; how many there were.

    `gaps`: whether a process may have missed some, and known it (it forgets all copies then).
    """
    end = published(platform)
    with primary(platform) as connection:
        outbox = {
            sequence: (tenant, kind, identifier)
            for sequence, tenant, kind, identifier in rows(
                connection,
                "SELECT sequence, tenant_id, type, identifier FROM outbox WHERE sequence > %s",
                start.sequence,
            )
        }
    stream = entries(platform, start.sequence)
    assert [sequence for sequence, _ in stream] == list(range(start.sequence + 1, end + 1)), (
        "a gap in the stream"
    )
    told = {sequence: (e["tenant_id"], e["type"], e["identifier"]) for sequence, e in stream}
    assert told == outbox, "the stream tells something else than the outbox"
    number = end - start.sequence

    def deaf() -> list[str]:
        now = heard(platform)
        return [
            f"{node} heard {now[node].events - was.events} of {number} events, {now[node].gaps - was.gaps} gaps"
            for node, was in start.heard.items()
            if now[node].pid == was.pid
            and now[node].events - was.events != number
            and not (gaps and now[node].gaps > was.gaps)
        ]

    eventually(lambda: not deaf(), 5, lambda: "; ".join(deaf()))
    return number


# Caches


def stale(
    platform: Live, at: str, expected: dict[tuple[int, str], Any], tenants: Sequence[TenantKey]
) -> dict[tuple[int, str], str]:
    """(tenant, path) → what `at` (a URL) shows there instead of what is in the database."""
    web, keys = platform.web(), {tenant.tenant_id: tenant.api_key for tenant in tenants}
    wrong = {}
    for (tenant, path), want in expected.items():
        answer = web.request(
            "GET", f"{at}/api/v1/{path}", headers={"Authorization": f"Bearer {keys[tenant]}"}
        )
        if answer.status != 200:
            wrong[tenant, path] = f"status {answer.status}"
            continue
        document = answer.json()
        have: Any = document.get("status")
        if "data" in document:
            have = {
                b["location"]: (b["on_hand"], b["reserved"])
                for b in document["data"]
                if b["on_hand"] or b["reserved"]
            }
        if have != want:
            wrong[tenant, path] = f"{have}, in the database {want}"
    return wrong


def prove_fresh(platform: Live, load: Load, due: books.Books) -> float:
    """No service, gateway or edge shows the past of what the load has changed; by when the last one did not, in s."""
    tenants = load.tenants
    expected: dict[tuple[int, str], Any] = {}
    touched = {
        (tenant, warehouse, sku)
        for tenant, sku, *_ in list(due.ledger)[-LOOKED_AT:]
        for warehouse in [next(t.warehouses[0] for t in tenants if t.tenant_id == tenant)]
    }
    for tenant, warehouse, sku in touched:
        expected[tenant, f"stock?warehouse_id={warehouse}&sku={sku}"] = {
            place: units
            for (owner, house, code, place), units in due.balances.items()
            if (owner, house, code) == (tenant, warehouse, sku)
        }
    owners = {c.body["order_number"]: c for c in load.done() if c.kind == "order.create"}
    for number_, (order, status, _) in list(due.orders.items())[-20:]:
        change = owners[number_]
        expected[change.tenant, f"orders/{order}?warehouse_id={change.warehouse}"] = status
    began = time.monotonic()
    web = platform.inventory.web
    for endpoints, limit in (
        (web.services, SERVICE_FRESH_S),
        (web.gateways, GATEWAY_FRESH_S),
        (web.edges, GATEWAY_FRESH_S),
    ):
        for endpoint in endpoints:
            wrong = stale(platform, url(endpoint), expected, tenants)
            while wrong:
                assert time.monotonic() - began < limit, f"{endpoint.node} shows the past: {wrong}"
                time.sleep(0.1)
                wrong = stale(platform, url(endpoint), {each: expected[each] for each in wrong}, tenants)
    return time.monotonic() - began


# All of it


@dataclass(frozen=True)
class Verdict:
    """What the proof counted."""

    done: int
    unknown: int
    """Changes that nobody knew of, until they were asked for again."""
    replayed: int
    """Changes that had been done although the answer was lost."""
    events: int
    errors: Counter[tuple[int, str]]
    """(status, problem) of requests that were told to come again."""


def prove(platform: Live, load: Load, start: Before, *, gaps: bool = False) -> Verdict:
    """End `load` and hold every claim of the module against the platform. Raises AssertionError."""
    unknown = load.settle()
    assert load.wrong == [], "\n".join(load.wrong[:10])
    told_badly = [a for a in load.errors() if not a.retry_after or a.status not in (409, 429, 503)]
    assert told_badly == [], f"{len(told_badly)} answers that no client can go by: {told_badly[:10]}"
    events = prove_events(platform, start, gaps=gaps)
    with primary(platform) as connection:
        found = books.found(connection, tenant_ids(load.tenants), load.run, start.last_event)
        broken = broken_invariants(connection)
        untold = books.movements_told_once(connection, load.run)
    due = books.expected(books.Books(balances=start.balances), load.changes)
    wrong = books.differences(due, found)
    assert wrong == [], f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])
    assert broken == [] and untold == []
    prove_fresh(platform, load, due)
    return Verdict(
        len(load.done()),
        unknown,
        sum(change.replayed for change in load.changes),
        events,
        Counter((a.status, a.problem) for a in load.errors()),
    )
