"""The process that writes: `python -m wmsctl.ledger.worker`, its order as one JSON line on standard input.

Writes are due at fixed times (an open model), whether or not the earlier ones were answered; each writer
keeps its session until it breaks, as a client does that was connected before the fault. It says `ready` after
the first acknowledged write and stops when its time is over or its input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from wmsctl.errors import WmsctlError
from wmsctl.ledger.account import Kind, Outcome
from wmsctl.ledger.record import Header, Recorder

INSERT = "INSERT INTO ops.ledger (run, writer, seq) VALUES (%s, %s, %s) RETURNING timeline"

FLUSH_S = 0.2
RETRY_S = 0.05
"""Pause after an error, before the next write of that writer."""

BACKLOG_S = 1.0
"""A write that could not be sent within this time after it was due is skipped, and counted as such: a flood
after an outage would measure the flood.
"""

CONNECT_S = 3
DRAIN_S = 5.0
"""How long the answers of writes under way are awaited at the end."""

LOST_STATES = ("08", "57P")
"""SQLSTATE classes after which nobody knows whether a statement under way was committed (PgBouncer's own
errors are 08P01).
"""


@dataclass
class Shared:
    """What the writers of one run have in common."""

    run: str
    rate: float
    writers: int
    start: float
    end: float
    timeout: float
    targets: list[dict[str, Any]]
    outcomes: list[Outcome]
    stop: asyncio.Event
    flowing: asyncio.Event


class Writer:
    """One client: a session, and its share of the schedule."""

    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self._number = number
        self._target = number
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._warned = False
        self._severed = False
        self.pending: tuple[int, float, float] | None = None
        """(seq, due, sent) of the write that has no answer yet."""

    async def open(self) -> str:
        """Connect; the class of the error, empty when it worked. The next attempt goes to the next target."""
        targets = self._shared.targets
        options = targets[self._target % len(targets)]
        try:
            connection = await psycopg.AsyncConnection.connect(
                autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_S, **options
            )
        except (psycopg.Error, OSError):
            self._target += 1
            return "connect"
        connection.add_notice_handler(self._notice)
        self._connection = connection
        return ""

    async def work(self) -> None:
        """Write until the schedule ends."""
        shared = self._shared
        seq = 0
        while True:
            due = shared.start + (seq * shared.writers + self._number) / shared.rate
            if due >= shared.end or not await self._until(due):
                break
            seq += 1
            if time.monotonic() - due > BACKLOG_S:
                self._note(seq, due, 0.0, Kind.skipped)
                continue
            if self._connection is None:
                error = await self.open()
                if error:
                    self._note(seq, due, 0.0, Kind.failed, error=error)
                    await self._until(time.monotonic() + RETRY_S)
                    continue
            if not await self._write(seq, due):
                await self._until(time.monotonic() + RETRY_S)
        if self._connection is not None:
            await self._connection.close()

    async def _write(self, seq: int, due: float) -> bool:
        """One write and its outcome; whether it was acknowledged."""
        shared, connection = self._shared, self._connection
        assert connection is not None
        self._warned = self._severed = False
        # Cancelling the task would make the driver send a cancel request, which can turn a wait for
        # replication into a commit that is not covered. Shutting the socket down only loses the answer.
        timer = asyncio.get_running_loop().call_later(shared.timeout, self._sever)
        sent = time.monotonic()
        self.pending = seq, due, sent
        try:
            cursor = await connection.execute(INSERT, (shared.run, self._number, seq))
            row = await cursor.fetchone()
        except psycopg.Error as error:
            kind, name = classify(error, severed=self._severed)
            self._note(seq, due, sent, kind, error=name)
            if connection.closed or kind is Kind.unknown:
                await self._drop()
            return False
        finally:
            timer.cancel()
        if self._warned or row is None:
            self._note(seq, due, sent, Kind.unknown, error="unconfirmed")
            return False
        self._note(seq, due, sent, Kind.acknowledged, timeline=int(row[0]))
        shared.flowing.set()
        return True

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()
        self._target += 1

    async def _until(self, moment: float) -> bool:
        """Sleep until `moment`; False when the run is to stop."""
        while not self._shared.stop.is_set():
            left = moment - time.monotonic()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, 0.5))
        return False

    def _notice(self, diagnostic: Any) -> None:
        # A commit that did not wait for its standbys says so in a warning and is acknowledged nevertheless.
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warned = True

    def _sever(self) -> None:
        self._severed = True
        if self._connection is not None and not self._connection.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def give_up(self) -> None:
        """The run is over: a write without an answer has an unknown outcome."""
        if self.pending is not None:
            seq, due, sent = self.pending
            self._note(seq, due, sent, Kind.unknown, error="unanswered")

    def _note(
        self, seq: int, due: float, sent: float, kind: Kind, *, timeline: int = 0, error: str = ""
    ) -> None:
        self.pending = None
        self._shared.outcomes.append(
            Outcome(self._number, seq, due, sent, time.monotonic(), time.time(), kind, timeline, error)
        )


def classify(error: psycopg.Error, *, severed: bool) -> tuple[Kind, str]:
    """(failed or unknown, class of the error) of a statement that was sent.

    A SQLSTATE outside LOST_STATES is the server's word that the transaction was rolled back; all else is not
    known.
    """
    if severed:
        return Kind.unknown, "timeout"
    state = error.sqlstate or ""
    if not state:
        return Kind.unknown, "lost"
    return (Kind.unknown if state.startswith(LOST_STATES) else Kind.failed), state


async def write(order: dict[str, Any]) -> None:
    """Run the order: open all sessions, write on schedule, record, stop."""
    shared = Shared(
        run=order["run"],
        rate=float(order["rate"]),
        writers=int(order["writers"]),
        start=0.0,
        end=0.0,
        timeout=float(order["timeout"]),
        targets=order["targets"],
        outcomes=[],
        stop=asyncio.Event(),
        flowing=asyncio.Event(),
    )
    writers = [Writer(shared, number) for number in range(shared.writers)]
    await asyncio.gather(*(writer.open() for writer in writers))
    shared.start = time.monotonic() + 0.05
    shared.end = shared.start + float(order["seconds"])
    header = Header(
        shared.run,
        shared.rate,
        float(order["seconds"]),
        shared.writers,
        order["through"],
        shared.start,
        time.time() + shared.start - time.monotonic(),
    )
    recorder = Recorder(Path(order["path"]), header)
    asyncio.get_running_loop().add_reader(0, _input, shared.stop)
    over = asyncio.Event()
    tasks = {asyncio.create_task(writer.work()) for writer in writers}
    flusher = asyncio.create_task(_flush(shared, recorder, over))
    announcer = asyncio.create_task(_announce(shared))
    stopper = asyncio.create_task(shared.stop.wait())
    everyone = asyncio.create_task(asyncio.wait(tasks))
    await asyncio.wait({everyone, stopper}, return_when=asyncio.FIRST_COMPLETED)
    end = time.monotonic()
    await asyncio.wait(tasks, timeout=DRAIN_S)
    over.set()
    await flusher
    for writer in writers:
        writer.give_up()
    recorder.append(shared.outcomes)
    recorder.finish(max([end, *(o.done for o in shared.outcomes if o.kind is Kind.acknowledged)]))
    announcer.cancel()
    sys.stdout.flush()
    os._exit(0)  # sessions that still wait for an answer are cut: what became of them is looked up


async def _flush(shared: Shared, recorder: Recorder, over: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while not over.is_set():
        await asyncio.sleep(FLUSH_S)
        batch, shared.outcomes[:] = list(shared.outcomes), []
        await loop.run_in_executor(None, recorder.append, batch)


async def _announce(shared: Shared) -> None:
    await shared.flowing.wait()
    print("ready", flush=True)


def _input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


def main() -> int:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 1
        line += byte
    try:
        asyncio.run(write(json.loads(line)))
    except WmsctlError as error:
        print(error.message, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
