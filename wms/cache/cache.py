"""Cache-aside through two layers, without stampedes and without filling in the past (rows K3, K4).

A read looks into the near cache, then Redis, then asks the database; one load per key and process at a time, whoever
waits for it. An entry is loaded anew a little before it ends (wms.cache.ttl.early). That there is nothing is kept too,
for a short time. Without Redis the near cache and the database go on alone.

A write invalidates what it has changed before it is answered: the near entry goes, loads under way are not kept, and
Redis gets a tombstone with the LSN of the commit. Whoever fills the key next must read from a replica that has
replayed so far, and whoever had read before finds the entry changed and does not fill it. So an old value cannot
come back. The events of the outbox do the same for the other processes (wms.events).

A write whose answer is the whole entry leaves that instead of a tombstone (write-through). Its event, when it comes,
knows it by its transaction and lets it stand.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from wms.cache import ttl
from wms.cache.entry import (
    FILL,
    INVALIDATE,
    WRITE,
    Entry,
    decode,
    encode,
    lsn_of,
    lsn_text,
    tombstone,
    written,
)
from wms.cache.keys import Key
from wms.cache.near import ENTRIES, GONE, Held, Near
from wms.cache_metrics import CacheMetrics
from wms.store.database import Commit, heard_lsn, wanted_lsn
from wms.store.redis import Redis, RedisUnavailable

T = TypeVar("T")
_logger = logging.getLogger("wms.cache")


@dataclass(slots=True, eq=False)
class _Flight:
    """A load under way; `outdated` once its key was invalidated: its result is given to who waits, and not kept."""

    task: asyncio.Task[Held[Any]] | None = None
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """All of an entry as a change has made it: what a load would give, and of rows that the change has locked."""

    key: Key
    value: Any


@dataclass(frozen=True, slots=True)
class Amend:
    """How a change makes the new list of an entry's old one; `kind` as in Cache.get."""

    key: Key
    change: Callable[[Any], Any]
    kind: Any


Effect = Key | Put | Amend
"""What a change does to an entry: it makes it wrong, or is known to make something of it."""


@dataclass(frozen=True, slots=True)
class _Buried:
    """What this process knows of writes to a key, until `until`: the last one's LSN and transaction (0: unknown), and
    the highest LSN of all others.
    """

    lsn: int = 0
    xid: int = 0
    others: int = 0
    until: float = 0.0

    @property
    def least(self) -> int:
        """Whoever reads must read a server that has replayed so far."""
        return max(self.lsn, self.others)

    def and_then(self, lsn: int, xid: int, until: float) -> _Buried:
        """With one more write, or once more the same."""
        if xid and xid == self.xid:
            return _Buried(max(lsn, self.lsn), xid, self.others, until)
        return _Buried(lsn, xid, self.least, until)

    def shown_by(self, entry: Entry) -> bool:
        """Whether nothing of what is known is missing in `entry`."""
        return entry.lsn >= (self.others if self.xid and entry.xid == self.xid else self.least)


_NOTHING = _Buried()


class Cache:
    """One per process; values handed out are shared and must not be changed."""

    def __init__(
        self,
        redis: Redis,
        metrics: CacheMetrics,
        near: Near | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._near = Near() if near is None else near
        self._clock = clock
        self._chance = chance
        self._flights: dict[str, _Flight] = {}
        """Loads that others may join."""
        self._loading: dict[str, set[_Flight]] = {}
        """All loads, by key."""
        self._buried: OrderedDict[str, _Buried] = OrderedDict()
        """The tombstones of this process, by key. They hold also while Redis is away."""
        self._refreshing: set[str] = set()
        self._loose: set[asyncio.Task[Any]] = set()
        self._counters: dict[tuple[str, str], Any] = {}
        metrics.near_entries.set_function(lambda: len(self._near))

    async def get(self, key: Key, load: Callable[[], Awaitable[T]], kind: Any) -> T:
        """The value of `key`, as in `held`."""
        return (await self.held(key, load, kind)).value

    async def held(self, key: Key, load: Callable[[], Awaitable[T]], kind: Any) -> Held[T]:
        """What is held of `key`: a copy of what `load` returned, which msgspec can make JSON of and decode as `kind`.

        None is a value: "there is none". With a WMS-Min-LSN a copy is good only if it is known to be new enough; with a
        generation (heard_lsn) this process's own must be known so.
        Raises what `load` raises; such an end is not kept.
        """
        text = str(key)
        least = lsn_of(wanted_lsn.get())
        floor = max(least, lsn_of(heard_lsn.get()))
        held = self._near.get(text, self._clock())
        if held is not None and held.lsn >= floor:
            self._count(key.kind, "near")
            return held
        flight = self._flights.get(text)
        if flight is None or flight.task is None or floor:
            flight = self._begin(key, load, kind, least, floor)
        else:
            self._count(key.kind, "near")
        assert flight.task is not None
        # Whoever asked first may go away: the others still want the answer.
        return await asyncio.shield(flight.task)

    def again(self, held: Held[Any]) -> None:
        """Count a read that was answered by something made of `held`."""
        self._count(held.kind, "near")

    async def apply(self, changes: Iterable[Effect], commit: Commit) -> bool:
        """Nobody reads what these entries held before the commit: not here from now on, in the other processes once
        the event has reached them. Never raises for Redis: the relay repeats it when Redis is back. Returns whether
        Redis has heard of all of it now.
        """
        wrong: list[Key] = []
        work = []
        for change in changes:
            if isinstance(change, Key):
                wrong.append(change)
            elif isinstance(change, Put):
                work.append(self.put(change.key, change.value, commit))
            else:
                work.append(self.amend(change.key, change.change, change.kind, commit))
        return all(await asyncio.gather(self.invalidate(wrong, commit), *work))

    async def put(self, key: Key, value: object, commit: Commit) -> bool:
        """Write through (Put); returns what `apply` does, as all of these."""
        name, lsn, held = str(key), lsn_of(commit.lsn), lsn_of(commit.held_lsn)
        before = self._known(name)
        overtaken = (before.others if before.xid == commit.xid else before.least) > held
        if not commit.xid or overtaken:
            # Done before by an earlier request, or somebody was here since.
            return await self.invalidate((key,), commit)
        self.forget((name,), lsn, "write", commit.xid)
        now = self._clock()
        life = ttl.lifetime_s(key.kind, True, self._chance())
        raw = written(now + life, now, held, commit.xid, lsn, value)
        self._near.put(name, Held(value, held, now + ttl.NEAR_S, key.kind))
        stone, stone_ms = tombstone(now, lsn), round(ttl.TOMBSTONE_S * 1000)
        try:
            left = await self._redis.eval(
                WRITE, [name], [raw, round(life * 1000), held, stone, stone_ms, lsn]
            )
        except RedisUnavailable:
            return False
        if not left:
            self._drop(name)
        return True

    async def amend(self, key: Key, change: Callable[[Any], Any], kind: Any, commit: Commit) -> bool:
        """Write through to a list (Amend), if what Redis has is known to lack nothing but this commit; else it is
        invalidated.
        """
        name, before = str(key), self._known(str(key))
        self.forget((name,), lsn_of(commit.lsn), "write", commit.xid)
        seen, now = await self._look(name), self._clock()
        if (
            commit.xid
            and seen is not None
            and seen.state in "VW"
            and seen.expires > now
            and before.shown_by(seen)
        ):
            value = self._value(seen, kind)
            if value is not msgspec.UNSET:
                # No newer than it was but for this commit, and no longer to live.
                raw = written(
                    seen.expires, seen.created, seen.lsn, commit.xid, lsn_of(commit.lsn), change(value)
                )
                try:
                    if await self._redis.eval(
                        FILL, [name], [seen.line, raw, round((seen.expires - now) * 1000)]
                    ):
                        return True
                except RedisUnavailable:
                    return False
        return await self._bury_all({name: commit.xid}, lsn_of(commit.lsn))

    async def invalidate(self, keys: Iterable[Key], commit: Commit) -> bool:
        """The entries are wrong, and loaded anew by whoever asks next."""
        names = dict.fromkeys(map(str, keys), 0)
        self.forget(names, lsn_of(commit.lsn), "write")
        return await self._bury_all(names, lsn_of(commit.lsn))

    async def bury(self, keys: Mapping[Key, int], lsn: int) -> None:
        """The part of `invalidate` that concerns Redis; for each key the last transaction that changed it, committed
        not after `lsn`. Raises RedisUnavailable.
        """
        await asyncio.gather(*(self._bury(str(key), lsn, xid) for key, xid in keys.items()))

    def forget(self, names: Iterable[str], lsn: int, cause: str, xid: int = 0) -> None:
        """The part of `invalidate` that concerns this process."""
        until = self._clock() + ttl.TOMBSTONE_S
        for name in names:
            self._metrics.invalidated.labels(cause).inc()
            self._buried[name] = self._known(name).and_then(lsn, xid, until)
            self._buried.move_to_end(name)
            if len(self._buried) > ENTRIES:
                self._buried.popitem(last=False)
            self._drop(name)

    def forget_all(self) -> None:
        """Forget every copy in this process: nobody knows which ones are right."""
        for name in list(self._loading):
            self._drop(name)
        self._near.clear()

    def _drop(self, name: str) -> None:
        self._near.drop(name)
        self._flights.pop(name, None)
        for flight in self._loading.get(name, ()):
            flight.outdated = True

    def _known(self, name: str) -> _Buried:
        found = self._buried.get(name, _NOTHING)
        return found if found.until > self._clock() else _NOTHING

    async def _bury_all(self, names: Mapping[str, int], lsn: int) -> bool:
        ends = await asyncio.gather(
            *(self._bury(name, lsn, xid) for name, xid in names.items()), return_exceptions=True
        )
        return not any(isinstance(end, BaseException) for end in ends)

    async def _bury(self, name: str, lsn: int, xid: int) -> None:
        raw = tombstone(self._clock(), lsn)
        await self._redis.eval(INVALIDATE, [name], [raw, round(ttl.TOMBSTONE_S * 1000), lsn, xid or ""])

    def _begin(
        self, key: Key, load: Callable[[], Awaitable[Any]], kind: Any, least: int, floor: int
    ) -> _Flight:
        """Find it in a task of its own, with the request's wanted_lsn; others join it unless it is for one reader."""
        flight = _Flight()
        if not floor:
            self._flights[str(key)] = flight
        flight.task = self._start(key, flight, self._find(key, load, kind, least, floor, flight))
        return flight

    def _start(
        self, key: Key, flight: _Flight, work: Coroutine[Any, Any, Held[Any]]
    ) -> asyncio.Task[Held[Any]]:
        text, task = str(key), asyncio.create_task(work)
        # The event loop itself keeps no task alive.
        self._loose.add(task)
        self._loading.setdefault(text, set()).add(flight)

        def done(task: asyncio.Task[Held[Any]]) -> None:
            self._loose.discard(task)
            others = self._loading.get(text, set())
            others.discard(flight)
            if not others:
                self._loading.pop(text, None)
            if self._flights.get(text) is flight:
                del self._flights[text]
            if not task.cancelled():
                # Those who waited have seen it; when all went away, it is nobody's and not "never retrieved".
                task.exception()

        task.add_done_callback(done)
        return task

    async def _find(
        self,
        key: Key,
        load: Callable[[], Awaitable[Any]],
        kind: Any,
        least: int,
        floor: int,
        flight: _Flight,
    ) -> Held[Any]:
        """An entry of Redis that shows what was committed up to `least`, or what is loaded from a server that has
        replayed `floor`.
        """
        text = str(key)
        seen = await self._look(text)
        now = self._clock()
        buried = self._known(text)
        if (
            seen is not None
            and seen.state != "X"
            and seen.expires > now
            and seen.lsn >= least
            and buried.shown_by(seen)
        ):
            value = self._value(seen, kind)
            if value is not msgspec.UNSET:
                self._count(key.kind, "redis")
                held = Held(value, seen.lsn, min(now + ttl.NEAR_S, seen.expires), key.kind)
                self._keep(text, held, flight)
                if ttl.early(now, seen.expires, seen.took_s, self._chance()):
                    self._refresh(key, load, seen)
                return held
        self._count(key.kind, "database")
        return await self._load(key, load, seen, max(least, floor, buried.least), flight)

    async def _load(
        self, key: Key, load: Callable[[], Awaitable[Any]], seen: Entry | None, least: int, flight: _Flight
    ) -> Held[Any]:
        lsn = max(least, seen.least if seen is not None and seen.state in "XW" else 0)
        started = self._clock()
        # This task has a context of its own: the request's stays as it is.
        wanted_lsn.set(lsn_text(lsn) if lsn else None)
        value = await load()
        now = self._clock()
        held = Held(value, lsn, now + ttl.NEAR_S, key.kind)
        if not flight.outdated:
            await self._fill(key, value, lsn, now - started, seen.line if seen else b"", now)
        # Asked again: an invalidation may have come while Redis was written to.
        self._keep(str(key), held, flight)
        return held

    def _keep(self, name: str, held: Held[Any], flight: _Flight) -> None:
        if flight.outdated:
            held.until = GONE
        else:
            self._near.put(name, held)

    def _refresh(self, key: Key, load: Callable[[], Awaitable[Any]], seen: Entry) -> None:
        """Load again in the background; readers keep what there is."""
        text = str(key)
        if text in self._refreshing:
            return
        self._refreshing.add(text)
        self._metrics.refreshes.labels(key.kind).inc()
        flight = _Flight()

        async def run() -> Held[Any]:
            try:
                # Not less than what it replaces.
                return await self._load(key, load, seen, max(seen.least, self._known(text).least), flight)
            except Exception as error:
                # The entry is still good: the reader who finds it ended will see the error.
                _logger.info("%s was not refreshed: %s", key, type(error).__name__)
                raise
            finally:
                self._refreshing.discard(text)

        self._start(key, flight, run())

    async def _look(self, text: str) -> Entry | None:
        if not self._redis.available:
            return None
        try:
            raw = await self._redis.get(text)
        except RedisUnavailable:
            return None
        return decode(raw) if raw is not None else None

    async def _fill(self, key: Key, value: object, lsn: int, took_s: float, seen: bytes, now: float) -> None:
        if not self._redis.available:
            return
        life = ttl.lifetime_s(key.kind, value is not None, self._chance())
        raw = encode("N" if value is None else "V", now + life, now, took_s, lsn, value)
        try:
            await self._redis.eval(FILL, [str(key)], [seen, raw, round(life * 1000)])
        except RedisUnavailable:
            return

    def _value(self, entry: Entry, kind: Any) -> Any:
        """The decoded value; UNSET when it is of another shape."""
        if entry.state == "N":
            return None
        try:
            return msgspec.json.decode(entry.body, type=kind)
        except msgspec.MsgspecError:
            _logger.warning(
                "a cache entry is not what it should be; raise the version of its key with its shape"
            )
            return msgspec.UNSET

    def _count(self, kind: str, layer: str) -> None:
        pair = (kind, layer)
        counter = self._counters.get(pair)
        if counter is None:
            counter = self._counters[pair] = self._metrics.reads.labels(*pair)
        counter.inc()
