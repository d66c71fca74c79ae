"""HTTP and JSON over a kept connection: the base of the Patroni, etcd, Prometheus and health clients.

On the standard library: it loads in a third of the time of an HTTP package, and a command line tool pays that
on every run. One instance is one connection; it is not for use from several threads at once.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wmsctl.errors import Failed, Unreachable, Usage
from wmsctl.secrets import Secret

MAX_BODY = 16 * 1024 * 1024
"""Bytes accepted in an answer: a wrong port must not fill the memory."""

# The errors of a kept connection that its server closed in the meantime; one new try on a new connection is
# right then.
STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, http.client.CannotSendRequest)


class StatusError(Failed):
    """The server answered, with a status that was not expected. `status` and `body` tell which."""

    def __init__(self, message: str, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Response:
    """An answer: `headers` have lower-case names."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The decoded body. Raises Failed when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Failed(f"expected JSON, got {self.text[:80]!r}") from error


@functools.cache
def tls(ca: str) -> ssl.SSLContext:
    """A TLS context that trusts only the platform's private CA. Raises Usage when the
    bundle cannot be read.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise Usage(
            f"cannot use the CA bundle {ca}: {error.strerror or error}",
            hint="bring the platform up again (make up), or import its inventory again",
        ) from error
    return context


class Http:
    """A client of one address.

    `what` names the server in errors ("Patroni on pg-1"). `timeout` in seconds bounds each connect, write and
    read. `ca` is the path of the CA bundle, empty for plain HTTP.
    """

    def __init__(
        self,
        what: str,
        address: str,
        port: int,
        *,
        ca: str = "",
        auth: tuple[str, Secret] | None = None,
        timeout: float = 3.0,
    ) -> None:
        self.what = what
        self.address = address
        self.port = port
        self.timeout = timeout
        self._ca = ca
        self._auth = auth
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        expect: tuple[int, ...] | None = (200,),
    ) -> Response:
        """Send one request, `body` as JSON, and read the answer.

        `expect` lists the good statuses, None takes any. Raises Unreachable when there is no answer in time,
        StatusError when it has another status. A lost GET on a kept connection is repeated once; nothing else
        ever is.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", **(headers or {})}
        if data is not None:
            sent["Content-Type"] = "application/json"
        if self._auth is not None:
            user, password = self._auth
            token = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
            sent["Authorization"] = f"Basic {token}"
        kept = self._connection is not None
        try:
            try:
                response = self._exchange(method, path, data, sent, timeout or self.timeout)
            except STALE:
                self.close()
                if not kept or method != "GET":
                    raise
                response = self._exchange(method, path, data, sent, timeout or self.timeout)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(
                f"{self.what} at {self.address}:{self.port} does not answer: {_reason(error)}",
                hint=_hint(error),
            ) from error
        if expect is not None and response.status not in expect:
            raise StatusError(
                f"{self.what} at {self.address}:{self.port} answered {response.status} to {method} {path}:"
                f" {' '.join(response.text.split())[:200]}",
                response.status,
                response.text,
            )
        return response

    def get(
        self, path: str, *, timeout: float | None = None, expect: tuple[int, ...] | None = (200,)
    ) -> Response:
        return self.request("GET", path, timeout=timeout, expect=expect)

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Response:
        connection = self._connection
        if connection is None:
            if self._ca:
                connection = http.client.HTTPSConnection(
                    self.address, self.port, timeout=timeout, context=tls(self._ca)
                )
            else:
                connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = connection
        elif connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request(method, path or "/", body=data, headers=dict(headers))
        answer = connection.getresponse()
        content = answer.read(MAX_BODY)
        if answer.will_close or not answer.isclosed():
            self.close()
        return Response(answer.status, content, {name.lower(): value for name, value in answer.getheaders()})


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return type(error).__name__


def _hint(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the CA of the inventory and of the server differ: import the context again after make up"
    return "see which parts are away: wmsctl status"
