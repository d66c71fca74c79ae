"""A wrong spec is refused with the file, the key, what was found and what is allowed."""

from __future__ import annotations

import ipaddress
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from stacks import rules, spec, topology
from stacks.spec import ENVIRONMENTS, Platform, SpecError

NAMES = ("local", "staging", "production")

SINGLE: list[tuple[str, dict[str, Any], str, str, str]] = [
    # what, values, key, found, allowed
    (
        "unknown section",
        {"colour": 1},
        "colour",
        "unknown key",
        "allowed here: backup, edge, environment, etcd",
    ),
    ("unknown key", {"postgres": {"work_mem": 4}}, "postgres.work_mem", "unknown key", "work_mem_mb"),
    (
        "unknown key in a list",
        {"postgres": {"replica_roles": [{"name": "a", "port": 5002, "size": 1}]}},
        "postgres.replica_roles[0].size",
        "unknown key",
        "allowed here: name, port",
    ),
    ("negative size", {"postgres": {"work_mem_mb": -1}}, "postgres.work_mem_mb", "found -1", ">= 1"),
    ("size of nothing", {"redis": {"maxmemory_mb": 0}}, "redis.maxmemory_mb", "found 0", ">= 1"),
    ("size beyond all", {"edge": {"cache_mb": 2**21}}, "edge.cache_mb", "found 2097152", "<= 1048576"),
    ("text for a number", {"postgres": {"port": "5432"}}, "postgres.port", "found '5432'", "`int`"),
    ("yes for a number", {"postgres": {"port": True}}, "postgres.port", "found True", "`int`"),
    ("half a port", {"postgres": {"port": 5432.5}}, "postgres.port", "found 5432.5", "`int`"),
    ("number for yes", {"patroni": {"failsafe_mode": 1}}, "patroni.failsafe_mode", "found 1", "`bool`"),
    ("section that is none", {"postgres": 3}, "postgres", "found 3", "`object`"),
    ("list for a section", {"pooler": []}, "pooler", "found []", "`object`"),
    ("nothing for a value", {"redis": {"port": None}}, "redis.port", "found None", "`int`"),
    ("privileged port", {"edge": {"port": 443}}, "edge.port", "found 443", ">= 1024"),
    ("port beyond all", {"edge": {"port": 65536}}, "edge.port", "found 65536", "<= 65535"),
    ("no time", {"timeouts": {"lock_s": 0}}, "timeouts.lock_s", "found 0", "> 0"),
    ("time for ever", {"timeouts": {"client_s": float("inf")}}, "timeouts.client_s", "found inf", "<= 86400"),
    ("no number", {"timeouts": {"client_s": float("nan")}}, "timeouts.client_s", "found nan", "> 0"),
    ("too many services", {"service": {"count": 50}}, "service.count", "found 50", "<= 20"),
    (
        "replicas beyond one pair",
        {"redis": {"replicas_per_master": 3}},
        "replicas_per_master",
        "found 3",
        "<= 2",
    ),
    ("lease below the floor", {"patroni": {"ttl_s": 19}}, "patroni.ttl_s", "found 19", ">= 20"),
    (
        "clients below D2",
        {"pooler": {"max_client_connections": 99}},
        "max_client_connections",
        "found 99",
        "100",
    ),
    (
        "clients above D2",
        {"pooler": {"max_client_connections": 1001}},
        "max_client_connections",
        "1001",
        "1000",
    ),
    ("name in capitals", {"name": "WMS"}, "name", "found 'WMS'", "[a-z]"),
    ("network outside", {"network": "10.0"}, "network", "found '10.0'", "127"),
    ("network 0", {"network": "127.0"}, "network", "found '127.0'", "127.1 to 127.254"),
    ("network 255", {"network": "127.255"}, "network", "found '127.255'", "127.1 to 127.254"),
    ("network of three digits", {"network": "127.999"}, "network", "found '127.999'", "127.1 to 127.254"),
    ("no zone", {"zones": []}, "zones", "found []", ">= 1"),
    ("wrong zone", {"zones": ["a", "B"]}, "zones[1]", "found 'B'", "[a-z]"),
    (
        "wrong port in a list",
        {"postgres": {"replica_roles": [{"name": "a", "port": 80}]}},
        "postgres.replica_roles[0].port",
        "found 80",
        ">= 1024",
    ),
    (
        "missing value in a list",
        {"postgres": {"replica_roles": [{"name": "a"}]}},
        "postgres.replica_roles[0]",
        "found {'name': 'a'}",
        "required field `port`",
    ),
    ("even quorum", {"etcd": {"members": 2}}, "etcd.members", "found 2", "1, 3, 5"),
    ("other PostgreSQL", {"postgres": {"version": 16}}, "postgres.version", "found 16", "15"),
    ("unnamed policy", {"redis": {"min_replicas_to_write": 2}}, "min_replicas_to_write", "found 2", "0, 1"),
    (
        "parameter of no type",
        {"postgres": {"settings": {"jit": [1]}}},
        "postgres.settings.jit",
        "found [1]",
        "bool | int | float | str",
    ),
    ("parameter of no name", {"postgres": {"settings": {"A-1": 1}}}, "postgres.settings", "'A-1'", "[a-z_.]"),
]

RULES: list[tuple[str, dict[str, Any], str, str, str]] = [
    (
        "more confirmations than replicas",
        {"postgres": {"synchronous_nodes": 4}},
        "postgres.synchronous_nodes",
        "found 4",
        "at most the number of replicas (3)",
    ),
    (
        "one role twice",
        {"postgres": {"replica_roles": [{"name": "a", "port": 5002}, {"name": "a", "port": 5003}]}},
        "postgres.replica_roles",
        "found 'a' twice",
        "each name once",
    ),
    (
        "a role that is called as a pool of the service",
        {"postgres": {"replica_roles": [{"name": "worker", "port": 5002}]}},
        "postgres.replica_roles",
        "found 'worker'",
        "another name",
    ),
    (
        "reads on the write port",
        {"proxy": {"read_port": 5000}},
        "proxy.read_port",
        "found 5000, taken by proxy.write_port",
        "a free port",
    ),
    (
        "a role on the pooler's port",
        {"postgres": {"replica_roles": [{"name": "a", "port": 6432}, {"name": "b", "port": 5003}]}},
        "postgres.replica_roles[0].port",
        "found 6432, taken by pooler.port",
        "a free port",
    ),
    (
        "etcd's two ports",
        {"etcd": {"peer_port": 2379}},
        "etcd.peer_port",
        "found 2379, taken by etcd.client_port",
        "a free port",
    ),
    (
        "two ports of the monitor",
        {"monitor": {"alertmanager_port": 9090}},
        "monitor.alertmanager_port",
        "taken by monitor.prometheus_port",
        "a free port",
    ),
    (
        "edge outlasts its caller",
        {"timeouts": {"edge_s": 31}},
        "timeouts.edge_s",
        "found 31",
        "less than timeouts.client_s (30)",
    ),
    (
        "equal rungs",
        {"timeouts": {"service_s": 22}},
        "timeouts.pool_wait_s",
        "found 22",
        "less than timeouts.service_s (22)",
    ),
    (
        "statement outlasts the pool",
        {"timeouts": {"statement_s": 23}},
        "timeouts.statement_s",
        "found 23",
        "less than timeouts.pool_wait_s (22)",
    ),
    (
        "lock outlasts the statement",
        {"timeouts": {"lock_s": 10}},
        "timeouts.lock_s",
        "found 10",
        "less than timeouts.statement_s (10)",
    ),
    (
        "too few connections",
        {"postgres": {"max_connections": 159}},
        "postgres.max_connections",
        "found 159",
        "at least 160 (write pools 60, read pools 40, role pools 30, worker pools 12",
    ),
    (
        "pools that outgrow the server",
        {"pooler": {"write_pool": 60}},
        "postgres.max_connections",
        "found 200",
        "at least 230 (write pools 130",
    ),
    (
        "another proxy with pools of its own",
        {"proxy": {"count": 4}},
        "postgres.max_connections",
        "found 200",
        "at least 302",
    ),
    (
        "lease shorter than its renewal",
        {"patroni": {"loop_wait_s": 11}},
        "patroni.ttl_s",
        "found 20",
        "at least loop_wait_s + 2 x retry_timeout_s (21)",
    ),
    (
        "nervous elections",
        {"etcd": {"heartbeat_ms": 300}},
        "etcd.election_ms",
        "found 1000",
        "at least 5 x heartbeat_ms (1500)",
    ),
    (
        "least WAL above the most",
        {"postgres": {"min_wal_size_mb": 1025}},
        "postgres.min_wal_size_mb",
        "found 1025",
        "at most max_wal_size_mb (1024)",
    ),
    (
        "kept WAL beyond the slots' bound",
        {"postgres": {"wal_keep_size_mb": 2049}},
        "postgres.wal_keep_size_mb",
        "found 2049",
        "at most max_slot_wal_keep_size_mb (2048)",
    ),
    (
        "always renewing",
        {"pki": {"renew_before_days": 90}},
        "pki.renew_before_days",
        "found 90",
        "less than certificate_days (90)",
    ),
    (
        "certificate outlives its authority",
        {"pki": {"authority_days": 60}},
        "pki.certificate_days",
        "found 90",
        "less than authority_days (60)",
    ),
]

WRONG = [*SINGLE, *RULES]


@pytest.mark.parametrize(
    ("values", "key", "found", "allowed"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_the_error_names_file_key_found_and_allowed(
    values: dict[str, Any], key: str, found: str, allowed: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec.load("local", values)
    text = str(caught.value)
    assert text.startswith("environments/local.toml with the stack's overrides: ")
    for part in (key, found, allowed):
        assert part in text, f"{part!r} is not in: {text}"


@pytest.mark.parametrize(
    "values",
    [
        {"postgres": {"max_connections": 160}},
        {"timeouts": {"lock_s": 9.9}},
        {"patroni": {"loop_wait_s": 10}},
        {"etcd": {"heartbeat_ms": 200}},
        {"postgres": {"min_wal_size_mb": 1024}},
        {"postgres": {"wal_keep_size_mb": 2048}},
        {"pki": {"renew_before_days": 89}},
        {"pki": {"authority_days": 91}},
        {"postgres": {"synchronous_nodes": 3}},
        {"network": "127.1"},
        {"network": "127.254"},
        {"zones": ["a", "b", "c", "d", "e", "f", "g", "h"]},
        {"proxy": {"stats_port": 2379}},
    ],
    ids=str,
)
def test_the_last_value_that_is_allowed_is_allowed(values: dict[str, Any]) -> None:
    spec.load("local", values)


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec.load("local", {"postgres": {"min_wal_size_mb": 2000}, "pki": {"renew_before_days": 90}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("environments/local.toml") for line in lines)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "wms\n"},
        {"network": "127.40\n"},
        {"zones": ["a", "b", "c\n"]},
        {"postgres": {"database": "wms\n"}},
        {"storage": {"bucket": "wms-backup\n"}},
        {"storage": {"region": "x\n"}},
        {"postgres": {"settings": {"jit\n": "on"}}},
    ],
    ids=str,
)
def test_a_name_with_a_line_break_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        spec.load("local", values)


@pytest.mark.parametrize("network", ["127.040", "127.07", "127.٤٠"])
def test_a_network_is_written_in_one_way_only(network: str) -> None:
    """A leading zero is octal to some programs and wrong to others."""
    with pytest.raises(SpecError, match="network"):
        spec.load("local", {"network": network})


@pytest.mark.parametrize(
    "parameter", ["max_connections", "statement_timeout", "max_wal_size", "lock_timeout"]
)
def test_a_parameter_that_the_spec_has_a_key_for_is_refused_among_the_further_ones(parameter: str) -> None:
    """It would win over the checked value, and the budgets and ladders with it."""
    with pytest.raises(SpecError, match=parameter):
        spec.load("local", {"postgres": {"settings": {parameter: 1}}})


def test_there_is_no_address_beyond_an_octet() -> None:
    roles = [{"name": f"r{n}", "port": 20000 + n} for n in range(300)]
    big = {"replica_roles": roles, "max_connections": 5000}
    with pytest.raises(SpecError, match="replica_roles"):
        spec.load("local", {"postgres": big, "pooler": {"role_pool": 1}})


@pytest.mark.parametrize("overrides", [3, "x", ["x"]])
def test_overrides_that_are_no_mapping_are_refused(overrides: Any) -> None:
    with pytest.raises(SpecError, match="overrides"):
        spec.load("local", overrides)


def test_overrides_do_not_change_which_environment_it_is() -> None:
    with pytest.raises(SpecError, match="environment"):
        spec.load("local", {"environment": "production"})


# -- files --


@pytest.mark.parametrize("name", ["prod", "Local", "", "../local", "local.toml"])
def test_an_unknown_environment_lists_those_there_are(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.load(name)
    assert repr(name) in str(caught.value)
    assert "there are: local, production, staging" in str(caught.value)


def test_a_file_that_is_not_toml_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "test.toml").write_text("network = '127.9'\n[postgres\n")
    with pytest.raises(SpecError, match=r"test\.toml: not TOML: .*line 2"):
        spec.load("test", folder=tmp_path)


def test_a_wrong_value_in_a_file_names_that_file_only(tmp_path: Path) -> None:
    (tmp_path / "test.toml").write_text("[postgres]\nport = 80\n")
    with pytest.raises(SpecError) as caught:
        spec.load("test", {"postgres": {"port": 5433}}, folder=tmp_path)
    assert str(caught.value).startswith("environments/test.toml: postgres.port: found 80")


def test_an_environment_file_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Big_One.toml").write_text("")
    with pytest.raises(SpecError, match="environment: found 'Big_One'"):
        spec.load("Big_One", folder=tmp_path)


# -- what is loaded --


def sections(value: Any) -> Iterator[msgspec.Struct]:
    """The value, and every section below it."""
    if isinstance(value, msgspec.Struct):
        yield value
        for name in value.__struct_fields__:
            yield from sections(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            yield from sections(each)


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_is_valid_and_named_after_itself(name: str) -> None:
    platform = spec.load(name)
    assert platform.environment == name
    assert rules.problems(platform) == []


def test_these_are_the_environments_and_each_has_a_network_of_its_own() -> None:
    assert {path.stem for path in ENVIRONMENTS.glob("*.toml")} == set(NAMES)
    assert len({spec.load(name).network for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_an_environment_says_is_what_it_is(name: str) -> None:
    values = tomllib.loads((ENVIRONMENTS / f"{name}.toml").read_text())
    platform = msgspec.to_builtins(spec.load(name))
    for section, keys in values.items():
        if isinstance(keys, dict):
            for key, value in keys.items():
                assert platform[section][key] == value
        else:
            assert platform[section] == keys


def test_overrides_are_laid_over_key_by_key() -> None:
    platform = spec.load("staging", {"postgres": {"work_mem_mb": 9}, "zones": ["x", "y", "z"]})
    assert platform.postgres.work_mem_mb == 9
    assert platform.postgres.max_connections == 300, "the file's other values stay"
    assert platform.zones == ("x", "y", "z"), "a list is replaced as a whole"


@pytest.mark.parametrize("name", NAMES)
def test_everything_loaded_is_frozen(name: str) -> None:
    found = list(sections(spec.load(name)))
    assert len(found) > 15
    for section in found:
        for key in section.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(section, key, getattr(section, key))


# -- random specs: what is accepted works, what is refused says where --


def limits(annotated: Any) -> list[Any]:
    """Values of a field's type: ordinary ones, the ends of its range and just beyond, and a wrong type."""
    if get_origin(annotated) is Literal:
        return [*get_args(annotated), 7, "x", None]
    if not hasattr(annotated, "__metadata__"):
        return [True, False, 0, "x", None]
    found: list[Any] = [-1, 0, 1, 2, 10, 100, 5000, "x", None, 1.5]
    for meta in annotated.__metadata__:
        found += [
            bound + step for bound in (meta.ge, meta.le, meta.gt) if bound is not None for step in (-1, 0, 1)
        ]
    return found


KINDS: dict[str, dict[str, Any]] = {
    field.name: {inner.name: limits(inner.type) for inner in msgspec.structs.fields(field.type)}
    for field in msgspec.structs.fields(Platform)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}


def random_values(chance: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {"network": f"127.{chance.randint(1, 254)}"}
    for _ in range(chance.randint(1, 3)):
        section = chance.choice(sorted(KINDS))
        key = chance.choice(sorted(KINDS[section]))
        values.setdefault(section, {})[key] = chance.choice(KINDS[section][key])
    return values


@pytest.mark.parametrize("seed", range(10))
def test_a_random_spec_is_either_sound_or_refused_with_what_was_found(seed: int) -> None:
    chance = random.Random(seed)
    accepted = refused = 0
    told: list[str] = []
    for _ in range(150):
        values = random_values(chance)
        try:
            platform = spec.load("local", values)
        except SpecError as error:
            refused += 1
            told.append(str(error))
            continue
        accepted += 1
        assert rules.problems(platform) == []
        nodes = topology.nodes(platform)
        addresses = [ipaddress.ip_address(node.address) for node in nodes]
        assert len(set(addresses)) == len({node.name for node in nodes}) == len(nodes)
        assert all(address.is_loopback for address in addresses)
        hash(platform.postgres.replica_roles)
    assert accepted > 10
    assert refused > 20
    for line in "\n".join(told).splitlines():
        assert line.startswith("environments/local.toml with the stack's overrides: ")
        assert ": found " in line
