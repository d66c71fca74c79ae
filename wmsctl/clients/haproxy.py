"""HAProxy's statistics page: where each proxy sends connections now."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from wmsctl.clients.http import Http
from wmsctl.errors import Failed
from wmsctl.inventory import Endpoint, Inventory


@dataclass(frozen=True)
class Routes:
    """The health of every server in every listener, as one HAProxy has it."""

    states: Mapping[tuple[str, str], str]
    """(listener, server) → "UP", "DOWN", "UP 1/2" (on its way down), "DOWN 1/2", "MAINT", "no check"…"""

    def up(self, listener: str) -> tuple[str, ...]:
        """Servers that get connections of `listener`, also those on their way down."""
        return tuple(
            server for (of, server), state in self.states.items() if of == listener and state.startswith("UP")
        )


class HAProxy:
    """One HAProxy. One connection; not for several threads at once."""

    def __init__(self, name: str, http: Http) -> None:
        self.name = name
        self.http = http

    def routes(self, *, timeout: float = 1.0) -> Routes:
        """Raises Unreachable, and Failed when the answer is no statistics page."""
        return parse_routes(self.http.get("/;csv;norefresh", timeout=timeout).text)

    def close(self) -> None:
        self.http.close()


def haproxy_client(inventory: Inventory, endpoint: Endpoint) -> HAProxy:
    """The client of the HAProxy behind one statistics endpoint of the inventory."""
    http = Http(
        f"HAProxy on {endpoint.node}",
        endpoint.address,
        endpoint.port,
        ca=inventory.ca if endpoint.tls else "",
    )
    return HAProxy(endpoint.node, http)


def parse_routes(text: str) -> Routes:
    """The CSV page → Routes. Raises Failed for anything else."""
    if not text.startswith("# pxname,svname,"):
        raise Failed(f"expected HAProxy's statistics, got {text[:80]!r}")
    table = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return Routes(
        {
            (row["pxname"], row["svname"]): row["status"]
            for row in table
            if row["svname"] not in ("FRONTEND", "BACKEND")
        }
    )
