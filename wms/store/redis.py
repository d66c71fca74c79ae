"""Redis Cluster as the service uses it: every call ends in time, and a Redis that is away costs nothing.

Three things keep a request from waiting for a broken Redis. Each call has a deadline (WMS_REDIS_TIMEOUT_MS). Each node
has a circuit breaker, so that a shard which hangs does not take the others along. And the topology is read by a task
of its own, never by a request: until it is known, calls are refused at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

from redis import exceptions
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wms.cache_metrics import CacheMetrics
from wms.settings import RedisSettings
from wms.store.batches import Batches
from wms.store.breaker import Breaker

_logger = logging.getLogger("wms.redis")
CONNECTIONS_PER_NODE = 64
TOPOLOGY_TIMEOUT_S = 2.0
LOOK_INTERVAL_S = 1.0

_DOWN = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError, OSError)
# A slot that nobody serves, or a topology that could not be read: the cluster's trouble, not the caller's.
_LOST = (
    exceptions.RedisClusterException,
    exceptions.ClusterError,
    exceptions.MovedError,
    exceptions.AskError,
)
# redis-py closes every connection of a client when one of its calls fails; another call that was just about to use one
# finds no writer there, or a transport that is closed.
_CLOSED = (AttributeError, RuntimeError)
_AWAY = (*_DOWN, *_LOST, *_CLOSED)


Command = tuple[Any, ...]
"""A command of Redis and its arguments."""


class RedisUnavailable(Exception):
    """Redis did not do it, or nobody knows whether it did; go on without it."""


class Redis:
    """The cluster, or nothing at all when no nodes are set: every call then raises RedisUnavailable."""

    def __init__(self, settings: RedisSettings, metrics: CacheMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tls = _tls(settings.ca) if settings.ca is not None else None
        self._client: RedisCluster | None = None
        self._known = False
        self._breakers: dict[str, Breaker] = {}
        self._batches = Batches(self._send)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def configured(self) -> bool:
        """Whether there is a Redis to be used at all."""
        return bool(self._settings.nodes)

    @property
    def available(self) -> bool:
        """Whether a call may come through now."""
        return self._known

    @property
    def healthy(self) -> bool:
        """Whether every node called of late answered."""
        return self._known and not any(breaker.failures for breaker in self._breakers.values())

    def start(self) -> None:
        """Begin connecting, in the background: Redis may be away. Needs a running event loop."""
        if self.configured:
            self._metrics.redis_up.set_function(lambda: float(self.healthy))
            self._metrics.watch_redis()
            self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the task and the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._known = False
        await self._drop()

    async def get(self, key: str) -> bytes | None:
        """The value of `key`. Raises RedisUnavailable, as everything here."""
        found = await self._ask("get", key, ("GET", key))
        return found if isinstance(found, bytes) else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Set `key` for `ttl_s` seconds: nothing stays for ever."""
        await self._call(
            "set", self._node_of(key), lambda client: client.set(key, value, px=max(1, round(ttl_s * 1000)))
        )

    async def take(self, key: str) -> bytes | None:
        """The value of `key`, which is gone then: one of several callers gets it."""
        found = await self._call("getdel", self._node_of(key), lambda client: client.getdel(key))
        return found if isinstance(found, bytes) else None

    async def delete(self, *keys: str) -> None:
        """Remove keys, of any slots."""
        await asyncio.gather(*map(self._delete, keys))

    async def _delete(self, key: str) -> None:
        await self._call("unlink", self._node_of(key), lambda client: client.unlink(key))

    async def eval(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script; all `keys` share a hash tag, and there is at least one."""
        rest = (len(keys), *keys, *args)
        try:
            return await self._ask("eval", keys[0], ("EVALSHA", _digest(script), *rest))
        except exceptions.NoScriptError:
            return await self._ask("eval", keys[0], ("EVAL", script, *rest))

    async def _ask(self, name: str, key: str, words: Command) -> Any:
        """The answer to a command about `key`. Those for one node in one turn of the event loop go in one message,
        which spares the others a round trip, a system call, and a connection.
        """
        return await self._batches.ask((name, self._node_of(key).name), words)

    async def _send(self, group: tuple[str, ...], commands: Sequence[Command]) -> list[Any]:
        """The answers of a node; an exception for what it refused."""
        name, place = group
        node = self._client.get_node(node_name=place) if self._client is not None else None
        if node is None:
            raise RedisUnavailable(f"{place} has left the cluster")
        sent = [PipelineCommand(number, *words) for number, words in enumerate(commands)]

        async def run(client: RedisCluster) -> list[Any]:
            await node.execute_pipeline(sent)
            return [await self._settle(client, command) for command in sent]

        answers: list[Any] = await self._call(name, node, run)
        return answers

    async def _settle(self, client: RedisCluster, command: PipelineCommand) -> Any:
        """The answer to one command of several; raises what is the trouble of all of them."""
        answer = command.result
        if isinstance(answer, exceptions.MovedError | exceptions.AskError):
            # The client knows where to, and learns it.
            return await client.execute_command(*command.args)
        if isinstance(answer, _AWAY):
            raise answer
        if isinstance(answer, exceptions.ResponseError) and not isinstance(answer, exceptions.NoScriptError):
            return self._refused(str(command.args[0]), answer)
        return answer

    async def xadd(self, stream: str, fields: dict[str, bytes], entry_id: str = "*", maxlen: int = 0) -> str:
        """Append an entry, keeping about the last `maxlen` (0: all); returns its id."""
        found = await self._call(
            "xadd",
            self._node_of(stream),
            lambda client: client.xadd(stream, fields, id=entry_id, maxlen=maxlen or None, approximate=True),  # type: ignore[arg-type]
        )
        return str(found.decode())

    async def xread(self, stream: str, after: str, count: int) -> list[tuple[str, dict[bytes, bytes]]]:
        """Up to `count` entries after the id `after`, at once.

        It does not block: Redis ends a blocked read up to 100 ms late (at its next cron), beyond a call's time.
        """
        node = self._node_of(stream)
        words = ("XREAD", "COUNT", count, "STREAMS", stream, after)

        async def run(client: RedisCluster) -> Any:
            # Told its node, the client need not ask a server where the keys of XREAD stand in it.
            return await client.execute_command(*words, target_nodes=node)

        found = await self._call("xread", node, run)
        if not found:
            return []
        entries = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        return [(entry_id.decode(), fields) for entry_id, fields in entries]

    async def xlast(self, stream: str) -> tuple[str, dict[bytes, bytes]]:
        """The stream's last entry, its id and fields; 0-0 and none when it has none."""
        found = await self._call(
            "xrevrange", self._node_of(stream), lambda client: client.xrevrange(stream, count=1)
        )
        return (str(found[0][0].decode()), found[0][1]) if found else ("0-0", {})

    def _node_of(self, key: str) -> ClusterNode:
        """Who serves a key. Raises RedisUnavailable."""
        client = self._client
        if client is None or not self._known:
            raise RedisUnavailable("Redis is away")
        try:
            node = client.get_node_from_key(key)
        except _LOST:
            node = None
        if node is None:
            self._lose("connection")
            raise RedisUnavailable("nobody serves this key")
        return node

    async def _call(
        self, command: str, node: ClusterNode, run: Callable[[RedisCluster], Awaitable[Any]]
    ) -> Any:
        client = self._client
        if client is None:
            raise RedisUnavailable("Redis is away")
        breaker = self._breakers.setdefault(node.name, Breaker())
        started = monotonic()
        if not breaker.admits(started):
            raise RedisUnavailable(f"{node.name} did not answer of late")
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                answer = await run(client)
        except exceptions.MaxConnectionsError:
            self._metrics.redis_errors.labels("busy").inc()
            raise RedisUnavailable("all connections are busy") from None
        except (TimeoutError, exceptions.TimeoutError):
            breaker.failed(monotonic())
            # The other nodes go on meanwhile; _keep looks whether somebody else serves its slots by now.
            self._metrics.redis_errors.labels("timeout").inc()
            raise RedisUnavailable(f"{node.name} did not answer in time") from None
        except _AWAY as error:
            breaker.failed(monotonic())
            self._lose("connection")
            raise RedisUnavailable(f"{node.name}: {type(error).__name__}") from None
        except exceptions.ResponseError as error:
            raise self._refused(command, error) from error
        breaker.succeeded()
        self._metrics.redis_seconds.labels(command).observe(monotonic() - started)
        return answer

    def _refused(self, command: str, error: exceptions.ResponseError) -> RedisUnavailable:
        """NOREPLICAS, OOM, READONLY, LOADING: the server is there and will not do it now."""
        self._metrics.redis_errors.labels("refused").inc()
        return RedisUnavailable(f"Redis refuses {command}: {str(error)[:100]}")

    def _lose(self, reason: str) -> None:
        """Count an error, and have the topology read again before anything else is sent."""
        self._metrics.redis_errors.labels(reason).inc()
        self._known = False
        self._wake.set()

    async def _keep(self) -> None:
        """Read the topology at the start and after each failure, until the end of the process."""
        trouble, pause_s = "", 0.1
        while True:
            if not self._known:
                try:
                    await self._look()
                    self._known, pause_s = True, 0.1
                except Exception as error:
                    # Also what a broken server makes the client raise: this task must not end.
                    said = type(error).__name__
                    if said != trouble:
                        _logger.warning("Redis is away: %s; the service goes on without it", said)
                    trouble, pause_s = said, min(LOOK_INTERVAL_S, pause_s * 2)
                    await self._drop()
                else:
                    if trouble:
                        _logger.warning("Redis is back")
                    trouble = ""
            if self._known:
                self._wake.clear()
                try:
                    async with asyncio.timeout(LOOK_INTERVAL_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._ask_the_failed()
            else:
                await asyncio.sleep(pause_s * (0.8 + 0.4 * random.random()))

    async def _look(self) -> None:
        if self._client is None:
            self._client = self._connect()
        async with asyncio.timeout(TOPOLOGY_TIMEOUT_S):
            await self._client.initialize()
        names = {node.name for node in self._client.get_nodes()}
        self._breakers = {name: breaker for name, breaker in self._breakers.items() if name in names}

    async def _ask_the_failed(self) -> None:
        """A node that nobody calls any more would count as failed for ever."""
        client, hanging = self._client, False
        if client is None:
            return
        for node in client.get_primaries():
            breaker = self._breakers.get(node.name)
            if breaker is None or not breaker.failures:
                continue
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    await node.execute_command("PING")
                breaker.succeeded()
            except (TimeoutError, *_AWAY, exceptions.RedisError):
                breaker.failed(monotonic())
                hanging = True
        if hanging:
            client = await self._renew(client)
        # A node that has become a replica is not called any more.
        masters = {node.name for node in client.get_primaries()}
        self._breakers = {name: breaker for name, breaker in self._breakers.items() if name in masters}

    async def _renew(self, old: RedisCluster) -> RedisCluster:
        """A client with the topology of now in the place of `old`, if it can be read; the old one serves until then."""
        fresh = self._connect()
        try:
            async with asyncio.timeout(TOPOLOGY_TIMEOUT_S):
                await fresh.initialize()
        except (TimeoutError, *_AWAY, exceptions.RedisError):
            fresh, used = old, fresh
        else:
            self._client, used = fresh, old
            # Calls under way end within their time.
            await asyncio.sleep(2 * self._settings.timeout_s)
        await _close(used)
        return fresh

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    def _connect(self) -> RedisCluster:
        settings = self._settings
        made = RedisCluster(
            startup_nodes=[
                ClusterNode(host, port) for host, port in random.sample(settings.nodes, len(settings.nodes))
            ],
            username=settings.user or None,
            password=settings.password or None,
            ssl=settings.ca is not None,
            # The cluster serves what it can while a shard is away.
            require_full_coverage=False,
            # A second try would take the time of the request; the breaker decides when to try again.
            retry=Retry(NoBackoff(), 0),
            max_connections=CONNECTIONS_PER_NODE,
            # Of the task that reads the topology, which may take longer than a request; a call's own limit is in _call.
            socket_timeout=TOPOLOGY_TIMEOUT_S / 2,
            socket_connect_timeout=TOPOLOGY_TIMEOUT_S / 2,
            socket_keepalive=True,
            protocol=2,
        )
        if self._tls is not None:
            # The nodes to be found take their class from here, those to start with have theirs already.
            made.connection_kwargs["connection_class"] = self._tls
            for node in made.startup_nodes:
                node.connection_class = self._tls
        return made


def _tls(ca: Path) -> type[SSLConnection]:
    """Connections that trust `ca` alone, by a context that they share. Each would make one of its own otherwise, and
    read the certificates of the whole system into it: most of a megabyte, and 10 ms in which nothing else happens.
    """
    context = ssl.create_default_context(cafile=str(ca))

    class Connection(SSLConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context.context = context

    return Connection


@lru_cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


async def _close(client: RedisCluster) -> None:
    try:
        async with asyncio.timeout(1.0):
            await client.aclose()
    except (TimeoutError, exceptions.RedisError, OSError):
        _logger.debug("a connection to Redis did not end in order")
