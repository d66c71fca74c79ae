"""Starts an unmodified Patroni with additions, all outside its decisions.

1. Its fixed waits are shortened (`waits`) and its requests are not delayed by the kernel (`sockets`), so that a
   planned switchover is not mostly sleep.
2. The death of the postmaster wakes its loop at once (`watch`) instead of at the next turn, and is taken for one
   (`zombies`).
3. The primary writes a heartbeat each second (`heartbeat`), from which every replica's lag is read in milliseconds.
4. The WAL archive has no gap after a failover, and is read only by replicas that cannot stream (`archive`).

What Patroni decides, and the checks by which it decides, stay its own: see docs/adr/0004.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from patroni.__main__ import Patroni
from patroni.daemon import abstract_main
from patroni.postgresql.misc import PostgresqlRole

from agent import sockets, waits, zombies
from agent.archive import ArchiveKeeper
from agent.heartbeat import Heartbeat
from agent.watch import DeathWatch


class Agent(Patroni):  # type: ignore[misc]  # Patroni ships no type information
    """Patroni's daemon with the agent's threads beside its loop."""

    def run(self) -> None:
        """Start the threads, then Patroni's loop; both are daemons and end with the process."""
        settings = self.config["postgresql"]
        if not Path(settings["data_dir"], "PG_VERSION").exists():
            # Only before a member's very first start: whoever comes first makes the cluster.
            time.sleep(float(os.environ.get("WMS_BOOTSTRAP_DELAY_S", "0")))
        if stop_poll_s():
            DeathWatch(settings["data_dir"], self.ha.wakeup).start()

        def is_primary() -> bool:
            return bool(self.postgresql.role == PostgresqlRole.PRIMARY)

        socket = settings["parameters"]["unix_socket_directories"]
        port = int(settings["listen"].rpartition(":")[2])
        database = os.environ.get("WMS_HEARTBEAT_DATABASE", "")
        if database:
            Heartbeat(is_primary, socket, port, database).start()
        if command := os.environ.get("WMS_ARCHIVE_COMMAND", "").split():
            ArchiveKeeper(
                is_primary,
                socket,
                port,
                settings["data_dir"],
                command,
                fallback=Path(os.environ["WMS_ARCHIVE_FALLBACK"]),
                fallback_after_s=float(os.environ["WMS_ARCHIVE_FALLBACK_S"]),
            ).start()
        super().run()


def stop_poll_s() -> float:
    """How often to look whether PostgreSQL has stopped, in seconds; 0 leaves Patroni as it comes.

    Raises ValueError when WMS_STOP_POLL_MS is not a number.
    """
    return float(os.environ.get("WMS_STOP_POLL_MS", "20")) / 1000


def detach_input() -> None:
    """Give PostgreSQL /dev/null as its input, and keep the supervisor's pipe open beside it.

    A backend that waits for a replica when its postmaster is killed falls back to reading commands from its input; on
    a pipe that never ends it would wait for ever and keep the shared memory from the next start. The pipe's end has to
    stay open somewhere: supervisord spins on a pipe without a reader.
    """
    os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)


def main() -> None:
    """Entry point. Exits with 2 when the configuration file is not given or a wait is out of range."""
    if len(sys.argv) != 2:
        print("usage: python -m agent PATRONI.YML", file=sys.stderr)
        sys.exit(2)
    try:
        if stop_poll_s():
            waits.shorten(stop_poll_s())
            sockets.undelay()
            zombies.bury()
    except ValueError as error:
        print(f"agent: WMS_STOP_POLL_MS: {error}", file=sys.stderr)
        sys.exit(2)
    detach_input()
    abstract_main(Agent, sys.argv[1])
