"""What the cache, Redis and the events measure. A boundary at 0.1 and 0.5 s: the objectives of row O3."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REDIS_REASONS = ("connection", "timeout", "busy", "refused")
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
CALL_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class CacheMetrics:
    """Instruments in a registry that somebody else renders."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.redis_up = Gauge(
            "wms_redis_up", "1 while Redis answers this process; absent without Redis.", (), registry=None
        )
        self._registry = registry
        self.redis_errors = Counter(
            "wms_redis_errors_total",
            "Calls that Redis did not answer: connection lost, out of time, no free connection, refused. Not counted: "
            "calls that the open circuit breaker spared.",
            ("reason",),
            registry=registry,
        )
        for reason in REDIS_REASONS:
            self.redis_errors.labels(reason)
        self.redis_seconds = Histogram(
            "wms_redis_call_duration_seconds", "Time of a call that Redis answered; a get may be of several keys.",
            ("command",),
            buckets=CALL_BUCKETS, registry=registry,
        )  # fmt: skip
        self.reads = Counter(
            "wms_cache_reads_total",
            "Reads through the cache by what answered: near (this process), redis, database; negative ones too.",
            ("entity", "layer"),
            registry=registry,
        )
        self.refreshes = Counter(
            "wms_cache_early_refreshes_total", "Entries loaded anew before they ran out.", ("entity",),
            registry=registry,
        )  # fmt: skip
        self.invalidated = Counter(
            "wms_cache_invalidations_total", "Keys invalidated, by who asked: write, event.", ("cause",),
            registry=registry,
        )  # fmt: skip
        self.near_entries = Gauge(
            "wms_cache_near_entries", "Entries of this process's near cache.", registry=registry
        )
        self.published = Counter(
            "wms_events_published_total", "Events that this process's relay wrote to the stream.",
            registry=registry,
        )  # fmt: skip
        self.relaying = Gauge(
            "wms_events_relaying", "1 while this process is the one that relays events.", registry=registry
        )
        self.latency = Histogram(
            "wms_events_latency_seconds",
            "From the transaction of an event to its arrival in this process (row O3).",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.sequence = Gauge(
            "wms_events_sequence", "The number of the last event of which this process has heard.",
            registry=registry,
        )  # fmt: skip
        self.gaps = Counter(
            "wms_events_gaps_total",
            "Times this process missed events of the stream and dropped its near cache.",
            registry=registry,
        )

    def watch_redis(self) -> None:
        """From now on tell whether Redis is up."""
        self._registry.register(self.redis_up)
