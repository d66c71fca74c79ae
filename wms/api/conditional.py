"""What caches may do with an answer, and answers that say "you have it" (ETag, If-None-Match, 304).

The contract between the service, the gateway's and the edge's caches and the browser, on every GET of a tenant's data
that succeeds:

- `Cache-Control: private, max-age=N` (N = 0: `private, no-cache`) is for the browser. `private`, since the
  answer depends on the credential; a shared cache in between that knows nothing of tenants must not keep it.
- `Surrogate-Control: max-age=N` is for our own gateway and edge, which key what they keep by tenant and role. They
  obey it instead of Cache-Control, and strip it, with Surrogate-Key, before the answer leaves the platform. Without
  it they keep nothing. `X-Accel-Expires: N` says the same in the only words that nginx takes from an answer, and
  nginx strips it.
- `Surrogate-Key: t1 t1:stock t1:sku:ABC` names what the answer tells of. Every key begins with the tenant, `t<id>`.
  A change of the entity `sku` with the identifier `ABC` (wms/migrations/0004_orders.sql, outbox) makes stale what has
  the key `t1:sku:ABC` or, for lists, `t1:sku`. Both are purged; `t1` purges all of a tenant.
- `Vary: Authorization, WMS-Min-LSN, Accept-Encoding`: two users of one browser never see each other's answers, and
  one who asks for what he has just written (WMS-Min-LSN) is not given what was kept before. Our caches key by tenant,
  role and coding instead, and pass a request with WMS-Min-LSN through without looking.
- `ETag` is strong, made of the body before compression; whoever compresses weakens it (W/), and both
  forms are recognised in If-None-Match. Compression is the gateway's, but for deflate (wms/api/coding.py).

A GET without a tenant (the description) says `public` and has no tenant in its keys. Whatever is no GET, is an error,
or has no policy and no tenant, is `no-store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from urllib.parse import quote

import msgspec

from wms.api.asgi import Headers

NO_STORE: Headers = ((b"cache-control", b"no-store"),)
_VARY = (b"vary", b"Authorization, WMS-Min-LSN, Accept-Encoding")
_VARY_PUBLIC = (b"vary", b"Accept-Encoding")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How long an answer is good, in seconds, and what it tells of.

    `keys` are surrogate keys without the tenant, with parameters in braces: ("stock", "sku:{sku}"). A key with a
    parameter that was not given is left out.
    """

    browser_s: int = 0
    """0: the browser asks each time, and is told 304 when nothing has changed."""
    surrogate_s: int = 0
    """0: gateway and edge keep nothing."""
    keys: tuple[str, ...] = ()

    def headers(self, tenant_id: int, params: msgspec.Struct) -> Headers:
        """The headers of an answer to a tenant, or to anybody when `tenant_id` is 0."""
        keys = surrogate_keys(self.keys, tenant_id, params)
        named = ((b"surrogate-key", " ".join(keys).encode()),) if keys else ()
        return _lifetimes(self, private=tenant_id != 0) + named


@cache
def _lifetimes(policy: CachePolicy, private: bool) -> Headers:
    """Those of its headers that are the same for all answers."""
    age = f"max-age={policy.browser_s}" if policy.browser_s else "no-cache"
    found = [(b"cache-control", f"{'private' if private else 'public'}, {age}".encode())]
    found.append(_VARY if private else _VARY_PUBLIC)
    if policy.surrogate_s:
        found.append((b"surrogate-control", b"max-age=%d" % policy.surrogate_s))
        found.append((b"x-accel-expires", b"%d" % policy.surrogate_s))
    return tuple(found)


REVALIDATE = CachePolicy()
"""For a tenant's data without a policy of its own."""


def surrogate_keys(templates: tuple[str, ...], tenant_id: int, params: msgspec.Struct) -> tuple[str, ...]:
    """The keys of an answer, the tenant's own first."""
    if not templates:
        return (f"t{tenant_id}",) if tenant_id else ()
    values = {
        name: quote(str(value), safe="")
        for name in params.__struct_fields__
        if (value := getattr(params, name)) is not None
    }
    prefix = f"t{tenant_id}:" if tenant_id else ""
    found = [f"t{tenant_id}"] if tenant_id else []
    for template in templates:
        try:
            found.append(prefix + template.format_map(values))
        except KeyError:
            continue
    return tuple(found)


def etag(body: bytes) -> bytes:
    """A strong validator of `body`, quoted: 96 bits of BLAKE2b, about a microsecond per KB."""
    return b'"' + blake2b(body, digest_size=12).hexdigest().encode() + b'"'


def matches(headers: Mapping[bytes, bytes], tag: bytes) -> bool:
    """Whether the client has the answer with this ETag already (If-None-Match, weak comparison, RFC 9110 §13.1.2)."""
    asked = headers.get(b"if-none-match")
    if asked is None:
        return False
    if asked.strip() == b"*":
        return True
    return any(part.strip().removeprefix(b"W/") == tag for part in asked.split(b","))
