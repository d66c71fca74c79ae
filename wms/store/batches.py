"""Requests of one turn of the event loop, sent together: a round trip and its system calls are paid once for all.

Nobody waits for a batch to fill: it goes with the next turn of the loop. A lone request is a batch of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
Group = tuple[str, ...]
MOST = 128
"""In one batch: its first answers wait for the last one, and a deadline is for all."""


class Batches(Generic[K, V]):
    """Collects what is asked of each group (of one server, say) and has `run(group, what)` answer it: in the same
    order, with an exception for what alone has failed.
    """

    def __init__(
        self, run: Callable[[Group, Sequence[K]], Awaitable[Sequence[V | Exception]]], most: int = MOST
    ) -> None:
        self._run = run
        self._most = most
        self._open: dict[Group, list[tuple[K, asyncio.Future[V]]]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, group: Group, what: K) -> V:
        """The answer. Raises what `run` raises for the batch, or gives for this part of it."""
        loop = asyncio.get_running_loop()
        batch = self._open.get(group)
        if batch is None or len(batch) >= self._most:
            batch = self._open[group] = []
            loop.call_soon(self._send, group, batch)
        answer: asyncio.Future[V] = loop.create_future()
        batch.append((what, answer))
        return await answer

    def _send(self, group: Group, batch: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        if self._open.get(group) is batch:
            del self._open[group]
        # Whoever has gone away meanwhile is done, and asked about no more.
        waiting = [(what, answer) for what, answer in batch if not answer.done()]
        if waiting:
            task = asyncio.create_task(self._answer(group, waiting))
            # The event loop itself keeps no task alive.
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer(self, group: Group, waiting: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        found: Sequence[V | Exception]
        try:
            found = await self._run(group, [what for what, _answer in waiting])
        except Exception as error:
            found = [error] * len(waiting)
        for (_what, answer), value in zip(waiting, found, strict=True):
            if answer.done():
                continue
            if isinstance(value, Exception):
                answer.set_exception(value)
            else:
                answer.set_result(value)
