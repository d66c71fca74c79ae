"""Rows of PgBouncer's console as Prometheus reads them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import pooler_metrics
from agent.pooler_metrics import TABLES, Table, exposition

ROWS: dict[str, dict[str, Any]] = {
    "POOLS": {"database": "wms", "user": 'o"dd\\'},
    "STATS": {"database": "wms"},
    "DATABASES": {"database": "wms", "name": "wms"},
}


def rows_of(table: Table, value: int = 3) -> list[dict[str, Any]]:
    numbers = {column.column: value for column in table.columns}
    return [{**ROWS[table.command], **numbers}, {**ROWS[table.command], **numbers, "database": "pgbouncer"}]


def test_every_column_becomes_a_metric_that_a_parser_reads() -> None:
    text = "\n".join(exposition([(table, rows_of(table)) for table in TABLES])) + "\n"
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == sum(len(table.columns) for table in TABLES)
    waiting = families["pgbouncer_pools_client_waiting_connections"].samples
    assert [(sample.labels, sample.value) for sample in waiting] == [
        ({"database": "wms", "user": 'o"dd\\'}, 3.0)
    ]


def test_times_are_seconds() -> None:
    stats = next(table for table in TABLES if table.command == "STATS")
    text = "\n".join(exposition([(stats, rows_of(stats, 2_500_000))]))
    assert 'pgbouncer_stats_client_wait_seconds_total{database="wms"} 2.5' in text


class Gone:
    """A console whose pooler is away."""

    def read(self) -> list[Any]:
        raise psycopg.OperationalError("connection to 127.0.0.1 with password 'x' failed")


def test_a_pooler_that_is_away_is_down_and_its_message_is_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = pooler_metrics.page(Gone())  # type: ignore[arg-type]
    assert "pgbouncer_up 0" in page
    told = capsys.readouterr().err
    assert "OperationalError" in told
    assert "password" not in told


def test_a_missing_variable_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert pooler_metrics.main({"WMS_LISTEN_ADDRESS": "127.0.0.1"}) == 2
    assert "WMS_POOLER_PASSWORD" in capsys.readouterr().err
