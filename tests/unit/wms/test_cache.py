"""Keys, lifetimes, entries, the breaker and the cache itself, over a Redis in memory."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection

from tests.support.pki import Authority
from wms.cache import keys, ttl
from wms.cache.cache import Amend, Cache, Effect, Put
from wms.cache.entry import FILL, INVALIDATE, WRITE, Entry, decode, encode, lsn_of, lsn_text
from wms.cache.keys import Key
from wms.cache.near import Held, Near
from wms.cache_metrics import CacheMetrics
from wms.settings import RedisSettings, SettingsError, load
from wms.store.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker
from wms.store.database import Commit, heard_lsn, wanted_lsn
from wms.store.redis import Redis, RedisUnavailable

# Keys


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (keys.sku(7, "12345"), "inventory:sku:t7.12345:1"),
        (keys.stock_in(7, 3, "A.1"), "inventory:location:t7.3.A.1:1"),
        (keys.order(7, 3, 12345), "order:t7.3.12345:1"),
        (keys.permissions(7, 42), "user:permissions:t7.42:1"),
        (keys.capacity(7, 1), "warehouse:capacity:t7.1:1"),
    ],
)
def test_k2_keys_have_the_form_of_the_row_with_the_tenant_in_the_identifier(key: Key, text: str) -> None:
    assert str(key) == text
    assert keys.parse(text) == key
    assert key.kind in ttl.LIFETIMES


@pytest.mark.parametrize(
    "text",
    [
        "inventory:sku:12345:1", "inventory:sku:t0.1:1", "inventory:sku:t7.:1", "inventory:sku:t7.1:0",
        "inventory:sku:t7.a:b:1", "inventory:sku:t7.1", "inventory:sku:t7.1:1\n", "a:b:c:t7.1:1", "",
        "inventory:sku:{t7.1}:1",
    ],
)  # fmt: skip
def test_k2_a_key_without_tenant_or_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        keys.parse(text)


def test_k2_no_code_of_one_tenant_makes_the_key_of_another() -> None:
    """Codes may contain dots, digits and what looks like a tenant."""
    codes = ("1", "7.1", "t7.1", "t1.7", "1.t7", ".", "-")
    made = {str(keys.sku(tenant, code)) for tenant in (1, 7, 71) for code in codes}
    assert len(made) == 3 * len(codes)
    with pytest.raises(ValueError, match="no cache key"):
        keys.sku(7, "a:1")


def test_k3_events_name_the_entries_that_they_make_wrong() -> None:
    moved = keys.changed_by(7, "stock.moved", "sku", "S-1", {"warehouse_id": 3})
    assert moved == (keys.stock(7, "S-1"), keys.stock_in(7, 3, "S-1"))
    assert keys.sku(7, "S-1") in keys.changed_by(7, "sku.classified", "sku", "S-1", {})
    assert keys.changed_by(7, "order.picked", "order", "9", {"warehouse_id": 3}) == (keys.order(7, 3, 9),)
    assert keys.changed_by(7, "user.changed", "user", "4", {}) == (keys.permissions(7, 4),)
    assert keys.changed_by(7, "configuration.changed", "configuration", "a", {}) == (keys.configuration(7),)
    assert keys.changed_by(7, "receipt.created", "receipt", "1", {}) == ()
    assert keys.changed_by(7, "stock.moved", "sku", "not a:code", {}) == ()


# Lifetimes


def test_k4_lifetimes_are_those_of_the_row_and_never_longer() -> None:
    assert ttl.IMMUTABLE_S == 86400
    for kind, seconds in (
        ("inventory:stock", 300), ("configuration:entries", 3600), ("user:permissions", 1800), ("order", 300),
    ):  # fmt: skip
        assert ttl.lifetime_s(kind, True, 0.0) == seconds
        assert seconds * 0.9 <= ttl.lifetime_s(kind, True, 0.999) < seconds
        assert ttl.lifetime_s(kind, False, 0.0) == 30


def test_k3_an_entry_is_refreshed_early_seldom_before_and_surely_at_its_end() -> None:
    assert not ttl.early(0.0, 100.0, 0.01, 0.5)
    assert ttl.early(100.0, 100.0, 0.01, 0.999)
    # By the paper: refreshed once the gap is below took * -ln(random).
    gap = 0.01 * -math.log(0.2)
    assert ttl.early(100.0 - gap * 0.99, 100.0, 0.01, 0.2)
    assert not ttl.early(100.0 - gap * 1.01, 100.0, 0.01, 0.2)


# Entries, near cache, breaker


def test_an_entry_survives_its_encoding_and_rubbish_is_none() -> None:
    found = decode(encode("V", 200.0, 100.0, 0.25, 99, {"a": 1}))
    assert found is not None
    assert (found.state, found.expires, found.created, found.took_s, found.lsn) == ("V", 200, 100, 0.25, 99)
    assert found.body == b'{"a":1}'
    for raw in (b"", b"V 1 2 3\n{}", b"Z 1 2 3 4 n\n", b"V x 2 3 4 n\n{}", b"\xff\xfe"):
        assert decode(raw) is None
    assert lsn_of("A/10") == (10 << 32) + 16 and lsn_text(lsn_of("A/10")) == "A/10" and lsn_of(None) == 0


def test_the_near_cache_is_bounded_and_forgets_the_least_used() -> None:
    near = Near(2)
    near.put("a", Held(1, 0, 10.0))
    near.put("b", Held(2, 0, 10.0))
    assert near.get("a", 0.0)
    near.put("c", Held(3, 0, 10.0))
    assert near.get("b", 0.0) is None and near.get("a", 0.0) and near.get("c", 0.0)
    assert near.get("a", 10.0) is None and len(near) == 1


def test_the_breaker_opens_at_a_failure_lets_one_try_and_closes_at_a_success() -> None:
    breaker = Breaker()
    assert breaker.admits(0.0)
    breaker.failed(0.0)
    assert not breaker.admits(FIRST_PAUSE_S * 0.99)
    assert [breaker.admits(FIRST_PAUSE_S) for _ in range(3)] == [True, False, False]
    for _ in range(20):
        breaker.failed(10.0)
    assert not breaker.admits(10.0 + LONGEST_PAUSE_S * 0.99)
    assert breaker.admits(10.0 + LONGEST_PAUSE_S)
    breaker.succeeded()
    assert all(breaker.admits(20.0) for _ in range(3))


# The cache


class Memory(Redis):
    """Redis in a dictionary, without expiry; its scripts by hand. `away`: every call fails."""

    def __init__(self) -> None:
        super().__init__(RedisSettings(), CacheMetrics(CollectorRegistry()))
        self.held: dict[str, bytes] = {}
        self.away = False

    @property
    def available(self) -> bool:
        return True

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        if self.away:
            raise RedisUnavailable("away")
        return self.held.get(key)

    async def eval(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        await asyncio.sleep(0)
        if self.away:
            raise RedisUnavailable("away")
        key, old = keys[0], self.held.get(keys[0], b"")
        if script == FILL:
            if (args[0] and not old.startswith(args[0])) or (not args[0] and old):
                return 0
            self.held[key] = args[1]
            return 1
        entry = decode(old)
        if script == WRITE:
            if entry is None or entry.lsn <= args[2]:
                self.held[key] = args[0]
                return 1
            if entry.state != "W" and entry.lsn < args[5]:
                self.held[key] = args[3]
            return 0
        assert script == INVALIDATE
        if entry is not None and entry.state == "W" and args[3] and entry.xid == args[3]:
            return 0
        if entry is not None and args[2] and entry.lsn >= args[2]:
            return 0
        self.held[key] = args[0]
        return 1

    def entry(self) -> Entry:
        """What is held under KEY."""
        found = decode(self.held[str(KEY)])
        assert found is not None
        return found


class World:
    """A cache, what it stands on, and a database row that a load reads."""

    def __init__(self) -> None:
        self.redis, self.now, self.chance = Memory(), [1000.0], [0.5]
        self.cache = self.process()
        self.row: Any = 1
        self.loads: list[str | None] = []
        self.gate: asyncio.Event | None = None

    def process(self) -> Cache:
        metrics = CacheMetrics(CollectorRegistry())
        return Cache(self.redis, metrics, clock=lambda: self.now[0], chance=lambda: self.chance[0])

    async def load(self) -> Any:
        self.loads.append(wanted_lsn.get())
        row = self.row
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(row, Exception):
            raise row
        return row

    async def get(self, cache: Cache | None = None, key: Key | None = None) -> Any:
        return await (cache or self.cache).get(key or KEY, self.load, int)


KEY = keys.stock(7, "S")


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(5):
            await story(World())

    asyncio.run(run())


def test_k3_a_read_is_loaded_once_then_near_then_from_redis() -> None:
    async def story(world: World) -> None:
        assert [await world.get() for _ in range(3)] == [1, 1, 1]
        assert len(world.loads) == 1
        assert await world.get(world.process()) == 1
        world.now[0] += ttl.NEAR_S + 0.1
        assert await world.get() == 1
        assert len(world.loads) == 1
        world.now[0] += ttl.OPERATIONAL_S
        world.row = 2
        assert await world.get() == 2

    play(story)


def test_k3_a_stampede_is_one_load_and_outlives_its_first_reader() -> None:
    async def story(world: World) -> None:
        world.gate = asyncio.Event()
        readers = [asyncio.create_task(world.get()) for _ in range(50)]
        await asyncio.sleep(0.01)
        readers[0].cancel()
        await asyncio.sleep(0)
        world.gate.set()
        assert await asyncio.gather(*readers[1:]) == [1] * 49
        assert len(world.loads) == 1

    play(story)


def test_k3_that_there_is_nothing_is_kept_briefly_and_errors_are_not() -> None:
    async def story(world: World) -> None:
        world.row = None
        assert [await world.get() for _ in range(2)] == [None, None]
        assert len(world.loads) == 1
        world.now[0] += 31
        world.row = ValueError("no")
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await world.get()
        assert len(world.loads) == 3

    play(story)


@pytest.mark.parametrize("away", [False, True])
def test_k3_after_a_write_the_writer_reads_no_older_state_even_without_redis(away: bool) -> None:
    async def story(world: World) -> None:
        await world.get()
        world.redis.away = away
        await world.cache.invalidate((KEY,), Commit("0/AA"))
        world.row = 2
        assert await world.get() == 2
        # The replica was told how far it must have replayed; the request's own wish stays as it was.
        assert world.loads == [None, "0/AA"]
        assert wanted_lsn.get() is None

    play(story)


def test_k3_a_load_that_began_before_a_write_fills_nothing() -> None:
    async def story(world: World) -> None:
        world.gate = asyncio.Event()
        slow = asyncio.create_task(world.get())
        await asyncio.sleep(0.01)
        await world.cache.invalidate((KEY,), Commit("0/AA"))
        world.gate.set()
        assert await slow == 1
        world.row = 2
        assert await world.get() == 2
        assert await world.get(world.process()) == 2

    play(story)


def test_k3_another_process_that_read_the_past_cannot_fill_redis_with_it() -> None:
    async def story(world: World) -> None:
        other = world.process()
        world.gate = asyncio.Event()
        slow = asyncio.create_task(world.get(other))
        await asyncio.sleep(0.01)
        await world.cache.invalidate((KEY,), Commit("0/AA"))
        world.row = 2
        world.gate.set()
        await slow
        assert await world.get() == 2
        assert await world.get(world.process()) == 2

    play(story)


def test_k3_a_read_with_an_lsn_takes_no_copy_that_may_be_older() -> None:
    async def story(world: World) -> None:
        await world.get()
        world.row = 2
        token = wanted_lsn.set("0/BB")
        assert await world.get() == 2
        assert world.loads[-1] == "0/BB"
        loads = len(world.loads)
        # What it brought is known to be that new: good for the next one who asks for as much.
        assert await world.get() == 2 and len(world.loads) == loads
        wanted_lsn.reset(token)

    play(story)


def test_o4_a_change_of_the_tenant_leaves_the_entries_that_it_does_not_touch() -> None:
    """The gateway's generation is of all the tenant's data: what Redis has is good until it is buried."""

    async def story(world: World) -> None:
        await world.get()
        token = heard_lsn.set("0/BB")
        # This process may not have heard of it yet, so its own copy is not asked.
        assert await world.get() == 1 and len(world.loads) == 1
        world.row = 2
        await world.cache.bury({KEY: 0}, lsn_of("0/AA"))
        assert await world.get() == 2
        assert world.loads[1:] == ["0/BB"], "not loaded from a server that has replayed the generation"
        heard_lsn.reset(token)
        # What was loaded for the gateway is known to be that new.
        wanted = wanted_lsn.set("0/BB")
        assert await world.get() == 2 and len(world.loads) == 2
        wanted_lsn.reset(wanted)

    play(story)


@pytest.mark.parametrize("away", [False, True])
def test_o4_a_change_says_whether_redis_has_heard_of_it(away: bool) -> None:
    """Only then may the gateway ask for the tenant's data under a new generation, and be answered from Redis."""

    async def story(world: World) -> None:
        world.redis.away = away
        effects: list[Effect] = [
            KEY,
            Put(keys.stock(7, "P"), 1),
            Amend(keys.stock(7, "L"), lambda old: old, int),
        ]
        for effect in effects:
            assert await world.cache.apply([effect], Commit("0/BB", 5, "0/AA")) is not away
        assert await world.cache.apply([], Commit("0/BB")) is True

    play(story)


def test_k3_a_tombstone_does_not_bury_what_is_newer() -> None:
    async def story(world: World) -> None:
        await world.cache.invalidate((KEY,), Commit("0/BB"))
        await world.get()
        await world.cache.bury({KEY: 0}, lsn_of("0/AA"))
        assert world.redis.entry().state == "V"
        await world.cache.bury({KEY: 0}, lsn_of("0/CC"))
        assert world.redis.entry().state == "X"

    play(story)


def test_k3_write_through_is_read_without_a_load() -> None:
    async def story(world: World) -> None:
        await world.get()
        await world.cache.apply([Put(KEY, 5)], FIRST)
        assert await world.get() == 5 and await world.get(world.process()) == 5
        assert len(world.loads) == 1

    play(story)


# A write-through: transaction 11 had its row at 0/A0 and committed before 0/AA, then 12 at 0/B0 and before 0/BB.
FIRST, SECOND = Commit("0/AA", 11, "0/A0"), Commit("0/BB", 12, "0/B0")


async def hear(world: World, *processes: Cache, xid: int, lsn: str) -> None:
    """An event of KEY goes its way: the relay, then each process."""
    await world.cache.bury({KEY: xid}, lsn_of(lsn))
    for process in processes:
        process.forget([str(KEY)], lsn_of(lsn), "event", xid)


def test_k3_what_was_written_through_outlives_its_own_event_and_no_other() -> None:
    async def story(world: World) -> None:
        other = world.process()
        await world.get(other)
        await world.cache.put(KEY, 5, FIRST)
        await hear(world, world.cache, other, xid=11, lsn="0/AF")
        assert await world.get() == await world.get(other) == 5 and len(world.loads) == 1
        world.row = 6
        await hear(world, world.cache, other, xid=12, lsn="0/BF")
        assert await world.get() == await world.get(other) == 6 and world.loads[1:] == ["0/BF"]

    play(story)


@pytest.mark.parametrize("first", [FIRST, SECOND])
def test_k3_of_two_writes_the_later_one_stays_whichever_reaches_redis_last(first: Commit) -> None:
    """Both take place in processes of their own; the commit of the first one may be asked for after the second's."""

    async def story(world: World) -> None:
        late = Commit("0/BC", FIRST.xid, FIRST.held_lsn)
        one, two = world.process(), world.process()
        steps = [one.put(KEY, 5, late), two.put(KEY, 6, SECOND)]
        for step in steps if first is FIRST else reversed(steps):
            await step
        entry = world.redis.entry()
        assert entry.state == "W" and entry.body == b"6", (
            "an entry that is newer than it seems buried a later write"
        )
        assert await world.get(two) == 6
        world.row = 6
        await hear(world, one, two, xid=11, lsn="0/BD")
        await hear(world, one, two, xid=12, lsn="0/BE")
        assert await world.get(one) == await world.get(two) == await world.get(world.process()) == 6

    play(story)


@pytest.mark.parametrize("later", ["invalidated", "written"])
def test_k3_a_write_that_was_overtaken_in_its_own_process_leaves_nothing(later: str) -> None:
    async def story(world: World) -> None:
        if later == "written":
            await world.cache.put(KEY, 6, SECOND)
        else:
            await world.cache.invalidate((KEY,), SECOND)
        world.row = 6
        await world.cache.put(KEY, 5, FIRST)
        assert await world.get() == 6 and await world.get(world.process()) == 6

    play(story)


def test_k3_what_was_done_before_is_not_written_through_again() -> None:
    """The answer to a repeated request is the one of that time."""

    async def story(world: World) -> None:
        world.row = 6
        await world.get()
        await world.cache.put(KEY, 5, Commit("0/CC"))
        assert await world.get() == 6 and world.loads == [None, "0/CC"]

    play(story)


def test_k3_a_reader_with_an_lsn_takes_what_was_written_through_for_no_newer_than_it_is() -> None:
    async def story(world: World) -> None:
        await world.cache.put(KEY, 5, FIRST)
        world.row = 6
        for least in ("0/A1", "0/AA", "0/B5"):
            token = wanted_lsn.set(least)
            assert await world.get() == 6
            wanted_lsn.reset(token)
        # Never from a server that may lack the write that is there.
        assert world.loads == ["0/AA", "0/B5"]

    play(story)


def test_k3_a_list_is_amended_where_it_is_and_loaded_where_it_is_not() -> None:
    async def story(world: World) -> None:
        def more(value: int) -> int:
            return value + 10

        await world.cache.amend(KEY, more, int, FIRST)
        assert world.redis.entry().state == "X"
        world.row = 2
        assert await world.get() == 2
        other = world.process()
        await other.amend(KEY, more, int, SECOND)
        assert await world.get(other) == 12 and world.loads == ["0/AA"]
        await hear(world, world.cache, other, xid=12, lsn="0/BF")
        assert await world.get() == await world.get(other) == 12 and world.loads == ["0/AA"]
        # Of what is known to lack a commit of somebody else nothing is made.
        third = Commit("0/CC", 13, "0/C0")
        other.forget([str(KEY)], lsn_of("0/C5"), "event", 14)
        world.row = 3
        await other.amend(KEY, more, int, third)
        assert world.redis.entry().state == "X" and await world.get(other) == 3

    play(story)


def test_k3_without_redis_a_write_through_is_kept_by_its_process_alone() -> None:
    async def story(world: World) -> None:
        world.redis.away = True
        await world.cache.apply(
            [Put(KEY, 5), keys.sku(7, "S"), Amend(keys.configuration(7), list, list)], FIRST
        )
        assert await world.get() == 5
        world.now[0] += ttl.NEAR_S + 0.1
        world.row = 6
        assert await world.get() == 6 and world.loads == ["0/AA"]

    play(story)


def test_k3_an_early_refresh_happens_behind_the_reader() -> None:
    async def story(world: World) -> None:
        await world.get()
        world.row = 2
        world.now[0] += ttl.OPERATIONAL_S * 0.95 - 0.001
        world.chance[0] = 1e-9
        raw = world.redis.held[str(KEY)]
        entry = decode(raw)
        assert entry is not None
        world.redis.held[str(KEY)] = encode("V", entry.expires, entry.created, 0.1, 0, 1)
        assert await world.get() == 1
        await asyncio.sleep(0.01)
        world.now[0] += 0.5
        assert await world.get() == 2 and len(world.loads) == 2

    play(story)


def test_k2_two_tenants_never_share_an_entry() -> None:
    async def story(world: World) -> None:
        await world.get()
        world.row = 2
        assert await world.get(key=keys.stock(8, "S")) == 2
        assert await world.get() == 1

    play(story)


# Redis itself, without one


def test_without_redis_every_call_is_refused_at_once() -> None:
    redis = Redis(RedisSettings(), CacheMetrics(CollectorRegistry()))
    assert not redis.configured and not redis.available
    with pytest.raises(RedisUnavailable):
        asyncio.run(redis.get("a"))


def test_the_settings_of_redis_are_read_and_checked() -> None:
    base = {"WMS_DB_PASSWORD": "x", "WMS_WORKER_PASSWORD": "y", "WMS_DB_SSLMODE": "disable"}
    assert load(base).redis == RedisSettings()
    found = load(base | {"WMS_REDIS_NODES": "a:1,b", "WMS_REDIS_PASSWORD": "secret-word"}).redis
    assert found.nodes == (("a", 1), ("b", 6379)) and found.timeout_s == 0.1
    assert "secret-word" not in repr(found)
    with pytest.raises(SettingsError, match="WMS_REDIS_PASSWORD"):
        load(base | {"WMS_REDIS_NODES": "a:1"})


def test_the_connections_to_redis_share_one_tls_context_that_trusts_our_ca_alone(tmp_path: Path) -> None:
    """One each would take most of a megabyte and block the loop for 10 ms, a busy process has hundreds."""
    Authority().write_bundle(tmp_path / "ca.crt")
    settings = RedisSettings((("127.53.9.1", 6379), ("127.53.9.2", 6379)), "app", "x", tmp_path / "ca.crt")

    async def contexts() -> list[ssl.SSLContext]:
        redis = Redis(settings, CacheMetrics(CollectorRegistry()))
        found = []
        # A client is made anew when the topology has changed.
        for client in (redis._connect(), redis._connect()):
            found_later = ClusterNode("127.53.9.3", 6379, **client.connection_kwargs)
            for node in (*client.startup_nodes, found_later):
                found += [connection_context(node), connection_context(node)]
        return found

    def connection_context(node: ClusterNode) -> ssl.SSLContext:
        connection = node.acquire_connection()
        assert isinstance(connection, SSLConnection)
        return connection.ssl_context.get()

    made = asyncio.run(contexts())
    assert len(made) == 12 and len(set(map(id, made))) == 1
    assert made[0].verify_mode == ssl.CERT_REQUIRED and made[0].check_hostname
    assert len(made[0].get_ca_certs()) == 1
