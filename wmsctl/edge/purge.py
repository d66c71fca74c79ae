"""Purging the edges: what is asked of each, and what each did."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from wmsctl.clients.http import Http
from wmsctl.deadline import Deadline
from wmsctl.errors import Unreachable, Usage, WmsctlError
from wmsctl.inventory import Endpoint, Inventory
from wmsctl.secrets import Secret

KEY = re.compile(r"[A-Za-z0-9:._%-]{1,200}\Z")
MARK = "x-edge-purged"
"""Header by which Varnish says that it was Varnish: without it HAProxy has passed the request on to a gateway."""


@dataclass(frozen=True)
class Purge:
    """What is to go: the objects with one of `keys`, the one at `url` in all its variants, or all."""

    keys: tuple[str, ...] = ()
    url: str = ""
    everything: bool = False

    @property
    def text(self) -> str:
        """In words."""
        if self.everything:
            return "everything"
        return self.url or "what has the key " + " or ".join(self.keys)

    @property
    def path(self) -> str:
        return self.url or "/"

    @property
    def headers(self) -> dict[str, str]:
        """What tells Varnish (stacks/templates/default.vcl.j2), beside the token."""
        if self.everything:
            return {"X-Purge-All": "yes"}
        return {"xkey-purge": " ".join(self.keys)} if self.keys else {}


@dataclass(frozen=True)
class Result:
    """What one edge did. `objects` is known for keys only."""

    node: str
    purged: bool
    objects: int | None
    trouble: str
    reachable: bool = True


def wanted(keys: Iterable[str], url: str, everything: bool) -> Purge:
    """What the options ask for. Raises Usage unless it is exactly one thing, and well-formed."""
    keys = tuple(dict.fromkeys(keys))
    if [bool(keys), bool(url), everything].count(True) != 1:
        raise Usage("purge what?", hint="give exactly one of --key KEY (may be repeated), --url URL, --all")
    for key in keys:
        if not KEY.match(key):
            raise Usage(
                f"{key!r} is no surrogate key", hint="letters, digits and :._%- such as web or t1:sku:ABC"
            )
    if not url:
        return Purge(keys, "", everything)
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    # urlsplit drops what would break the request in two.
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or not path.startswith("/"):
        raise Usage(
            f"{url!r} is no URL of the platform", hint="a path such as /images/parafuso?w=96, or https://…"
        )
    return Purge(url=path)


def run(inventory: Inventory, token: Secret, purge: Purge, deadline: Deadline) -> list[Result]:
    """Purge every edge, one after the other; what fails on one keeps no other from it."""
    return [_one(endpoint, inventory.ca, token, purge, deadline) for endpoint in inventory.web.edges]


def _one(endpoint: Endpoint, ca: str, token: Secret, purge: Purge, deadline: Deadline) -> Result:
    http = Http("edge", endpoint.address, endpoint.port, ca=ca if endpoint.tls else "", timeout=3.0)
    try:
        answer = http.request(
            "PURGE",
            purge.path,
            headers={**purge.headers, "X-Purge-Token": token.reveal()},
            timeout=max(0.1, min(3.0, deadline.remaining())),
            expect=None,
        )
    except WmsctlError as error:
        return Result(endpoint.node, False, None, error.message, not isinstance(error, Unreachable))
    finally:
        http.close()
    mark = answer.headers.get(MARK, "")
    if answer.status == 200 and mark:
        return Result(endpoint.node, True, int(mark) if mark.isdigit() else None, "")
    if answer.status == 403:
        return Result(
            endpoint.node, False, None, "it refuses the token: bring the platform up again (make up)"
        )
    return Result(
        endpoint.node, False, None, f"Varnish does not answer there (status {answer.status})", reachable=False
    )
