"""Asks the services and Redis, and leaves in Redis what the services are to see."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from wmsctl.cache import plan
from wmsctl.clients.http import Http
from wmsctl.clients.redis import RedisConnection, RedisNode
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unreachable, WmsctlError
from wmsctl.invocation import Invocation


def services(invocation: Invocation) -> tuple[plan.Stats, list[str]]:
    """(sum over the services' metrics, names of those that did not answer)."""
    stats, silent = plan.Stats(), []
    for endpoint in invocation.inventory.web.services:
        http = Http(
            f"the service on {endpoint.node}", endpoint.address, endpoint.port,
            ca=invocation.inventory.ca if endpoint.tls else "",
        )  # fmt: skip
        try:
            stats.add(http.get("/metrics").text)
        except WmsctlError:
            silent.append(endpoint.node)
        finally:
            http.close()
    return stats, silent


def nodes(invocation: Invocation) -> list[plan.CacheNode]:
    """Every Redis node; `trouble` where one does not answer."""
    found = []
    for node in invocation.clients.redis():
        try:
            with node.connect() as connection:
                found.append(plan.node_of_info(node.name, connection.call("INFO")))
        except WmsctlError as error:
            found.append(plan.CacheNode(node.name, trouble=error.message))
    return found


def owner(members: Sequence[RedisNode], key: str) -> RedisNode:
    """The one of `members` that is master of the key's slot, as the first that answers says. Raises Unreachable."""
    by_address = {(node.endpoint.address, node.endpoint.port): node for node in members}
    wanted, trouble = plan.slot(key), "the platform has no Redis"
    for node in members:
        try:
            with node.connect() as connection:
                for first, last, master, *_replicas in connection.call("CLUSTER", "SLOTS"):
                    if first <= wanted <= last and (master[0], master[1]) in by_address:
                        return by_address[master[0], master[1]]
            trouble = f"nobody serves slot {wanted}"
        except WmsctlError as error:
            trouble = error.message
    raise Unreachable(f"no master for {key}: {trouble}", hint="see: wmsctl status")


def explain(invocation: Invocation, key: str) -> plan.Explained:
    """Where `key` is."""
    node = owner(invocation.clients.redis(), key)
    with node.connect() as connection:
        return _explain(node, connection, key)


def _explain(node: RedisNode, connection: RedisConnection, key: str) -> plan.Explained:
    head = connection.call("GETRANGE", key, "0", "127")
    size, pttl = connection.call("STRLEN", key), connection.call("PTTL", key)
    return plan.explain(key, node.name, head, size, pttl, time.time())


def invalidate(invocation: Invocation, key: str) -> plan.Explained:
    """Make every reader load `key` anew, and show it. Raises Failed when it is not so afterwards."""
    node = owner(invocation.clients.redis(), key)
    with node.connect() as connection:
        entry = plan.tombstone(time.time(), secrets.token_hex(6))
        connection.call("SET", key, entry, "PX", str(plan.TOMBSTONE_MS))
        found = _explain(node, connection, key)
    # Another reader may have filled it again at once: then its value is newer than the tombstone.
    if found.state not in ("invalidated", "value", "negative"):
        raise Failed(f"{key} is {found.state} after it was invalidated", hint="see: wmsctl status")
    return found


def warm(invocation: Invocation, what: str, deadline: Deadline) -> str:
    """Ask the services to warm `what`, and wait for the answer of the one that does; returns its JSON."""
    members = invocation.clients.redis()
    asked, answered = owner(members, plan.REQUEST), owner(members, plan.RESULT)
    with answered.connect() as connection:
        connection.call("DEL", plan.RESULT)
    with asked.connect() as connection:
        connection.call("SET", plan.REQUEST, what, "PX", str(max(1000, round(deadline.remaining() * 1000))))

    def answer() -> str | None:
        with answered.connect() as connection:
            found = connection.call("GET", plan.RESULT)
        return str(found) if found else None

    return wait_until(
        answer,
        deadline,
        0.2,
        "a service to warm the cache",
        hint="the service's log says more; see: wmsctl status",
    )
