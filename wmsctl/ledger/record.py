"""The ledger's file: one JSON line of header, one line per outcome, one line at the end.

It is forced to disk in batches while the run goes on, so that what was acknowledged is known also after the
death of the writer. A last line that is torn is ignored: what is not recorded as acknowledged is never
counted as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmsctl.errors import Failed, Usage
from wmsctl.ledger.account import Kind, Outcome

VERSION = "wms.ledger/v1"


@dataclass(frozen=True)
class Header:
    """What the run was to do, and when its first write was due."""

    run: str
    rate: float
    seconds: float
    writers: int
    through: str
    started: float
    """Monotonic."""
    started_wall: float


@dataclass(frozen=True)
class Written:
    """A ledger file as read back. `end` is the monotonic time at which the writers stopped (the last outcome
    if they died).
    """

    header: Header
    outcomes: tuple[Outcome, ...]
    end: float
    complete: bool

    def monotonic(self, wall: float) -> float:
        """The monotonic time of an epoch time, by the nearest outcome that has both (the wall clock may have
        jumped).
        """
        nearest = min(self.outcomes, key=lambda o: abs(o.wall - wall), default=None)
        if nearest is None:
            return self.header.started + wall - self.header.started_wall
        return nearest.done + wall - nearest.wall


class Recorder:
    """Appends to a new ledger file. Raises Failed when it exists or cannot be written."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise Failed(
                f"cannot write the ledger {path}: {error.strerror}", hint="give another --out"
            ) from error
        self._write(_line({"version": VERSION, **header.__dict__}))

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write a batch and force it to disk."""
        self._write("".join(_line(_row(outcome)) for outcome in outcomes))

    def finish(self, end: float) -> None:
        self._write(_line({"end": round(end, 6)}))
        os.close(self._descriptor)

    def _write(self, text: str) -> None:
        if text:
            os.write(self._descriptor, text.encode())
            os.fsync(self._descriptor)


def read(path: Path) -> Written:
    """Read a ledger file, also one whose writer died or still runs.

    Raises Usage when it is none, Failed when a line other than the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise Usage(
            f"cannot read the ledger {path}: {error.strerror}", hint="see: wmsctl ledger check --help"
        ) from error
    lines.pop()  # nothing, or a torn line
    try:
        head: dict[str, Any] = json.loads(lines[0])
        if head.pop("version") != VERSION:
            raise ValueError("another version")
        header = Header(**head)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Usage(f"{path} is no ledger of {VERSION}") from error
    outcomes: list[Outcome] = []
    end: float | None = None
    for number, line in enumerate(lines[1:], 2):
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                end = float(row["end"])
            else:
                outcomes.append(_outcome(row))
        except (ValueError, LookupError, TypeError) as error:
            raise Failed(f"the ledger {path} is damaged in line {number}") from error
    last = max((outcome.done for outcome in outcomes), default=header.started)
    return Written(header, tuple(outcomes), last if end is None else end, end is not None)


def _row(o: Outcome) -> list[Any]:
    times = (round(o.scheduled, 6), round(o.sent, 6), round(o.done, 6), round(o.wall, 6))
    return [o.writer, o.seq, *times, int(o.kind), o.timeline, o.error]


def _outcome(row: list[Any]) -> Outcome:
    writer, seq, scheduled, sent, done, wall, kind, timeline, error = row
    return Outcome(writer, seq, scheduled, sent, done, wall, Kind(kind), timeline, error)


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
