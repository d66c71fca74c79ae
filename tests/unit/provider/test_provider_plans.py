"""Pure parts of the handlers for stores: Patroni's configuration and order, Redis's layout, SCRAM."""

from __future__ import annotations

from typing import Any

import pytest

from stacks.local.provider import patroni, rediscluster
from stacks.local.provider.databases import verifies
from stacks.local.provider.handlers.etcd_auth import permission
from stacks.local.provider.patroni import Cluster, Member
from stacks.local.provider.rediscluster import SLOTS, Node


def member(
    name: str, role: str = "replica", state: str = "streaming", lag: int = 0, pending: bool = False
) -> Member:
    return Member(name, role, state, f"https://{name}:8008", lag, pending)


def test_the_candidate_is_a_running_synchronous_standby_with_the_least_lag() -> None:
    cluster = Cluster(
        (
            member("a", "leader", "running"),
            member("b", "replica"),
            member("c", "quorum_standby", lag=9),
            member("d", "quorum_standby", lag=3),
            member("e", "sync_standby", "stopped"),
        ),
        paused=False,
    )
    chosen = patroni.candidate(cluster, "a")
    assert chosen is not None
    assert chosen.name == "d"
    assert patroni.candidate(Cluster(cluster.members[:2], False), "a") is None


def test_the_view_of_patroni_is_read() -> None:
    body = {
        "members": [
            {"name": "a", "role": "leader", "state": "running", "api_url": "https://x:8008/patroni"},
            {"name": "b", "role": "replica", "state": "streaming", "lag": "unknown", "pending_restart": True},
        ],
        "pause": True,
    }
    cluster = patroni.cluster_of(body)
    assert cluster.paused
    assert cluster.leader == Member("a", "leader", "running", "https://x:8008", 0, False)
    assert cluster.members[1].pending_restart
    assert cluster.members[1].lag > 10**9


def test_members_restart_with_the_leader_last_unless_a_limit_gets_lower() -> None:
    members = [
        member("a", "leader", pending=True),
        member("c", pending=True),
        member("b", pending=True),
        member("d"),
    ]
    assert [m.name for m in patroni.restart_order(members)] == ["b", "c", "a"]
    assert [m.name for m in patroni.restart_order(members, leader_first=True)] == ["a", "b", "c"]
    old = {"postgresql": {"parameters": {"max_connections": 100, "work_mem": "8MB"}}}
    assert patroni.lowers(old, {"postgresql": {"parameters": {"max_connections": "90"}}})
    assert not patroni.lowers(
        old, {"postgresql": {"parameters": {"max_connections": 200, "work_mem": "1MB"}}}
    )
    assert not patroni.lowers({}, {})
    # What the configuration does not name has Patroni's default, 100.
    assert patroni.lowers({}, {"postgresql": {"parameters": {"max_connections": 90}}})
    assert not patroni.lowers({}, {"postgresql": {"parameters": {"max_connections": 100}}})


@pytest.mark.parametrize(
    ("current", "wanted", "expected"),
    [
        ({"ttl": 30}, {"ttl": 30}, {}),
        ({"ttl": 30}, {"ttl": 20}, {"ttl": 20}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {}),
        ({"a": {"b": 1}}, {"a": {"b": "1"}}, {}),
        ({"a": {"b": True}}, {"a": {"b": "on"}}, {}),
        ({"a": {"b": 1}}, {"a": {"d": 4}}, {"a": {"d": 4}}),
        ({}, {"a": {}}, {"a": {}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": None}, {"a": False}, {"a": False}),
    ],
)
def test_only_what_differs_is_patched(current: Any, wanted: Any, expected: Any) -> None:
    assert patroni.patch(current, wanted) == expected


def test_what_is_no_longer_managed_is_removed_once() -> None:
    nulls = patroni.dropped({"a": {"b": 1, "c": 2}, "d": 3, "e": 4}, {"a": {"b": 1}, "e": 4})
    assert nulls == {"a": {"c": None}, "d": None}
    assert patroni.present(nulls, {"a": {"b": 1, "c": 2}, "e": 4}) == {"a": {"c": None}}
    assert patroni.present(nulls, {"a": {"b": 1}, "e": 4}) == {}
    assert patroni.merged({"a": {"c": None}}, {"a": {"b": 5}}) == {"a": {"c": None, "b": 5}}


def test_only_managed_keys_are_reported_in_our_spelling() -> None:
    current = {"ttl": 30, "a": {"b": "on", "c": "hand-made"}, "gone": 1}
    assert patroni.managed(current, {"a": {"b": True, "x": 1}, "ttl": "30"}) == {
        "a": {"b": True},
        "ttl": "30",
    }


# -- Redis --


PLACES = [(f"127.0.0.{index}", 6379) for index in range(1, 7)]
ZONES = {place: "abc"[index % 3] for index, place in enumerate(PLACES)}


def node(index: int, slots: range = range(0), master: int | None = None, flags: str = "") -> Node:
    role = "master" if master is None else "slave"
    names = frozenset({role, *(flags.split(",") if flags else ())})
    return Node(f"id{index}", PLACES[index], names, "" if master is None else f"id{master}", frozenset(slots))


def sound() -> list[Node]:
    owners = [node(index, part) for index, part in enumerate(rediscluster.slot_ranges(3))]
    return [*owners, node(3, master=1), node(4, master=2), node(5, master=0)]


def test_slots_are_dealt_completely_and_evenly() -> None:
    for count in (1, 3, 5, 7):
        parts = rediscluster.slot_ranges(count)
        assert [slot for part in parts for slot in part] == list(range(SLOTS))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_masters_are_spread_over_zones() -> None:
    same = {place: "a" if index < 4 else "b" for index, place in enumerate(PLACES)}
    assert {same[place] for place in rediscluster.choose_masters(PLACES, same, 3)} == {"a", "b"}
    assert rediscluster.choose_masters(PLACES, ZONES, 3) == PLACES[:3]


def test_replicas_go_to_other_zones() -> None:
    owners = sound()[:3]
    found = dict(rediscluster.attachments([*owners, node(3), node(4), node(5)], ZONES))
    assert sorted(found.values()) == ["id0", "id1", "id2"]
    assert all(ZONES[place] != ZONES[PLACES[int(master[2])]] for place, master in found.items())


def test_a_node_that_came_back_empty_follows_the_master_without_a_replica() -> None:
    nodes = [*sound()[:4], node(4, master=2), node(5)]
    assert rediscluster.attachments(nodes, ZONES) == [(PLACES[5], "id0")]


def test_only_slots_that_nobody_has_are_given() -> None:
    nodes = [node(0, range(100)), node(1), node(2, range(200, 300))]
    wanted = rediscluster.missing_slots(nodes, PLACES[:3])
    assert wanted[PLACES[0]] == [(100, 199), (300, rediscluster.slot_ranges(3)[0][-1])]
    given = sum(last - first + 1 for ranges in wanted.values() for first, last in ranges)
    assert given == SLOTS - 200
    assert rediscluster.missing_slots(sound(), PLACES[:3]) == {}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (sound(), []),
        (sound()[:5], ["127.0.0.6:6379 is missing", "127.0.0.1:6379 has 0 of 1 replicas"]),
        (
            [*sound()[:5], node(5, master=0, flags="fail")],
            ["127.0.0.6:6379 is missing", "127.0.0.1:6379 has 0"],
        ),
        ([*sound()[1:], node(0)], ["slots have no master"]),
    ],
)
def test_shortcomings_are_named(nodes: list[Node], expected: list[str]) -> None:
    found = rediscluster.shortcomings(nodes, PLACES, 1)
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


def test_cluster_nodes_is_parsed() -> None:
    text = (
        "aa :6379@16379,redis-1 myself,master - 0 0 1 connected 0-5460 5462 [93-<-bb]\n"
        "bb 127.0.0.2:6379@16379,redis-2 slave aa 0 1 1 connected\n"
        "cc :0@0 master,noaddr - 0 0 1 disconnected\n"
    )
    first, second, third = rediscluster.parse(text, ("127.0.0.1", 6379))
    assert first.place == ("127.0.0.1", 6379)
    assert len(first.slots) == 5462
    assert second.master == "aa"
    assert second.place == ("127.0.0.2", 6379)
    assert not third.sound


# -- others --


def test_scram_verifiers_are_checked() -> None:
    # RFC 7677's example: user "user", password "pencil".
    verifier = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert verifies(verifier, "pencil")
    assert not verifies(verifier, "pencils")
    assert not verifies("md5abc", "pencil")
    assert not verifies(None, "pencil")


def test_the_permission_ends_with_the_prefix() -> None:
    # "/service/" up to "/service0": every key below, no neighbour.
    assert permission("/service/") == {
        "permType": "READWRITE",
        "key": "L3NlcnZpY2Uv",
        "range_end": "L3NlcnZpY2Uw",
    }
