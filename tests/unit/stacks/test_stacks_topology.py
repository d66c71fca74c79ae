"""Nodes, names and addresses from the spec alone, and the inventory that tells of them."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest

from stacks import inventory, rules, spec
from stacks.topology import OCTETS, PREFIXES, counts, names, nodes, of_role, redis_shards, redis_slots
from tests.stacks.golden import SITE
from wmsctl import inventory as contract
from wmsctl.inventory import Inventory

BIG: dict[str, Any] = {
    "network": "127.201",
    "etcd": {"members": 5},
    "redis": {"masters": 32, "replicas_per_master": 2},
    "service": {"count": 20},
    "gateway": {"count": 8},
    "edge": {"count": 8},
    "proxy": {"count": 8},
    "postgres": {"max_connections": 1000},
}
SMALL: dict[str, Any] = {
    "etcd": {"members": 1},
    "proxy": {"count": 1},
    "gateway": {"count": 1},
    "edge": {"count": 1},
    "postgres": {"replica_roles": [{"name": "reads", "port": 5002}], "synchronous_nodes": 1},
}
SIZES = pytest.mark.parametrize("values", [{}, BIG, SMALL], ids=["local", "biggest", "smallest"])


@SIZES
def test_every_node_has_a_name_and_an_address_of_its_own(values: dict[str, Any]) -> None:
    platform = spec.load("local", values)
    found = nodes(platform)
    assert len({node.name for node in found}) == len(found) == sum(counts(platform).values())
    assert len({ipaddress.ip_address(node.address) for node in found}) == len(found)
    network = ipaddress.ip_network(f"{platform.network}.0.0/16")
    assert all(ipaddress.ip_address(node.address) in network for node in found)


@SIZES
def test_no_two_listeners_share_an_address_and_port(values: dict[str, Any]) -> None:
    platform = spec.load("local", values)
    ports = rules.listeners(platform)
    found = [(node.address, port) for node in nodes(platform) for port in ports[node.role].values()]
    assert len(set(found)) == len(found)


@SIZES
def test_a_role_is_spread_over_the_zones_evenly(values: dict[str, Any]) -> None:
    platform = spec.load("local", values)
    for role, count in counts(platform).items():
        zones = [node.zone for node in of_role(platform, role)]
        assert len(zones) == count
        share = [zones.count(zone) for zone in platform.zones]
        assert max(share) - min(share) <= 1, role


def test_the_local_platform_is_the_one_described() -> None:
    found = {node.name: node.address for node in nodes(spec.load("local"))}
    assert found["pg-1"] == "127.40.2.1"
    assert found["pg-4"] == "127.40.2.4"
    assert found["etcd-3"] == "127.40.1.3"
    assert found["monitor-1"] == "127.40.9.1"
    assert list(found)[:3] == ["etcd-1", "etcd-2", "etcd-3"], "in the order of their roles"
    assert len(found) == 24


def test_octets_and_prefixes_tell_roles_apart() -> None:
    assert len(set(OCTETS.values())) == len(OCTETS)
    shown = [PREFIXES.get(role, role) for role in OCTETS]
    assert len(set(shown)) == len(shown)


def test_a_role_that_is_not_has_no_nodes() -> None:
    assert of_role(spec.load("local"), "mainframe") == ()


def test_names_are_what_clients_verify() -> None:
    node = of_role(spec.load("local"), "gateway")[1]
    assert names(node) == ("gateway-2", "gateway", "127.40.7.2", "localhost")


@SIZES
def test_every_redis_node_is_in_one_shard_and_all_slots_are_served(values: dict[str, Any]) -> None:
    platform = spec.load("local", values)
    shards = redis_shards(platform)
    members = [node.name for master, replicas in shards for node in (master, *replicas)]
    assert sorted(members) == sorted(node.name for node in of_role(platform, "redis"))
    assert sum(map(len, redis_slots(platform))) == 16384
    assert len(redis_slots(platform)) == len(shards) == platform.redis.masters


def test_one_zone_cannot_keep_replicas_apart() -> None:
    """`spec.load` refuses it; who builds a platform past the rules gets an error here."""
    alone = msgspec.structs.replace(spec.load("local"), zones=("a",))
    with pytest.raises(ValueError, match="Redis replica"):
        redis_shards(alone)


def made(values: dict[str, Any]) -> Inventory:
    return inventory.inventory(spec.load("local", values), SITE, "/srv/secrets.json")


@SIZES
def test_every_endpoint_of_the_inventory_is_at_its_node(values: dict[str, Any]) -> None:
    found = made(values)
    addresses = {node.name: node.address for node in found.nodes}

    def look(value: Any) -> int:
        if isinstance(value, dict):
            if {"node", "address"} <= value.keys():
                assert addresses[value["node"]] == value["address"]
                return 1
            return sum(map(look, value.values()))
        return sum(map(look, value)) if isinstance(value, list | tuple) else 0

    assert look(msgspec.to_builtins(found)) >= 10


@SIZES
def test_every_endpoint_of_the_inventory_is_a_port_that_the_spec_knows(values: dict[str, Any]) -> None:
    platform = spec.load("local", values)
    known = rules.listeners(platform)
    roles = {node.name: node.role for node in nodes(platform)}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if {"node", "port"} <= value.keys():
                assert value["port"] in known[roles[value["node"]]].values(), value
            for each in value.values():
                look(each)
        elif isinstance(value, list | tuple):
            for each in value:
                look(each)

    look(msgspec.to_builtins(made(values)))


@SIZES
def test_the_inventory_survives_its_own_format_at_any_size(values: dict[str, Any]) -> None:
    found = made(values)
    assert contract.decode(contract.encode(found), "test") == found


def test_the_inventory_says_where_secrets_are_and_holds_none() -> None:
    text = contract.encode(made({}))
    assert '"file:/srv/secrets.json"' in text
    assert "${secret" not in text


def test_thresholds_keep_their_units() -> None:
    found = made(
        {"thresholds": {"replication_lag_mb": 3, "replication_lag_ms": 1500, "rto_s": 60, "rpo_s": 5}}
    )
    assert found.thresholds.replication_lag_bytes == 3 * 1024 * 1024
    assert found.thresholds.replication_lag_ms == 1500
    assert (found.thresholds.rto_s, found.thresholds.rpo_s) == (60, 5)


def test_a_smaller_platform_has_a_smaller_inventory() -> None:
    found = made(SMALL)
    assert [member.replica_role for member in found.postgres.members] == ["", "reads"]
    assert found.proxies.role_ports == {"reads": 5002}
    assert len(found.pools.poolers) == 1
    assert found.postgres.synchronous_nodes == 1
