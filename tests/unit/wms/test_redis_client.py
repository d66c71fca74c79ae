"""The service's Redis client goes on whatever redis-py does when connections are closed under its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio.cluster import PipelineCommand

from wms.cache_metrics import CacheMetrics
from wms.settings import RedisSettings
from wms.store.redis import Redis, RedisUnavailable

CLOSED = [
    AttributeError("'NoneType' object has no attribute 'writelines'"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    ConnectionResetError("Connection lost"),
]


class Node:
    """The one node of a cluster; `trouble` is raised by its next call, and by PING as long as it is there."""

    name = "127.0.0.9:6379"

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.clients = 0

    async def execute_command(self, *_words: str) -> bytes:
        if self.trouble is not None:
            raise self.trouble
        return b"PONG"

    async def execute_pipeline(self, commands: list[PipelineCommand]) -> None:
        for command in commands:
            command.result = await self.execute_command(*map(str, command.args))


class Client:
    """As much of redis-py's cluster client as is used."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.clients += 1

    async def initialize(self) -> Client:
        return self

    async def aclose(self) -> None:
        self._node.clients -= 1

    def get_nodes(self) -> list[Node]:
        return [self._node]

    get_primaries = get_nodes

    def get_node_from_key(self, _key: str) -> Node:
        return self._node

    def get_node(self, node_name: str) -> Node | None:
        return self._node if node_name == self._node.name else None

    async def get(self, _key: str) -> bytes:
        return await self._node.execute_command("GET")


class OneNode(Redis):
    """Redis over a Node."""

    def __init__(self, node: Node) -> None:
        settings = RedisSettings(nodes=(("127.0.0.9", 6379),))
        super().__init__(settings, CacheMetrics(CollectorRegistry()))
        self._node = node

    def _connect(self) -> Any:
        return Client(self._node)


async def until(check: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("trouble", CLOSED, ids=lambda error: type(error).__name__)
def test_a_connection_that_is_closed_under_a_call_is_redis_being_away(trouble: Exception) -> None:
    async def story() -> None:
        node = Node()
        redis = OneNode(node)
        redis.start()
        await until(lambda: redis.available)
        assert await redis.get("a") == b"PONG"
        node.trouble = trouble
        with pytest.raises(RedisUnavailable):
            await redis.get("a")
        assert not redis.healthy
        # It looks after the node all the time, and finds it when it is back.
        await asyncio.sleep(1.5)
        assert not redis.healthy
        node.trouble = None
        await until(lambda: redis.healthy)
        assert await redis.get("a") == b"PONG"
        await redis.close()
        assert node.clients == 0

    asyncio.run(story())
