"""Alerts fire when they must and only then; who is scraped follows the topology; the pooler's exporter."""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest
import yaml

from agent import heartbeat, pooler_metrics
from stacks import spec, topology
from stacks.engines import exporters, prometheus
from tests.stacks import golden

RULES = sorted(prometheus.ALERTS.glob("*.yml"))
TESTS = sorted((prometheus.ALERTS / "tests").glob("*.yml"))


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    assert RULES and TESTS
    for command in (["check", "rules", *map(str, RULES)], ["test", "rules", *map(str, TESTS)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    alerts = {
        rule["alert"]
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }
    cases = [
        case
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert alerts == {"DatabaseDown", "ReplicationLagHigh", "CacheDown", "PartitionMissing"}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_every_node_is_scraped_and_labelled() -> None:
    platform = spec.load("local")
    config = yaml.safe_load(golden.rendered()["monitor-1/prometheus/prometheus.yml"])
    nodes = {node.name: node for node in topology.nodes(platform)}
    seen = set()
    for job in config["scrape_configs"]:
        for target in job["static_configs"]:
            labels = target["labels"]
            node = nodes[labels["node"]]
            assert (labels["zone"], labels["role"]) == (node.zone, node.role)
            seen.add(node.name)
    # The S3 gateway has no metrics of its own.
    assert seen == set(nodes) - {"storage-1"}


def test_the_lag_query_knows_the_beat_of_the_agent() -> None:
    assert exporters.HEARTBEAT_MS == heartbeat.INTERVAL_S * 1000


def test_the_lag_query_gives_the_columns_that_are_metrics() -> None:
    queries = yaml.safe_load(golden.rendered()["pg-1/postgres-exporter/queries.yml"])
    assert set(queries) == {"wms_replication", "wms_partitions"}
    for query in queries.values():
        for column in (name for metric in query["metrics"] for name in metric):
            assert f"AS {column}" in query["query"] or f"c.{column}," in query["query"]


def test_d4_without_declared_tables_nobody_asks_for_partitions() -> None:
    platform = spec.load("local", {"partitions": {"tables": []}})
    (exporter, *_) = [p for p in exporters.processes(platform, golden.SITE) if p.name == "postgres-exporter"]
    assert set(yaml.safe_load(exporter.files["queries.yml"])) == {"wms_replication"}


class FakeConnection:
    """Answers every SHOW with one row for the application's database and one for the console's own."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.closed = broken, False
        self.row: list[dict[str, Any]] = []

    def execute(self, command: str) -> FakeConnection:
        if self.broken:
            raise psycopg.OperationalError("password=s3cr3t")
        table = next(t for t in pooler_metrics.TABLES if command == f"SHOW {t.command}")
        values = {column.column: 2_000_000 for column in table.columns}
        names = {"user": 'a"b\\', "name": "wms"}
        self.row = [{**values, **names, "database": "wms"}, {**values, **names, "database": "pgbouncer"}]
        return self

    def fetchall(self) -> list[dict[str, Any]]:
        return self.row

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[FakeConnection]:
    made: list[FakeConnection] = []

    def connect(**_: object) -> FakeConnection:
        made.append(FakeConnection())
        return made[-1]

    monkeypatch.setattr(psycopg, "connect", connect)
    return made


def test_pooler_metrics_are_scaled_labelled_and_without_the_console(
    connections: list[FakeConnection],
) -> None:
    lines = pooler_metrics.page(pooler_metrics.Console({})).splitlines()
    assert "pgbouncer_up 1" in lines
    assert 'pgbouncer_pools_client_active_connections{database="wms",user="a\\"b\\\\"} 2000000.0' in lines
    assert 'pgbouncer_stats_client_wait_seconds_total{database="wms"} 2.0' in lines
    assert not [line for line in lines if '"pgbouncer"' in line]


def test_pooler_metrics_survive_a_restart_of_the_pooler(connections: list[FakeConnection]) -> None:
    console = pooler_metrics.Console({})
    console.read()
    connections[0].broken = True
    assert "pgbouncer_up 1" in pooler_metrics.page(console)
    assert connections[0].closed and len(connections) == 2


def test_pooler_metrics_say_down_and_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise psycopg.OperationalError("password=s3cr3t")

    monkeypatch.setattr(psycopg, "connect", refuse)
    assert "pgbouncer_up 0" in pooler_metrics.page(pooler_metrics.Console({}))
    assert "OperationalError" in (printed := capsys.readouterr().err) and "s3cr3t" not in printed


def test_pooler_metrics_name_what_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert pooler_metrics.main({"WMS_LISTEN_PORT": "9127"}) == 2
    assert "WMS_POOLER_PASSWORD" in capsys.readouterr().err
