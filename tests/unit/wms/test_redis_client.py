"""The service's Redis client goes on whatever redis-py does when connections are closed under its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis import exceptions
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
        self.answers: dict[tuple[Any, ...], Any] = {}
        """To commands; to all others PONG."""
        self.messages: list[list[tuple[Any, ...]]] = []

    async def execute_command(self, *words: Any) -> Any:
        if self.trouble is not None:
            raise self.trouble
        return self.answers.get(words, b"PONG")

    async def execute_pipeline(self, commands: list[PipelineCommand]) -> None:
        self.messages.append([command.args for command in commands])
        for command in commands:
            command.result = await self.execute_command(*command.args)


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

    def get_node(self, node_name: str) -> Node:
        assert node_name == self._node.name
        return self._node

    async def execute_command(self, *words: Any) -> Any:
        """Finds who has the key by now."""
        return ("by way of the client", *words)


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


def test_commands_of_one_turn_go_to_their_node_in_one_message_and_fail_each_for_itself() -> None:
    async def story() -> None:
        node = Node()
        node.answers = {
            ("GET", "full"): exceptions.OutOfMemoryError("OOM"),
            ("GET", "moved"): exceptions.MovedError("1 127.0.0.9:6380"),
        }
        redis = OneNode(node)
        redis.start()
        await until(lambda: redis.available)
        asked = [redis.get("a"), redis.get("full"), redis.get("moved")]
        good, refused, moved = await asyncio.gather(*asked, return_exceptions=True)
        assert node.messages == [[("GET", "a"), ("GET", "full"), ("GET", "moved")]]
        assert good == b"PONG"
        assert isinstance(refused, RedisUnavailable) and "OOM" in str(refused)
        assert moved is None, "the client was asked, and found no bytes"
        assert redis.healthy, "a refusal is no failure of the node"
        await redis.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "trouble", [exceptions.ClusterDownError("down"), exceptions.ConnectionError("lost"), *CLOSED]
)
def test_an_answer_that_tells_of_the_nodes_trouble_is_everybodys(trouble: Exception) -> None:
    async def story() -> None:
        node = Node()
        node.answers = {("GET", "b"): trouble}
        redis = OneNode(node)
        redis.start()
        await until(lambda: redis.available)
        found = await asyncio.gather(redis.get("a"), redis.get("b"), return_exceptions=True)
        assert [type(one) for one in found] == [RedisUnavailable, RedisUnavailable]
        assert not redis.healthy
        await redis.close()

    asyncio.run(story())


def test_a_script_that_the_node_does_not_know_is_sent_whole() -> None:
    async def story() -> None:
        node = Node()
        redis = OneNode(node)
        redis.start()
        await until(lambda: redis.available)
        await redis.eval("return 1", ["k"], [2])
        (digest,) = {words[1] for message in node.messages for words in message}
        node.answers = {("EVALSHA", digest, 1, "k", 2): exceptions.NoScriptError("NOSCRIPT")}
        assert await redis.eval("return 1", ["k"], [2]) == b"PONG"
        assert [message[0] for message in node.messages[1:]] == [
            ("EVALSHA", digest, 1, "k", 2),
            ("EVAL", "return 1", 1, "k", 2),
        ]
        await redis.close()

    asyncio.run(story())
