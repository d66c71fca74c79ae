"""What the service measures of itself, in Prometheus' terms.

Buckets have a boundary exactly at every objective: 0.5 and 1 s for answers (row O1), 0.1 and 0.3 s for
statements (row O2), so that a ratio "within the objective" is exact and not interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from wms.business_metrics import BusinessMetrics
from wms.cache_metrics import CacheMetrics
from wms.store.retry import REASONS

REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
STATEMENT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)

PoolStats = Callable[[], dict[str, dict[str, int]]]
"""pool name → the numbers psycopg_pool keeps of it."""


class Metrics:
    """All instruments, in a registry of their own."""

    def __init__(self, version: str, instance: str, zone: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Gauge(
            "wms_build_info",
            "Always 1; what is running.",
            ("version", "instance", "zone"),
            registry=self.registry,
        ).labels(version, instance, zone).set(1)
        self._requests = Histogram(
            "wms_http_request_duration_seconds",
            "Time from the request to the end of its answer.",
            ("method", "route", "status"),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "wms_http_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self._statements = Histogram(
            "wms_database_statement_duration_seconds",
            "Time of one attempt of one statement, with the wait for a pooled connection.",
            ("statement", "pool"),
            buckets=STATEMENT_BUCKETS,
            registry=self.registry,
        )
        self.database_errors = Counter(
            "wms_database_errors_total",
            "Failed attempts: connection lost, none free in the pool, a transient refusal, out of time.",
            ("pool", "reason"),
            registry=self.registry,
        )
        for pool in ("write", "read", "worker_write", "worker_read"):
            for reason in REASONS:
                self.database_errors.labels(pool, reason)
        self.reads_behind = Counter(
            "wms_database_reads_behind_total",
            "Reads that went to the primary: no replica asked had replayed what the client had written.",
            registry=self.registry,
        )
        self.database_up = Gauge(
            "wms_database_up",
            "1 when the last probe through this pool succeeded.",
            ("pool",),
            registry=self.registry,
        )
        self.refused_credentials = Counter(
            "wms_authentication_failures_total",
            "Requests without a good credential, by the class of the reason.",
            ("reason",),
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "wms_rate_limited_total",
            "Requests answered 429, by what was used up: the bucket of an address, of a tenant, of a user's sign-ins.",
            ("bucket",),
            registry=self.registry,
        )
        self.rate_limited_locally = Counter(
            "wms_rate_limit_local_total",
            "Tokens asked of this process's own buckets because the shared ones were out of reach.",
            registry=self.registry,
        )
        self.movements = Counter(
            "wms_stock_movements_total",
            "Stock movements by kind and outcome.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self.ready = Gauge("wms_ready", "1 while this process wants traffic.", registry=self.registry)
        self.business = BusinessMetrics(self.registry)
        self.cache = CacheMetrics(self.registry)
        # labels() hashes and locks: the few combinations that occur are kept.
        self._request_children: dict[tuple[str, str, int], Histogram] = {}
        self._statement_children: dict[tuple[str, str], Histogram] = {}

    def watch_pools(self, stats: PoolStats) -> None:
        """Add gauges of the connection pools, read at each scrape."""
        self.registry.register(_PoolCollector(stats))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is its template, never its path."""
        key = (method, route, status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(method, route, str(status))
        child.observe(seconds)

    def statement(self, statement: str, pool: str, seconds: float) -> None:
        """Count one attempt of one statement."""
        key = (statement, pool)
        child = self._statement_children.get(key)
        if child is None:
            child = self._statement_children[key] = self._statements.labels(statement, pool)
        child.observe(seconds)

    def render(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class _PoolCollector(Collector):
    _GAUGES = (
        ("pool_size", "wms_database_pool_size", "Connections in the pool."),
        ("pool_available", "wms_database_pool_available", "Idle connections in the pool."),
        ("pool_max", "wms_database_pool_max", "Most connections the pool may open."),
        ("requests_waiting", "wms_database_pool_waiting", "Requests waiting for a connection."),
    )

    def __init__(self, stats: PoolStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        pools = self._stats()
        for key, name, text in self._GAUGES:
            family = GaugeMetricFamily(name, text, labels=("pool",))
            for pool, numbers in pools.items():
                family.add_metric((pool,), numbers.get(key, 0))
            yield family
        failures = CounterMetricFamily(
            "wms_database_connection_errors", "Failed attempts to connect to the database.", labels=("pool",)
        )
        for pool, numbers in pools.items():
            failures.add_metric((pool,), numbers.get("connections_errors", 0))
        yield failures


def page() -> str:
    """docs/metrics.md: every metric of the service by name."""
    metrics = Metrics("0", "-", "-")
    metrics.watch_pools(lambda: {"read": {}})
    metrics.cache.watch_redis()
    instruments = [
        each
        for part in (metrics, metrics.business, metrics.cache)
        for each in vars(part).values()
        if isinstance(each, MetricWrapperBase)
    ]
    labels = {name: each._labelnames for each in instruments for name in [each._name]}
    lines = [
        "# Metrics of the service",
        "",
        "Generated by `python -m wms.metrics`. Each process tells its own at `/metrics` of its own port; Prometheus "
        "adds `instance` and `job`. Rates of the warehouse: "
        '`sum(rate(wms_orders_total{event="created"}[5m]))`, `sum(rate(wms_picks_total[5m]))`.',
        "",
        "| name | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        if family.name.startswith("wms_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            samples = labels.get(family.name) or sorted(
                {n for s in family.samples for n in s.labels} - {"le"}
            )
            lines.append(f"| `{name}` | {family.type} | {', '.join(samples)} | {family.documentation} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).resolve().parents[1] / "docs/metrics.md").write_text(page())
