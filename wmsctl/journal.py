"""The operation journal: what was started, which steps were done, and how it ended.

One folder per context holds one JSON-lines file per operation. Every line is on disk before the step that it
announces begins, so that whoever comes after a crash knows what may have happened: a step that was started
and not finished has an unknown outcome and is to be checked, not assumed. `lock` keeps two operations on one
platform apart; the kernel frees it when its holder dies, so it is never stale.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets as entropy
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Refused, Usage, WmsctlError

Result = Literal["done", "undone", "failed", "refused"]
StepState = Literal["started", "done", "failed", "interrupted"]


def now() -> str:
    """This moment as UTC ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Step:
    """One step as the journal tells it. `started` without an end means that its outcome is unknown."""

    name: str
    state: StepState
    started: str
    finished: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One operation as the journal tells it; `result` is empty while it is unfinished."""

    id: str
    kind: str
    started: str
    operator: str
    host: str
    pid: int
    plan: Any
    arguments: dict[str, Any]
    steps: tuple[Step, ...] = ()
    notes: tuple[dict[str, Any], ...] = ()
    result: Result | Literal[""] = ""
    finished: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        return not self.result

    def reached(self, name: str) -> bool:
        """Whether the step was at least started, so that its effect may exist."""
        return any(step.name == name for step in self.steps)

    def completed(self, name: str) -> bool:
        """Whether the step's latest run was finished well."""
        states = [step.state for step in self.steps if step.name == name]
        return bool(states) and states[-1] == "done"


class Record:
    """The open journal file of one operation. Use from one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.stem

    @contextmanager
    def step(self, name: str, **detail: Any) -> Iterator[dict[str, Any]]:
        """Write that the step starts, run the body, write how it ended.

        The body may put facts into the dict it is given; they go into the closing line. An exception is
        written as failed (KeyboardInterrupt and termination as interrupted) and passes on.
        """
        self._write({"event": "step-started", "step": name, "detail": detail})
        facts: dict[str, Any] = {}
        try:
            yield facts
        except BaseException as error:
            state = "step-failed" if isinstance(error, Exception) else "step-interrupted"
            facts["error"] = _describe(error)
            # The body's own error is the one to report, even when the disk is full now.
            try:
                self._write({"event": state, "step": name, "detail": facts})
            except WmsctlError as trouble:
                error.add_note(str(trouble))
            raise
        self._write({"event": "step-done", "step": name, "detail": facts})

    def note(self, **detail: Any) -> None:
        """A fact worth keeping that is no step (an observation, a decision)."""
        self._write({"event": "note", "detail": detail})

    def finish(self, result: Result, **detail: Any) -> None:
        """Close the operation: it is not offered for resuming any more."""
        self._write({"event": "end", "result": result, "detail": detail})

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append one line and force it to disk. Raises Failed when the state folder cannot take it."""
        text = json.dumps({"at": now(), **line}, default=_plain, separators=(",", ":")) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, text.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Failed(
                f"cannot write the journal {self.path}: {error.strerror}",
                hint="free space, or set WMSCTL_STATE to a writable folder; no journal, no change",
            ) from error


class Journal:
    """The journal of one context."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.operations = directory / "operations"

    @contextmanager
    def lock(self, command: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the context's exclusive lock during the body.

        Raises Refused, saying who has held it since when, if it is not free within `wait_s` seconds. A child
        made by plain fork shares the lock; one started by exec (subprocess) does not.
        """
        self._make()
        path = self.directory / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = Deadline.after(wait_s)
            try:
                wait_until(lambda: _try_lock(descriptor), deadline, 0.1, "the lock", error=Refused)
            except Refused:
                raise Refused(
                    f"another operation holds the lock {path}: {_holder(descriptor)}",
                    hint="wait for it to end; the lock is freed by itself when that process dies",
                ) from None
            holder = {"pid": os.getpid(), "command": command, "since": now(), "operator": operator()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def begin(self, kind: str, plan: Any, arguments: Mapping[str, Any] | None = None) -> Record:
        """Open a new operation. `plan` is any JSON-able value (dataclasses and msgspec structs too): what
        will be done.
        """
        self._make()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        record = Record(self.operations / f"{moment}-{kind}-{entropy.token_hex(2)}.jsonl")
        record._write(
            {
                "event": "begin",
                "kind": kind,
                "plan": plan,
                "arguments": dict(arguments or {}),
                "operator": operator(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
            }
        )
        _sync_directory(self.operations)
        return record

    def reopen(self, operation: Operation) -> Record:
        """Continue an unfinished operation. Hold the lock. A torn last line is cut off first."""
        path = self.operations / f"{operation.id}.jsonl"
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)
        record = Record(path)
        record.note(reopened_by=operator(), pid=os.getpid(), host=socket.gethostname())
        return record

    def history(self, *, kind: str = "", limit: int = 0) -> list[Operation]:
        """Operations, newest first; `kind` is a prefix, `limit` 0 means all."""
        if not self.operations.is_dir():
            return []
        found = []
        for path in sorted(self.operations.glob("*.jsonl"), reverse=True):
            operation = read(path)
            if operation is not None and operation.kind.startswith(kind):
                found.append(operation)
                if limit and len(found) == limit:
                    break
        return found

    def unfinished(self, *, kind: str = "") -> list[Operation]:
        """Operations without an end, newest first. While the lock is held by the caller none of them is
        running.
        """
        return [operation for operation in self.history(kind=kind) if operation.unfinished]

    def get(self, identifier: str) -> Operation:
        """The operation with this id (or an unambiguous part of it). Raises Usage when
        none or several match.
        """
        matches = [operation for operation in self.history() if identifier in operation.id]
        if len(matches) != 1:
            count = "no operation" if not matches else f"{len(matches)} operations"
            raise Usage(
                f"{count} in {self.operations} match {identifier!r}", hint="see: wmsctl failover history"
            )
        return matches[0]

    def _make(self) -> None:
        try:
            self.operations.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Failed(
                f"cannot make the state folder {self.operations}: {error.strerror}",
                hint="set WMSCTL_STATE to a writable folder",
            ) from error


def read(path: Path) -> Operation | None:
    """Read one journal file; None when not even its first line reached the disk.

    Raises Failed when a line other than the last is damaged: then the file was edited or the disk lies.
    """
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # what stands after the last newline: nothing, or a torn line
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise Failed(
                f"the journal {path} is damaged in line {number}", hint="move it away to go on"
            ) from error
    if not events:
        return None
    return _assemble(path, events)


def _assemble(path: Path, events: list[dict[str, Any]]) -> Operation:
    first, steps, notes = events[0], [], []
    result: Result | Literal[""] = ""
    finished, detail = "", {}
    ends: dict[str, StepState] = {
        "step-done": "done",
        "step-failed": "failed",
        "step-interrupted": "interrupted",
    }
    for event in events[1:]:
        kind = event["event"]
        if kind == "step-started":
            steps.append(Step(event["step"], "started", event["at"], detail=event["detail"]))
        elif kind in ends:
            index = max(
                i for i, step in enumerate(steps) if step.name == event["step"] and step.state == "started"
            )
            begun = steps[index]
            detail_of_step = {**begun.detail, **event["detail"]}
            steps[index] = Step(begun.name, ends[kind], begun.started, event["at"], detail_of_step)
        elif kind == "note":
            notes.append({"at": event["at"], **event["detail"]})
        elif kind == "end":
            result, finished, detail = event["result"], event["at"], event["detail"]
    return Operation(
        id=path.stem,
        kind=first["kind"],
        started=first["at"],
        operator=first["operator"],
        host=first["host"],
        pid=first["pid"],
        plan=first["plan"],
        arguments=first["arguments"],
        steps=tuple(steps),
        notes=tuple(notes),
        result=result,
        finished=finished,
        detail=detail,
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {holder['pid']} ({holder['command']}) of {holder['operator']} since {holder['since']}"
    except (ValueError, KeyError):
        return "a process that has not written its name yet"


def operator() -> str:
    """Who runs this: the user, and the one behind sudo."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{behind} (as {user})" if behind and behind != user else user


def _plain(value: Any) -> Any:
    """JSON form of structs, dataclasses, enums, paths; secrets stay hidden by their own repr."""
    import msgspec

    try:
        return msgspec.to_builtins(value)
    except TypeError:
        return str(value)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _sync_directory(path: Path) -> None:
    """Force the new file's name to disk, too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
