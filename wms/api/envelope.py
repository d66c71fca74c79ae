"""What surrounds every request: its id, its measurement, its log line, and errors turned into answers."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping
from time import perf_counter

from wms.api.asgi import Exchange, Outgoing, Receive, Scope, Send, outgoing
from wms.api.coding import coded
from wms.api.conditional import NO_STORE
from wms.api.operation import Endpoint, Services, count_stranger
from wms.api.problem import MEDIA_TYPE, Problem
from wms.api.routing import NoRoute, Routes
from wms.log import RequestLog
from wms.store.database import Unavailable

_logger = logging.getLogger("wms.api")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LOST = 499
"""Status, in the measurement, of a request whose client went away before there was an answer."""


class Envelope:
    """The application that the server calls; counts what is in flight, which is what a shutdown waits for."""

    def __init__(self, routes: Routes[Endpoint], services: Services, log: RequestLog) -> None:
        self._routes = routes
        self._services = services
        self._log = log
        self.in_flight = 0
        services.metrics.in_flight.set_function(lambda: self.in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        exchange = Exchange(scope, receive)
        request_id = _request_id(exchange.headers)
        status = LOST
        self.in_flight += 1
        try:
            answer = await self._answer(exchange, request_id)
            takes = exchange.headers.get(b"accept-encoding")
            if takes is not None:
                answer = coded(answer, takes)
            headers = [*answer.headers, (b"x-request-id", request_id), *exchange.limit]
            if self._services.draining and scope["http_version"].startswith("1"):
                headers.append((b"connection", b"close"))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            status = answer.status
            await send({"type": "http.response.body", "body": answer.content})
        finally:
            self.in_flight -= 1
            method = exchange.method if exchange.method in _METHODS else "other"
            seconds = perf_counter() - started
            self._services.metrics.request(method, exchange.route, status, seconds)
            self._log.request(exchange, method, status, seconds, request_id)

    async def _answer(self, exchange: Exchange, request_id: bytes) -> Outgoing:
        """The answer of the endpoint, or the one that tells why there is none."""
        try:
            endpoint, params = self._routes.find(exchange.method, exchange.path)
            return await endpoint.answer(exchange, params)
        except NoRoute as missing:
            problem = await self._counted(missing, exchange)
        except Exception as error:
            problem = _problem(error, request_id)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in problem.headers.items())
        return outgoing(problem.status, problem.body(request_id.decode()), MEDIA_TYPE, NO_STORE + headers)

    async def _counted(self, missing: NoRoute, exchange: Exchange) -> Problem:
        """`missing`, or the refusal of one who asks too often for what is not there."""
        try:
            await count_stranger(exchange, self._services)
        except Problem as refusal:
            return refusal
        return missing


def _problem(error: Exception, request_id: bytes) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return Problem(503, "unavailable", str(error), headers={"retry-after": str(error.retry_after_s)})
    _logger.error("request %s failed", request_id.decode(), exc_info=error)
    return Problem(500, "internal-error", "the log has more under this request_id")


def _request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's X-Request-Id if it is harmless, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return b"%016x" % random.getrandbits(64)
