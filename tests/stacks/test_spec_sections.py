"""What the spec refuses: each rule between two values, by the key it names."""

from __future__ import annotations

from typing import Any

import pytest

from stacks import rules, spec, topology

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("two services", {"service": {"count": 2}}, "service.count: found 2"),
    ("too many services", {"service": {"count": 21}}, "service.count: found 21"),
    ("two masters", {"redis": {"masters": 2}}, "redis.masters: found 2"),
    ("no replica", {"redis": {"replicas_per_master": 0}}, "redis.replicas_per_master: found 0"),
    (
        "streams evicted",
        {"redis": {"maxmemory_policy": "allkeys-lru"}},
        "redis.maxmemory_policy: found 'allkeys-lru'",
    ),
    ("bus on the clients' port", {"redis": {"bus_port": 6379}}, "redis.bus_port: found 6379"),
    ("one zone", {"zones": ["a"]}, "zones: found 1"),
    ("two zones, odd masters", {"zones": ["a", "b"], "redis": {"replicas_per_master": 2}}, "zones: found 2"),
    ("gateway's two ports", {"gateway": {"status_port": 8443}}, "gateway.status_port: found 8443"),
    ("edge's ports", {"edge": {"stats_port": 6082}}, "edge.management_port: found 6082"),
    ("exporter on the pooler's port", {"monitor": {"pooler_port": 6432}}, "monitor.pooler_port: found 6432"),
    ("exporter on Patroni's port", {"monitor": {"postgres_port": 8008}}, "monitor.postgres_port: found 8008"),
    ("a retry that ends too late", {"gateway": {"retry_s": 2.5}}, "gateway.retry_s: found 2.5"),
    (
        "a connect that is never retried",
        {"gateway": {"connect_timeout_s": 1.5}},
        "gateway.connect_timeout_s: found 1.5",
    ),
    (
        "pools beyond the pooler",
        {"pooler": {"max_client_connections": 100}, "service": {"count": 6}},
        "at least 130",
    ),
    ("threads", {"edge": {"threads_min": 500}}, "edge.threads_min: found 500"),
    ("grace", {"edge": {"healthy_grace_s": 7200}}, "edge.healthy_grace_s: found 7200"),
    ("unknown key", {"edge": {"colour": "blue"}}, "edge.colour: unknown key"),
    ("share above all", {"gateway": {"log_percent": 101}}, "gateway.log_percent: found 101"),
    (
        "a table twice",
        {"partitions": {"tables": [{"table": "moves"}, {"table": "moves"}]}},
        "partitions.tables[1].table: found 'moves' twice",
    ),
    (
        "an archive that ends before it begins",
        {"partitions": {"tables": [{"table": "moves", "online_months": 12, "archive_months": 12}]}},
        "partitions.tables[0].archive_months: found 12",
    ),
    (
        "an interval of its own",
        {"partitions": {"tables": [{"table": "moves", "interval": "fortnight"}]}},
        "partitions.tables[0].interval",
    ),
    (
        "a table name that leaves no room for its partitions'",
        {"partitions": {"tables": [{"table": "m" * 41}]}},
        "partitions.tables[0].table",
    ),
    ("bucket's name", {"storage": {"bucket": "WMS_backup"}}, "storage.bucket: found 'WMS_backup'"),
]


@pytest.mark.parametrize(("overrides", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_value_is_refused_by_its_key(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(spec.SpecError) as caught:
        spec.load("local", overrides)
    assert message in str(caught.value)
    assert "local.toml" in str(caught.value)


@pytest.mark.parametrize("zones", [("a", "b", "c"), ("a", "b", "c", "d"), ("a", "b", "c", "d", "e")])
@pytest.mark.parametrize("replicas", [1, 2])
def test_with_three_zones_or_more_replicas_are_always_elsewhere(
    zones: tuple[str, ...], replicas: int
) -> None:
    for masters in range(3, 33):
        platform = spec.build(
            {
                "environment": "test",
                "zones": list(zones),
                "redis": {"masters": masters, "replicas_per_master": replicas},
            },
            "test",
        )
        shards = topology.redis_shards(platform)
        members = [node.name for master, others in shards for node in (master, *others)]
        assert sorted(members) == sorted(node.name for node in topology.of_role(platform, "redis"))
        for master, others in shards:
            assert len(others) == replicas
            assert master.zone not in {node.zone for node in others}


@pytest.mark.parametrize("masters", [3, 4, 5, 7, 32])
def test_slots_are_all_given_away_once_and_evenly(masters: int) -> None:
    slots = topology.redis_slots(spec.load("local", {"redis": {"masters": masters}}))
    assert [slot for part in slots for slot in part] == list(range(16384))
    assert max(map(len, slots)) - min(map(len, slots)) <= 1


def test_every_role_has_nodes_octet_and_listeners() -> None:
    platform = spec.load("local")
    assert set(topology.counts(platform)) == set(topology.OCTETS) == set(rules.listeners(platform))
    addresses = [node.address for node in topology.nodes(platform)]
    assert len(set(addresses)) == len(addresses)
