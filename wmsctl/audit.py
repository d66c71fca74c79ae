"""The audit log: one line for every change that wmsctl made or tried to make on a platform."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmsctl.errors import Failed, Refused, WmsctlError
from wmsctl.journal import now, operator

HIDDEN = "***"
_TELLTALE = ("password", "passwd", "secret", "token", "credential", "passphrase", "private_key", "access_key")


def redact(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every value hidden whose name sounds like a secret, at any depth."""
    return {name: HIDDEN if _sounds_secret(name) else _clean(value) for name, value in arguments.items()}


class Audit:
    """The append-only log of one context."""

    def __init__(self, path: Path, context: str) -> None:
        self.path = path
        self.context = context

    @contextmanager
    def mutation(self, action: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Run the body and write one line about it: who, when, where, what, result and duration in seconds.

        The body may put facts into the dict it is given. The log is opened first: what cannot be audited is
        not done (raises Failed before the body runs).
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Failed(
                f"cannot open the audit log {self.path}: {error.strerror}; nothing was changed",
                hint="free space or set WMSCTL_STATE to a writable folder",
            ) from error
        facts: dict[str, Any] = {}
        started, clock = now(), time.monotonic()
        result = "done"
        try:
            yield facts
        except BaseException as error:
            result = "refused" if isinstance(error, Refused) else "failed"
            result = result if isinstance(error, Exception) else "interrupted"
            facts.setdefault(
                "error", error.message if isinstance(error, WmsctlError) else type(error).__name__
            )
            raise
        finally:
            line = {
                "at": started,
                "operator": operator(),
                "host": socket.gethostname(),
                "context": self.context,
                "action": action,
                "arguments": redact(arguments),
                "result": result,
                "duration_s": round(time.monotonic() - clock, 3),
                **({"facts": redact(facts)} if facts else {}),
            }
            try:
                os.write(descriptor, (json.dumps(line, default=str, separators=(",", ":")) + "\n").encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _sounds_secret(name: str) -> bool:
    lowered = name.lower()
    return any(word in lowered for word in _TELLTALE)


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redact(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
