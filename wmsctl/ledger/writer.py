"""Runs the ledger: starts the writing process, stops it, and reconciles what it recorded with the rows that
are there.

The library behind `wmsctl ledger`, the live tests, the demo and the bench:

    with LedgerRun(inventory, secrets, Options(rate=500, seconds=60), path) as run:
        ...  # do something to the platform
    account = run.report(fault_at=moment)
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from wmsctl.clients.connect import Clients
from wmsctl.clients.postgres import rows
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unreachable, Usage, WmsctlError
from wmsctl.inventory import Inventory
from wmsctl.ledger import account as accounts
from wmsctl.ledger import record
from wmsctl.ledger.account import Account, Key
from wmsctl.secrets import Secrets

MAX_WRITES = 1_000_000
"""Bound of one run: what its account can hold in memory comfortably."""

READY_S = 30.0
STOP_S = 40.0
KEPT_DAYS = 7
"""Rows of older runs are removed by the next one."""


@dataclass(frozen=True)
class Options:
    """What a run does. `through`: pooler, proxy, or the URL of a server (postgresql://…, without a
    password).
    """

    rate: float = 500.0
    seconds: float = 30.0
    writers: int = 8
    through: str = "pooler"
    timeout: float = 25.0
    """Seconds until a write without an answer counts as unknown: longer than PgBouncer's
    query_wait_timeout.
    """

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.seconds > 0 and 1 <= self.writers <= 200 and self.timeout > 0):
            raise Usage("rate, seconds and timeout have to be positive, writers between 1 and 200")
        if self.rate * self.seconds > MAX_WRITES:
            raise Usage(f"{self.rate:g}/s for {self.seconds:g} s are more than {MAX_WRITES} writes")


class LedgerRun:
    """One run, in a process of its own. `path` is its file, which must not exist yet."""

    def __init__(self, inventory: Inventory, secrets: Secrets, options: Options, path: Path) -> None:
        self.id = str(uuid.uuid4())
        self.path = path
        self.options = options
        self._clients = Clients(inventory, secrets)
        self._targets = targets(inventory, secrets, options.through)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout: float = READY_S) -> None:
        """Start writing; returns after the first acknowledged write. Raises Failed when there is none in
        time.
        """
        purge(self._clients)
        order = {
            "run": self.id,
            "rate": self.options.rate,
            "seconds": self.options.seconds,
            "writers": self.options.writers,
            "timeout": self.options.timeout,
            "through": self.options.through,
            "path": str(self.path.absolute()),
            "targets": self._targets,
        }
        root = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH", "")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wmsctl.ledger.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root},
            start_new_session=True,  # Ctrl-C reaches the parent, which stops the writers in order
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answered, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = (
            self._process.stdout.readline().decode().strip()
            if answered
            else "no write was acknowledged in time"
        )
        if line != "ready":
            self.stop()
            raise Failed(
                f"the ledger's writers do not get through: {line or 'they ended early'}",
                hint="see: wmsctl status",
            )

    def wait(self) -> None:
        """Wait until the time of the run is over."""
        if self._process is not None:
            self._process.wait(timeout=self.options.seconds + self.options.timeout + STOP_S)

    def stop(self) -> None:
        """End the run now, or what is left of it; answers under way are still awaited for some seconds."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def acknowledged(self) -> int:
        """Acknowledged writes recorded so far."""
        return sum(1 for o in record.read(self.path).outcomes if o.kind is accounts.Kind.acknowledged)

    def report(self, *, fault_at: float | None = None, timeout: float = 30.0) -> Account:
        """The account, reconciled with the rows on the present primary within `timeout` seconds.

        `fault_at`: time.monotonic() at the injection of a fault. When nobody can be asked, `trouble` says so
        and nothing is said about loss.
        """
        return report(self._clients, record.read(self.path), fault_at=fault_at, timeout=timeout)

    def __enter__(self) -> LedgerRun:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def report(
    clients: Clients, written: record.Written, *, fault_at: float | None = None, timeout: float = 30.0
) -> Account:
    """The account of a recorded run, reconciled with the rows on the present primary."""
    present, trouble = None, ""
    try:
        present = found(clients, written.header.run, Deadline.after(timeout))
    except WmsctlError as error:
        trouble = f"not reconciled: {error.message}"
    if not written.complete:
        trouble = "; ".join(filter(None, [trouble, "the recorder did not end in order"]))
    return accounts.account(
        written.header.run,
        written.outcomes,
        written.header.started,
        written.end,
        present=present,
        fault_at=fault_at,
        trouble=trouble,
    )


def found(clients: Clients, run: str, deadline: Deadline) -> set[Key]:
    """The keys of the rows of `run` on the present primary, by any way in that answers.

    Raises Unreachable when none does by the deadline.
    """
    inventory = clients.inventory
    ways = [clients.postgres(member) for member in inventory.postgres.members]
    trouble = ""
    while True:
        for server in ways:
            try:
                with server.connect(timeout=2.0, statement_timeout=60.0, limit=90.0) as connection:
                    if rows(connection, "SELECT pg_is_in_recovery()")[0][0]:
                        continue
                    # A write of our own first: it is confirmed by the quorum, so this is no primary left
                    # behind.
                    connection.execute(
                        "INSERT INTO ops.proof (via, token) VALUES ('ledger', %s)"
                        " ON CONFLICT (via) DO UPDATE SET token = excluded.token, at = clock_timestamp()",
                        (run,),
                    )
                    found = rows(connection, "SELECT writer, seq FROM ops.ledger WHERE run = %s", (run,))
                    return {(int(writer), int(seq)) for writer, seq in found}
            except (Unreachable, Failed) as error:
                trouble = error.message
        if deadline.expired:
            raise Unreachable(
                f"no primary answers ({trouble or 'all members are replicas'})", hint="see: wmsctl status"
            )
        time.sleep(0.2)


def purge(clients: Clients) -> None:
    """Remove the rows of runs older than KEPT_DAYS; what cannot be reached now is left to the next run."""
    for pooler in clients.inventory.pools.poolers:
        try:
            clients.pooled(pooler).query(
                "DELETE FROM ops.ledger WHERE at < clock_timestamp() - make_interval(days => %s)",
                (KEPT_DAYS,),
            )
            return
        except WmsctlError:
            continue


def targets(inventory: Inventory, secrets: Secrets, through: str) -> list[dict[str, Any]]:
    """Connection options of the driver, for each way in. Hold the password: for a pipe only.

    Raises Usage for anything that is neither pooler, proxy nor a URL.
    """
    login = inventory.postgres.operator
    options: dict[str, Any] = {
        "user": login.user,
        "password": secrets.of(login).reveal(),
        "sslmode": "verify-ca",
        "sslrootcert": inventory.ca,
        "application_name": "wmsctl-ledger",
    }
    if through == "pooler":
        database = inventory.pools.write_database
        return [
            {**options, "host": p.address, "port": p.port, "dbname": database}
            for p in inventory.pools.poolers
        ]
    if through == "proxy":
        port, database = inventory.proxies.write_port, inventory.postgres.database
        return [
            {**options, "host": s.address, "port": port, "dbname": database} for s in inventory.proxies.stats
        ]
    if through.startswith(("postgresql://", "postgres://")):
        from psycopg.conninfo import conninfo_to_dict

        given = conninfo_to_dict(through)
        if "password" in given:
            raise Usage("the URL holds a password, which shows in the process list", hint="leave it out")
        return [{**options, "dbname": inventory.postgres.database, **given}]
    raise Usage(f"--through {through!r} is unknown", hint="give pooler, proxy, or a postgresql:// URL")
