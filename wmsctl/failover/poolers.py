"""Pausing and resuming PgBouncers: one open console each, all at the same time.

Databases are paused one by one, the write database last, so that writers wait no longer than needed; PAUSE
returns when no transaction of the database runs any more and its server connections are closed. What is
paused is always resumed by name, because a plain RESUME does not lift the pause of a single database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wmsctl.clients.pgbouncer import Console, PgBouncer, PooledDatabase
from wmsctl.clients.postgres import Server
from wmsctl.errors import Failed, Unreachable, WmsctlError
from wmsctl.inventory import Login, Pooler
from wmsctl.secrets import Secrets

T = TypeVar("T")

CONSOLE_S = 2.0
"""Bound of one console command other than PAUSE."""


class PoolerControl:
    """One PgBouncer under the control of an operation, over one kept console connection. One thread at a
    time.
    """

    def __init__(self, client: PgBouncer) -> None:
        self.name = client.name
        self._client = client
        self._console: Console | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> PoolerControl:
        """From the plain form that crosses a pipe (see `entry`)."""
        name = entry["name"]
        server = Server(
            f"PgBouncer on {name}",
            entry["address"],
            int(entry["port"]),
            database="pgbouncer",
            login=Login(user=entry["user"], secret="password"),
            secrets=Secrets({"password": entry["password"]}, "the guard's order"),
            ca=entry["ca"],
            pooled=True,
        )
        pooler = Pooler(node=name, address=entry["address"], port=int(entry["port"]))
        return cls(PgBouncer(pooler, server))

    def look(self) -> tuple[PooledDatabase, ...]:
        """Its databases. Opens the console; raises Unreachable, Failed."""
        return self._ask(lambda console: console.databases(), CONSOLE_S)

    def pause(self, databases: Sequence[str], limit: float) -> dict[str, float]:
        """Pause them in order within `limit` seconds in all; database → monotonic time at which its pause
        began.

        Raises Unreachable when time is up or the pooler is lost: then anything may be paused, and `resume` is
        due.
        """
        begun: dict[str, float] = {}

        def work(console: Console) -> dict[str, float]:
            for database in databases:
                begun[database] = time.monotonic()
                console.pause(database)
            return begun

        return self._ask(work, limit)

    def resume(self, databases: Sequence[str]) -> float:
        """Resume those of `databases` that are paused; the monotonic time at which all ran. Tries a second
        console when the first is lost. Raises Unreachable, Failed.
        """
        try:
            self._ask(lambda console: [console.resume(name) for name in databases], CONSOLE_S)
        except (Unreachable, Failed):
            self._ask(lambda console: [console.resume(name) for name in databases], CONSOLE_S)
        return time.monotonic()

    def resume_all(self) -> list[str]:
        """Resume whatever is paused, whoever paused it; the names."""
        paused = [database.name for database in self.look() if database.paused]
        if paused:
            self.resume(paused)
        return paused

    def busy(self, databases: Sequence[str]) -> list[int]:
        """Backend pids of the server connections that run a transaction in `databases` now."""

        def work(console: Console) -> list[int]:
            return [
                int(row["remote_pid"])
                for row in console.show("SERVERS")
                if row["state"] == "active" and row["database"] in databases and int(row["remote_pid"] or 0)
            ]

        return self._ask(work, CONSOLE_S)

    def close(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None

    def _ask(self, work: Callable[[Console], T], limit: float) -> T:
        if self._console is None:
            self._console = self._client.open(timeout=CONSOLE_S)
        try:
            with self._console.bounded(limit):
                return work(self._console)
        except BaseException:
            # After an error the console's state is not known, and a PAUSE may still wait in it.
            self.close()
            raise


def entry(name: str, address: str, port: int, user: str, password: str, ca: str) -> dict[str, Any]:
    """What `PoolerControl.of` needs, as JSON-able values. Holds a secret: for a pipe only."""
    return {"name": name, "address": address, "port": port, "user": user, "password": password, "ca": ca}


class PauseFailed(Failed):
    """Some pooler did not come to rest in time. `busy` are the backend pids that were still at work."""

    def __init__(self, message: str, busy: list[int], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.busy = busy


@dataclass
class Pause:
    """A pause over all poolers. Monotonic times; stalls in milliseconds."""

    controls: Sequence[PoolerControl]
    databases: Mapping[str, tuple[str, ...]]
    """Pooler → databases in the order of pausing."""
    executor: ThreadPoolExecutor
    write_database: str
    begun: dict[str, float] = field(default_factory=dict)
    """Database → first PAUSE."""
    ended: dict[str, float] = field(default_factory=dict)
    """Database → last RESUME."""

    def begin(self, limit: float) -> None:
        """Pause everything within `limit` seconds. Raises PauseFailed; what was paused stays so: call
        `end`.
        """
        end = time.monotonic() + limit
        futures = {
            control: self.executor.submit(control.pause, self.databases[control.name], limit)
            for control in self.controls
        }
        troubles, failed = [], []
        for control, future in futures.items():
            try:
                for database, moment in future.result().items():
                    self.begun[database] = min(moment, self.begun.get(database, moment))
            except WmsctlError as error:
                late = time.monotonic() >= end - 0.05
                troubles.append(f"transactions go on on {control.name}" if late else error.message)
                failed.append(control)
        if not troubles:
            return
        busy: list[int] = []
        for control in failed:
            try:
                busy += control.busy(self.databases[control.name])
            except WmsctlError as error:
                troubles.append(error.message)
        raise PauseFailed(f"not paused within {limit:.1f} s: {'; '.join(troubles)}", busy)

    def end(self, *names: str) -> list[str]:
        """Resume the databases `names` (all without any) everywhere at once; what went wrong, by pooler.
        Never raises.
        """
        futures: dict[PoolerControl, Future[float]] = {}
        for control in self.controls:
            chosen = [name for name in self.databases[control.name] if not names or name in names]
            futures[control] = self.executor.submit(control.resume, chosen)
        troubles = []
        for control, future in futures.items():
            try:
                moment = future.result()
            except WmsctlError as error:
                troubles.append(f"{control.name}: {error.message}")
                continue
            for name in self.databases[control.name]:
                if not names or name in names:
                    self.ended[name] = max(moment, self.ended.get(name, moment))
        return troubles

    def stall_ms(self, database: str) -> float | None:
        """From the first PAUSE of the database to its last RESUME."""
        if database not in self.begun or database not in self.ended:
            return None
        return round((self.ended[database] - self.begun[database]) * 1000, 1)

    @property
    def write_stall_ms(self) -> float | None:
        """How long writers waited."""
        return self.stall_ms(self.write_database)

    @property
    def longest_ms(self) -> float:
        """The longest stall of any database."""
        return max((self.stall_ms(name) or 0.0 for name in self.begun), default=0.0)
