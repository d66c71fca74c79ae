"""How many requests a minute: anonymous by address, others by tenant and tier (row A3).

Every answer that was counted says so in RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, the fields of
draft-ietf-httpapi-ratelimit-headers-06 (later drafts join them into one field that few clients read yet). Reset is the
number of seconds until the whole quota is there again; of a refusal, Retry-After says when the next request may come.
Liveness, readiness and metrics are not counted: who watches the service must not be shut out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from wms.api.asgi import Headers
from wms.api.problem import Problem
from wms.domain.limits import Decision
from wms.domain.roles import Principal
from wms.settings import Settings

Network = IPv4Network | IPv6Network


def bucket_of(principal: Principal, settings: Settings) -> tuple[str, int]:
    """(name, limit) of the bucket of a credential; limit 0: not limited."""
    limit = settings.rate_premium if principal.tier == "premium" else settings.rate_authenticated
    return f"tenant-{principal.tenant_id}-{principal.tier}", limit


def bucket_of_stranger(scope: Mapping[str, Any], settings: Settings) -> tuple[str, int]:
    """(name, limit) of the bucket of whoever sent a request without a good credential."""
    name = client_address(scope, settings.trusted_proxies).replace(":", "_").replace("/", "-")
    return f"address-{name}", settings.rate_anonymous


def headers_of(decision: Decision) -> Headers:
    """What the client is told with every answer."""
    return (
        (b"ratelimit-limit", b"%d" % decision.limit),
        (b"ratelimit-remaining", b"%d" % decision.remaining),
        (b"ratelimit-reset", b"%d" % decision.reset_s),
    )


def too_many(decision: Decision) -> Problem:
    """429 with the time to wait."""
    return Problem(
        429,
        "too-many-requests",
        f"allowed: {decision.limit} requests a minute; try again in {decision.retry_after_s} s",
        headers={"retry-after": str(decision.retry_after_s)},
    )


def client_address(scope: Mapping[str, Any], trusted: Sequence[Network]) -> str:
    """The client's IPv4 address or IPv6 network of 64 bits (one customer has at least that many, RFC 6177).

    X-Real-IP is believed only of a peer in `trusted`: anybody else could write there what he likes.
    """
    peer = (scope.get("client") or ("", 0))[0]
    address = _parsed(peer)
    if address is None:
        return "unknown"
    if _within(address, tuple(trusted)):
        for name, value in scope["headers"]:
            if name == b"x-real-ip":
                address = _parsed(value.decode("latin-1")) or address
                break
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    if len(text) > 45:
        return None
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=1024)
def _within(address: IPv4Address | IPv6Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
