"""The guard of a pause: a process of its own that resumes the poolers when wmsctl dies or hangs.

`python -m wmsctl.failover.guard` reads one JSON line (who the poolers are and how to log in) from standard
input, opens a console to each of them, answers `ready`, and waits. `disarm` on standard input ends it. The
end of its input (wmsctl died) or the end of its time makes it resume every database that is paused, over and
over until each is seen running.

It runs in a session of its own, so that neither Ctrl-C nor the loss of the terminal reaches it, and the
password comes through the pipe: not in the arguments, not in the environment.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from wmsctl.errors import Failed, Unreachable, WmsctlError

READY_S = 10.0
"""Bound for the start of the guard: an interpreter, a driver and a login to each pooler."""
INSIST_S = 120.0
"""How long the guard goes on trying a pooler that does not answer."""
RETRY_S = 0.2

DISARMED, ACTED, HELPLESS = 0, 10, 11
"""Exit codes of the guard: not needed; resumed what was paused; could not reach some pooler."""


class Resumable(Protocol):
    """What the guard does to a pooler: resume whatever is paused there, return what was."""

    name: str

    def resume_all(self) -> list[str]: ...


class Guard:
    """The parent's hold on a running guard."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def disarm(self) -> bool:
        """Tell it that it is not needed any more; False when it had acted by itself before."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"disarm\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            return self._process.wait(timeout=5) == DISARMED
        except subprocess.TimeoutExpired:
            return False

    def release(self) -> None:
        """Leave it armed and let it act at once: what this process could not resume, it goes on trying."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def start(
    poolers: Sequence[dict[str, Any]], *, timer: float, journal: str = "", ready: float = READY_S
) -> Guard:
    """Start a guard that acts after `timer` seconds, or when this process is gone; returns when it is ready.

    `poolers`: dicts with name, address, port, user, password, ca. `journal`: file of the operation, where the
    guard notes that it acted. Raises Failed when it is not ready in time: then nothing may be paused.
    """
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    process = subprocess.Popen(
        [sys.executable, "-m", "wmsctl.failover.guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root},
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    order = {"timer": timer, "poolers": list(poolers), "journal": journal}
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        answered, _, _ = select.select([process.stdout], [], [], ready)
        line = process.stdout.readline().decode().strip() if answered else "no answer in time"
    except OSError as error:
        line = f"it ended early ({error.strerror})"
    if line != "ready":
        process.kill()
        process.wait()
        raise Failed(
            f"the guard that would resume the poolers does not start: {line or 'it ended early'};"
            " nothing was paused",
            hint="see: wmsctl status",
        )
    return Guard(process)


def watch(source: int, timer: float, clock: Callable[[], float] = time.monotonic) -> str:
    """Wait on the file descriptor `source`: "disarmed", "orphaned" (end of input) or "expired"."""
    end = clock() + timer
    received = b""
    while True:
        left = end - clock()
        if left <= 0:
            return "expired"
        ready, _, _ = select.select([source], [], [], left)
        if not ready:
            continue
        chunk = os.read(source, 4096)
        received += chunk
        if b"disarm\n" in received:
            return "disarmed"
        if not chunk:
            return "orphaned"


def insist(
    poolers: Sequence[Resumable], *, seconds: float = INSIST_S, sleep: Callable[[float], None] = time.sleep
) -> tuple[dict[str, list[str]], list[str]]:
    """Resume every pooler until each was seen running, for at most `seconds`.

    Returns (pooler → databases that were paused, poolers that could not be reached). A pooler that is away
    does not hold up the others.
    """
    resumed: dict[str, list[str]] = {}
    left = list(poolers)
    end = time.monotonic() + seconds
    while left:
        for pooler in list(left):
            try:
                found = pooler.resume_all()
            except (Failed, Unreachable):
                continue
            resumed[pooler.name] = found
            left.remove(pooler)
        if not left or time.monotonic() >= end:
            break
        sleep(RETRY_S)
    return resumed, [pooler.name for pooler in left]


def main() -> int:
    """The guard process."""
    source = sys.stdin.fileno()
    order = json.loads(_line(source))
    try:
        poolers = [_connect(entry) for entry in order["poolers"]]
        for pooler in poolers:
            pooler.look()
    except WmsctlError as error:
        print(error.message, flush=True)
        return 1
    print("ready", flush=True)
    cause = watch(source, float(order["timer"]))
    if cause == "disarmed":
        return DISARMED
    resumed, away = insist(poolers)
    _note(order["journal"], cause, resumed, away)
    return HELPLESS if away else ACTED


def _line(source: int) -> bytes:
    """The first line, read byte by byte: what follows it belongs to `watch`."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(source, 1)
        if not byte:
            raise SystemExit(1)
        line += byte
    return line


def _connect(entry: dict[str, Any]) -> Any:
    from wmsctl.failover.poolers import PoolerControl

    return PoolerControl.of(entry)


def _note(journal: str, cause: str, resumed: dict[str, list[str]], away: list[str]) -> None:
    if not journal:
        return
    from wmsctl.journal import Record

    try:
        Record(Path(journal)).note(guard=cause, resumed=resumed, away=away)
    except WmsctlError:
        return  # the poolers matter, the note does not


if __name__ == "__main__":
    sys.exit(main())
