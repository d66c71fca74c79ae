"""Requests of one turn of the event loop, sent together: a round trip and its system calls are paid once for all.

Nobody waits for a batch to fill: it goes with the next turn of the loop. A lone request is a batch of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Batches(Generic[K, V]):
    """Collects what is asked of each group (a server, say) and has `run(group, what)` answer it, in the same order."""

    def __init__(self, run: Callable[[str, Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._run = run
        self._open: dict[str, list[tuple[K, asyncio.Future[V]]]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, group: str, what: K) -> V:
        """The answer. Raises what `run` raises for the batch."""
        loop = asyncio.get_running_loop()
        batch = self._open.get(group)
        if batch is None:
            batch = self._open[group] = []
            loop.call_soon(self._send, group)
        answer: asyncio.Future[V] = loop.create_future()
        batch.append((what, answer))
        return await answer

    def _send(self, group: str) -> None:
        task = asyncio.create_task(self._answer(group, self._open.pop(group)))
        # The event loop itself keeps no task alive.
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, group: str, batch: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        # Whoever has gone away meanwhile is done, and asked about no more.
        waiting = [(what, answer) for what, answer in batch if not answer.done()]
        if not waiting:
            return
        try:
            found = await self._run(group, [what for what, _answer in waiting])
        except Exception as error:
            for _what, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_what, answer), value in zip(waiting, found, strict=True):
            if not answer.done():
                answer.set_result(value)
