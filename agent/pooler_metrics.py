"""PgBouncer's counters in Prometheus' format: `python -m agent.pooler_metrics`, told by its environment.

It keeps one console connection and opens a new one when that is lost, so that it survives a restart of the
pooler, and answers `pgbouncer_up 0` while there is none. Metric names follow the widely used Go exporter.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a SHOW command as a metric: `value` times `scale`."""

    column: str
    metric: str
    kind: str
    help: str
    scale: float = 1


class Table(NamedTuple):
    """One SHOW command; its rows are told apart by `labels` (label, column)."""

    command: str
    labels: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]


MICROSECONDS = 1e-6

TABLES = (
    Table(
        "POOLS",
        (("database", "database"), ("user", "user")),
        (
            Column("cl_active", "pools_client_active_connections", "gauge", "Clients linked to a server."),
            Column(
                "cl_waiting", "pools_client_waiting_connections", "gauge", "Clients waiting for a server."
            ),
            Column("sv_active", "pools_server_active_connections", "gauge", "Servers linked to a client."),
            Column("sv_idle", "pools_server_idle_connections", "gauge", "Servers ready for a client."),
            Column(
                "sv_used",
                "pools_server_used_connections",
                "gauge",
                "Servers to be checked before their next use.",
            ),
            Column("sv_login", "pools_server_login_connections", "gauge", "Servers logging in."),
            Column(
                "maxwait",
                "pools_client_maxwait_seconds",
                "gauge",
                "How long the first in the queue has waited.",
            ),
        ),
    ),
    Table(
        "STATS",
        (("database", "database"),),
        (
            Column("total_query_count", "stats_queries_pooled_total", "counter", "Queries."),
            Column("total_xact_count", "stats_sql_transactions_pooled_total", "counter", "Transactions."),
            Column(
                "total_query_time",
                "stats_queries_duration_seconds_total",
                "counter",
                "Time in queries.",
                MICROSECONDS,
            ),
            Column(
                "total_xact_time",
                "stats_server_in_transaction_seconds_total",
                "counter",
                "Time in transactions.",
                MICROSECONDS,
            ),
            Column(
                "total_wait_time",
                "stats_client_wait_seconds_total",
                "counter",
                "Time waiting for a server.",
                MICROSECONDS,
            ),
            Column("total_received", "stats_received_bytes_total", "counter", "Bytes from clients."),
            Column("total_sent", "stats_sent_bytes_total", "counter", "Bytes to clients."),
        ),
    ),
    Table(
        "DATABASES",
        (("database", "name"),),
        (
            Column("pool_size", "databases_pool_size", "gauge", "Most servers of a pool."),
            Column("current_connections", "databases_current_connections", "gauge", "Servers open."),
            Column("paused", "databases_paused", "gauge", "1 while paused."),
            Column("disabled", "databases_disabled", "gauge", "1 while disabled."),
        ),
    ),
)


def exposition(results: Iterable[tuple[Table, Sequence[Row]]]) -> Iterator[str]:
    """Lines of the exposition format for the rows of each table; the console's own database is left out."""
    for table, rows in results:
        seen = [row for row in rows if row["database"] != "pgbouncer"]
        for column in table.columns:
            yield f"# HELP pgbouncer_{column.metric} {column.help}"
            yield f"# TYPE pgbouncer_{column.metric} {column.kind}"
            for row in seen:
                labels = ",".join(f'{label}="{_escape(str(row[source]))}"' for label, source in table.labels)
                value = round(float(row[column.column]) * column.scale, 6)
                yield f"pgbouncer_{column.metric}{{{labels}}} {value}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Console:
    """The pooler's console, over one connection at a time."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = dict(parameters)
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._lock = threading.Lock()

    def read(self) -> list[tuple[Table, list[dict[str, Any]]]]:
        """The rows of every table. Raises psycopg.Error when the pooler cannot be asked.

        A connection found dead is replaced once: it may have died of a restart long over.
        """
        with self._lock:
            if self._connection is not None:
                try:
                    return self._ask(self._connection)
                except psycopg.Error:
                    self._connection.close()
                    self._connection = None
            # The console knows no prepared statements, which psycopg makes of what it has sent five times.
            self._connection = psycopg.connect(
                **self._parameters, autocommit=True, row_factory=dict_row, prepare_threshold=None
            )
            return self._ask(self._connection)

    @staticmethod
    def _ask(connection: psycopg.Connection[dict[str, Any]]) -> list[tuple[Table, list[dict[str, Any]]]]:
        # The console speaks the simple protocol only, which is what psycopg uses without parameters.
        return [(table, connection.execute(f"SHOW {table.command}").fetchall()) for table in TABLES]


def page(console: Console) -> str:
    """What /metrics answers, whether or not the pooler is there."""
    try:
        lines = list(exposition(console.read()))
        up = 1
    except psycopg.Error as error:
        # Its type only: a message may quote the connection's parameters.
        print(f"pooler_metrics: cannot ask the pooler: {type(error).__name__}", file=sys.stderr, flush=True)
        lines, up = [], 0
    head = [
        "# HELP pgbouncer_up 1 when the pooler could be asked.",
        "# TYPE pgbouncer_up gauge",
        f"pgbouncer_up {up}",
    ]
    return "\n".join([*head, *lines]) + "\n"


def handler(console: Console) -> type[BaseHTTPRequestHandler]:
    """A request handler that answers /metrics from `console`, and / with "ok" for readiness probes."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path not in ("/", "/metrics"):
                self.send_error(404)
                return
            body = (page(console) if self.path == "/metrics" else "ok\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A line for each scrape would be noise."""

    return Handler


def main(environment: Mapping[str, str]) -> int:
    """Serve until killed. Returns 2 when a variable is missing."""
    names = (
        "LISTEN_ADDRESS",
        "LISTEN_PORT",
        "POOLER_ADDRESS",
        "POOLER_PORT",
        "POOLER_USER",
        "POOLER_PASSWORD",
        "POOLER_CA",
    )
    missing = [f"WMS_{name}" for name in names if not environment.get(f"WMS_{name}")]
    if missing:
        print(f"pooler_metrics: not set: {', '.join(missing)}", file=sys.stderr)
        return 2
    given = {name: environment[f"WMS_{name}"] for name in names}
    console = Console(
        {
            "host": given["POOLER_ADDRESS"],
            "port": int(given["POOLER_PORT"]),
            "user": given["POOLER_USER"],
            "password": given["POOLER_PASSWORD"],
            "sslrootcert": given["POOLER_CA"],
            "dbname": "pgbouncer",
            "sslmode": "verify-ca",
            "connect_timeout": 3,
            "application_name": "pooler_metrics",
        }
    )
    server = ThreadingHTTPServer((given["LISTEN_ADDRESS"], int(given["LISTEN_PORT"])), handler(console))
    server.daemon_threads = True
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
