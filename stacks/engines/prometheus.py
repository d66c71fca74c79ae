"""Prometheus: who is asked for numbers comes from the topology, what is alarming from `alerts/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stacks import topology
from stacks.engines import nginx, service, varnish
from stacks.render import Probe, Process, Site, nothing, template
from stacks.spec import Platform
from stacks.topology import Node

ALERTS = Path(__file__).resolve().parents[2] / "alerts"


@dataclass(frozen=True)
class Job:
    """One kind of server to ask, and what of its answer to keep."""

    name: str
    targets: tuple[tuple[Node, str], ...]
    """(node, what Prometheus calls the address); the node becomes the labels node, zone and role."""
    path: str = "/metrics"
    tls: bool = False
    params: dict[str, list[str]] = field(default_factory=dict)
    through: str = ""
    """Address of the exporter that asks the targets on behalf of Prometheus."""
    keep: str = ""
    """Regular expression of the metrics to keep; empty: all."""


def jobs(platform: Platform) -> list[Job]:
    """Every scrape job."""
    p, m = platform, platform.monitor

    def on(role: str, port: int) -> tuple[tuple[Node, str], ...]:
        return tuple((node, f"{node.address}:{port}") for node in topology.of_role(p, role))

    (monitor,) = topology.of_role(p, "monitor")
    haproxy = {
        "params": {"scope": ["frontend", "backend", "server"]},
        "keep": "haproxy_(frontend|backend|server)_(status|current_sessions|current_queue|sessions_total|"
        "bytes_in_total|bytes_out_total|connection_errors_total|response_errors_total|http_responses_total|active_servers|"
        "max_session_time_seconds|check_failures_total)",
    }
    edges = [(node, f"https://{node.address}:{p.edge.port}") for node in topology.of_role(p, "edge")]
    gateways = [(node, f"https://{node.address}:{p.gateway.port}") for node in topology.of_role(p, "gateway")]
    return [
        Job(
            "prometheus",
            on("monitor", m.prometheus_port),
            keep="prometheus_(tsdb_head_series|rule_.+|notif.+)|process_.+",
        ),
        Job(
            "alertmanager",
            on("monitor", m.alertmanager_port),
            keep="alertmanager_(alerts|notif.+|silences)|process_.+",
        ),
        Job("node", on("monitor", m.node_port)),
        Job(
            "etcd",
            on("etcd", p.etcd.client_port),
            tls=True,
            keep="etcd_server_(has_leader|is_leader|leader_changes_seen_total|proposals_.+|quota_backend_bytes)|"
            "etcd_mvcc_db_total_size_in_bytes|etcd_disk_(wal_fsync|backend_commit)_duration_seconds_.+|process_.+",
        ),
        Job("patroni", on("postgres", p.patroni.api_port), tls=True),
        Job("postgres", on("postgres", m.postgres_port), keep="(pg|wms)_.+"),
        Job("haproxy", on("proxy", p.proxy.stats_port), **haproxy),  # type: ignore[arg-type]
        Job("pgbouncer", on("proxy", m.pooler_port)),
        Job(
            "redis",
            tuple((node, f"rediss://{node.address}:{p.redis.port}") for node in topology.of_role(p, "redis")),
            path="/scrape",
            through=f"{monitor.address}:{m.redis_port}",
        ),
        Job("wms", on("app", p.service.port), tls=True),
        Job("nginx", on("gateway", m.nginx_port)),
        Job("varnish", on("edge", m.varnish_port)),
        Job("edge-tls", on("edge", p.edge.stats_port), **haproxy),  # type: ignore[arg-type]
        Job(
            "blackbox",
            (
                *((node, f"{url}{nginx.HEALTH}") for node, url in gateways),
                *((node, f"{url}{varnish.HEALTH}") for node, url in edges),
                # From the outside through everything.
                *((node, f"{url}{service.LIVE}") for node, url in edges),
            ),
            path="/probe",
            params={"module": ["https"]},
            through=f"{monitor.address}:{m.blackbox_port}",
            keep="probe_.+",
        ),
    ]


def processes(platform: Platform, site: Site) -> list[Process]:
    """One on the monitor node; its files are reloaded by SIGHUP."""
    m, t = platform.monitor, platform.thresholds
    rules = {f"rules/{path.name}": path.read_text() for path in sorted(ALERTS.glob("*.yml"))}
    return [
        Process(
            node=node.name,
            name="prometheus",
            command=(
                "/usr/bin/prometheus",
                f"--config.file={site.folder(node.name, 'prometheus')}/prometheus.yml",
                f"--storage.tsdb.path={site.folder(node.name, 'prometheus')}/data",
                f"--storage.tsdb.retention.time={m.retention_days}d",
                f"--storage.tsdb.retention.size={m.retention_mb}MB",
                f"--web.listen-address={node.address}:{m.prometheus_port}",
                f"--web.external-url=http://{node.address}:{m.prometheus_port}/",
                "--log.level=warn",
            ),
            files={
                "prometheus.yml": template(
                    "prometheus.yml.j2",
                    spec=platform,
                    interval_s=m.scrape_interval_s,
                    alertmanager=f"{node.address}:{m.alertmanager_port}",
                    jobs=jobs(platform),
                    ca=site.ca,
                    folder=site.folder(node.name, "prometheus"),
                ),
                "rules/thresholds.yml": template("thresholds.yml.j2", thresholds=t),
                **rules,
            },
            environment={"GOMAXPROCS": "1", "GOGC": "50"},
            restart_only=nothing,
            reload_signal="HUP",
            probe=Probe("http", node.address, m.prometheus_port, "/-/ready", timeout_s=60),
            stop_s=30,
        )
        for node in topology.of_role(platform, "monitor")
    ]
