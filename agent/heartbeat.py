"""The primary's heartbeat: one row that says when it was written.

A replica's `now() - at` is then its lag in milliseconds, also when nobody else writes, and also when replay is paused
(where pg_stat_replication shows the last lag it measured).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

INTERVAL_S = 1.0

BEAT = """
INSERT INTO ops.heartbeat (id, at, lsn) VALUES (1, clock_timestamp(), pg_current_wal_lsn())
ON CONFLICT (id) DO UPDATE SET at = excluded.at, lsn = excluded.lsn
"""

logger = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Writes the row once a second while the local PostgreSQL is the primary; silent otherwise."""

    def __init__(self, is_primary: Callable[[], bool], socket: str, port: int, database: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._is_primary = is_primary
        self._socket = socket
        self._port = port
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        """Never returns; ends with the process."""
        while True:
            try:
                self._beat()
            except psycopg.Error as error:
                # Expected around a failover and before the stack has made the table.
                logger.debug("no heartbeat: %s", type(error).__name__)
                self._close()
            time.sleep(INTERVAL_S)

    def _beat(self) -> None:
        if not self._is_primary():
            self._close()
            return
        if self._connection is None:
            self._connection = psycopg.connect(
                host=self._socket,
                port=self._port,
                dbname=self._database,
                user="postgres",
                application_name="heartbeat",
                connect_timeout=2,
                autocommit=True,
                # The row is about lag, not a promise: it must not wait for the quorum whose delay it measures.
                options="-c synchronous_commit=local -c statement_timeout=2000",
            )
        self._connection.execute(BEAT)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
