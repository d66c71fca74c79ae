"""What surrounds every request: its id, its measurement, its log line, and errors turned into answers."""

from __future__ import annotations

import logging
import random
import re
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wms.api.conditional import NO_STORE
from wms.api.limits import bucket_of_stranger
from wms.api.operation import Services, count, send_answer
from wms.api.problem import MEDIA_TYPE, Problem
from wms.log import RequestLog
from wms.store.database import Unavailable

_logger = logging.getLogger("wms.api")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Envelope:
    """The outermost application; counts what is in flight, which is what a shutdown waits for."""

    def __init__(self, app: ASGIApp, services: Services, log: RequestLog) -> None:
        self._app = app
        self._services = services
        self._log = log
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _request_id(scope)
        status = 0
        # The router raises its 404 and 405 instead of answering in plain text when it sees an application
        # here.
        scope["app"] = self
        extra = [(b"x-request-id", request_id.encode())]

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += extra
                message["headers"] += scope.get("wms.limit", ())
                if self._services.draining and scope["http_version"].startswith("1"):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self.in_flight += 1
        self._services.metrics.in_flight.inc()
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if status:
                # Half an answer is out: only breaking it off tells the client.
                _logger.error("request %s broke off", request_id, exc_info=error)
                raise
            problem = _problem(await self._counted(error, scope), request_id)
            headers = tuple(
                (name.lower().encode(), value.encode()) for name, value in problem.headers.items()
            )
            await send_answer(
                sending, problem.status, problem.body(request_id), MEDIA_TYPE, NO_STORE + headers
            )
        finally:
            self.in_flight -= 1
            self._services.metrics.in_flight.dec()
            seconds = perf_counter() - started
            route = scope.get("wms.route", UNMATCHED)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # 499: the client went away before there was an answer.
            self._services.metrics.request(method, route, status or 499, seconds)
            self._log.request(
                method=method,
                route=route,
                path=scope["path"],
                status=status or 499,
                seconds=seconds,
                request_id=request_id,
                tenant_id=scope.get("wms.tenant"),
            )

    async def _counted(self, error: Exception, scope: Scope) -> Exception:
        """`error`, or the refusal of one who asks too often for what is not there."""
        if isinstance(error, HTTPException):
            services = self._services
            try:
                await count(scope, services, *bucket_of_stranger(scope, services.settings))
            except Problem as refusal:
                return refusal
        return error


def _problem(error: Exception, request_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return Problem(503, "unavailable", str(error), headers={"retry-after": str(error.retry_after_s)})
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return Problem(405, "method-not-allowed", headers=error.headers)
        return Problem(error.status_code, "not-found", "no such resource; see /api/v1/openapi.json")
    _logger.error("request %s failed", request_id, exc_info=error)
    return Problem(500, "internal-error", "the log has more under this request_id")


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id if it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"{random.getrandbits(64):016x}"
