"""The evidence of a drill: one JSON document with everything that the verdict rests on, and a hash over it. Pure.

The hash is SHA-256 over the document without it, in a canonical form (keys in order, no spaces, UTF-8). It tells
whether a report was changed since; who may write into the folder of reports is another matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from wmsctl.drill.verdict import Result
from wmsctl.errors import Failed, Usage

SCHEMA = "wmsctl.drill/v1"
HASH = "sha256"


@dataclass(frozen=True, slots=True)
class Second:
    """What the load saw within one second, beginning at `at` (seconds since the epoch)."""

    at: float
    requests: int
    errors: int
    p95_ms: float | None = None


@dataclass(frozen=True)
class Context:
    """Who did what to which platform, with what."""

    id: str
    platform: str
    environment: str
    operator: str
    host: str
    command: str
    fault: str
    """What was done to the platform, in words."""
    started: float
    injected: float
    finished: float
    versions: Mapping[str, str]
    """Program → version, of everything that took part."""
    backup: str = ""
    """Of a restore: repository and label."""
    load: str = ""
    """What the load was, in words."""


def document(context: Context, result: Result, seconds: Sequence[Second] = ()) -> dict[str, Any]:
    """Everything, with its hash as the last field."""
    objective = result.objective
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "id": context.id,
        "row": objective.row,
        "scenario": objective.scenario,
        "verdict": result.verdict.value,
        "platform": context.platform,
        "environment": context.environment,
        "operator": context.operator,
        "host": context.host,
        "command": context.command,
        "fault": context.fault,
        "backup": context.backup,
        "load": context.load,
        "started": iso(context.started),
        "injected": iso(context.injected),
        "finished": iso(context.finished),
        "objectives": [msgspec.to_builtins(each) for each in result.judgements],
        "phases": [
            {"name": p.name, "begin_s": round(p.begin_s, 3), "seconds": round(p.seconds, 3)}
            for p in result.phases
        ],
        "canaries": msgspec.to_builtins(result.canaries),
        "checks": [msgspec.to_builtins(each) for each in result.checks],
        "aborted": result.aborted,
        "notes": list(result.notes),
        "versions": dict(sorted(context.versions.items())),
        "seconds": [
            {
                "s": round(each.at - context.injected, 3),
                "requests": each.requests,
                "errors": each.errors,
                "p95_ms": each.p95_ms,
            }
            for each in seconds
        ],
    }
    # As it will be read again: lists, no tuples.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return {**plain, HASH: digest(plain)}


def digest(body: Mapping[str, Any]) -> str:
    """The hash over a document; a hash that it already has does not count."""
    bare = {name: value for name, value in body.items() if name != HASH}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(text: bytes | str, source: str) -> dict[str, Any]:
    """Read a report. Raises Usage when it is none, Failed when it is not what was written."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Usage(f"{source} is no JSON document: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise Usage(f"{source} is no {SCHEMA} document")
    if found.get(HASH) != digest(found):
        raise Failed(
            f"{source} was changed after it was written: its hash does not fit",
            hint="the verdict in it proves nothing; run the drill again",
        )
    return found


def iso(at: float) -> str:
    """Seconds since the epoch as UTC ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
