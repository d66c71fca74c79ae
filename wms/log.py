"""Structured log: one JSON object per line on stderr, for requests and for everything that uses `logging`.

Request lines are collected and written a few times a second: a system call per request would be a tenth of
the cost of answering from memory. No header, query string or body is ever logged, so no credential can be.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from typing import Protocol

import msgspec

_encode = msgspec.json.Encoder().encode
FLUSH_INTERVAL_S = 0.25
_FLUSH_LINES = 200
THIN_INTERVAL_S = 10.0


class Request(Protocol):
    """What is logged of a request."""

    route: str
    path: str
    tenant_id: int | None


class RequestLog:
    """Buffered access log; `mode` is all, errors (status >= 500) or off."""

    def __init__(self, mode: str, instance: str, descriptor: int = 2) -> None:
        self._least_status = {"all": 0, "errors": 500, "off": 1000}[mode]
        self._instance = instance
        self._descriptor = descriptor
        self._lines: list[bytes] = []

    def request(self, of: Request, method: str, status: int, seconds: float, request_id: bytes) -> None:
        """Note one answered request."""
        if status < self._least_status:
            return
        line = {
            "time": _now(),
            "level": "info" if status < 500 else "error",
            "event": "request",
            "instance": self._instance,
            "method": method,
            "route": of.route,
            "path": of.path[:256],
            "status": status,
            "ms": round(seconds * 1000, 3),
            "request_id": request_id.decode(),
            "tenant_id": of.tenant_id,
        }
        self._lines.append(_encode(line))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected. A reader that is gone is no reason to stop serving."""
        if self._lines:
            text, self._lines = b"\n".join(self._lines) + b"\n", []
            try:
                while text:
                    text = text[os.write(self._descriptor, text) :]
            except OSError:
                pass


class _JsonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, object] = {
            "time": _now(),
            "level": record.levelname.lower(),
            "event": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-8000:]
        try:
            sys.stderr.buffer.write(_encode(line) + b"\n")
            sys.stderr.buffer.flush()
        except OSError:
            pass


class _Thinner(logging.Filter):
    """Lets the same kind of message through once in a while: a pool tells of each broken connection."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next.get(record.msg, 0.0):
            return False
        self._next[record.msg] = now + THIN_INTERVAL_S
        return True


def configure(level: str) -> None:
    """Send everything that uses `logging` to stderr as JSON, from `level` up."""
    root = logging.getLogger()
    root.handlers[:] = [_JsonHandler()]
    root.setLevel(level.upper())
    # The pool tells of every connection it hands out at info, which is several lines per request.
    for name in ("psycopg.pool", "psycopg"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, root.level))
        logger.filters[:] = [_Thinner()]


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
