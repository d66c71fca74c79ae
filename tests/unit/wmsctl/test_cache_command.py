"""`wmsctl cache`: slots, entries, metrics, and wrong keys on the command line."""

from __future__ import annotations

import pytest

from wmsctl.cache import plan
from wmsctl.errors import Code, Usage
from wmsctl.main import run

KEY = "inventory:stock:t1.S-1:1"


@pytest.mark.parametrize(
    ("key", "slot"),
    # Of the specification, and of CLUSTER KEYSLOT of a Redis 7.0.
    [("123456789", 12739), ("foo", 12182), ("{foo}bar", 12182), ("a{foo}{b}", 12182), ("{}foo", 9500)],
)
def test_slots_are_those_of_redis(key: str, slot: int) -> None:
    assert plan.slot(key) == slot


@pytest.mark.parametrize("key", ["", "inventory:sku:1:1", "a b", "wms:events:{stream}:1", KEY + "\n"])
def test_what_is_no_key_is_refused_with_the_form(key: str) -> None:
    with pytest.raises(Usage) as found:
        plan.checked(key)
    assert "t<tenant>" in found.value.hint
    assert plan.checked(KEY) == KEY


def test_an_entry_is_explained() -> None:
    head = "V 105000 100000 2500 42949672976 0123456789ab\n{}"
    found = plan.explain(KEY, "redis-1", head, 60, 3000, 102.0)
    assert (found.state, found.layer, found.age_s, found.ttl_s) == ("value", "redis", 2.0, 3.0)
    assert (found.loaded_in_ms, found.lsn, found.bytes) == (2.5, "A/10", 60)


@pytest.mark.parametrize(
    ("head", "pttl", "state"),
    [
        ("", -2, "absent"),
        ("N 1 2 3 4 x\n", 10, "negative"),
        (plan.tombstone(1.0, "x"), 10, "invalidated"),
        ("something", 10, "unknown"),
    ],
)
def test_what_is_no_value_sends_readers_to_the_database_but_for_a_negative_one(
    head: str, pttl: int, state: str
) -> None:
    found = plan.explain(KEY, "redis-1", head, len(head), pttl, 2.0)
    assert found.state == state
    assert found.layer == ("redis" if state == "negative" else "database")


def test_o4_the_hit_rate_is_the_share_that_no_database_answered() -> None:
    stats = plan.Stats()
    for _ in range(2):
        stats.add(
            "# HELP x y\n"
            'wms_cache_reads_total{entity="order",layer="near"} 6.0\n'
            'wms_cache_reads_total{entity="order",layer="redis"} 3.0\n'
            'wms_cache_reads_total{entity="order",layer="database"} 1.0\n'
            'wms_cache_reads_created{entity="order",layer="near"} 1.7e+09\n'
            "wms_cache_near_entries 5.0\n"
        )
    assert stats.kinds["order"].near == 12 and stats.near_entries == 10
    assert stats.total().hit_rate == 0.9
    assert plan.Stats().total().hit_rate is None


def test_a_redis_node_tells_memory_and_evictions() -> None:
    found = plan.node_of_info(
        "redis-1", "# Memory\r\nused_memory:10\r\nmaxmemory:20\r\nrole:master\r\nevicted_keys:3"
    )
    assert (found.role, found.used_bytes, found.max_bytes, found.evicted) == ("master", 10, 20, 3)


@pytest.mark.parametrize("command", ["explain", "invalidate"])
def test_a_wrong_key_is_an_error_of_usage_before_anything_is_asked(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", command, "nonsense"]) == Code.USAGE
    assert "no cache key" in capsys.readouterr().err
