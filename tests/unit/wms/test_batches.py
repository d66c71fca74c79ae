"""Requests of one turn of the event loop, sent together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from wms.store.batches import Batches, Group

A, B = ("a",), ("b",)


class Server:
    """Answers with the length of what it is asked, when it is let; remembers the batches."""

    def __init__(self) -> None:
        self.asked: list[tuple[Group, list[str]]] = []
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def answer(self, group: Group, what: Sequence[str]) -> list[int | Exception]:
        self.asked.append((group, list(what)))
        await self.free.wait()
        if self.error:
            raise self.error
        return [ValueError("empty") if not one else len(one) for one in what]


def test_what_is_asked_in_one_turn_goes_in_one_batch_by_group_and_each_gets_its_own_answer() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer)
        server.free.set()
        found = tuple(
            await asyncio.gather(
                batches.ask(A, "1"), batches.ask(B, "22"), batches.ask(A, "333"), batches.ask(A, "1")
            )
        )
        assert found == (1, 2, 3, 1)
        assert server.asked == [(A, ["1", "333", "1"]), (B, ["22"])]

    asyncio.run(story())


def test_nobody_waits_for_a_batch_that_is_under_way() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer)
        first = asyncio.create_task(batches.ask(A, "1"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(batches.ask(A, "22"))
        await asyncio.sleep(0.01)
        assert server.asked == [(A, ["1"]), (A, ["22"])]
        server.free.set()
        assert (await first, await second) == (1, 2)

    asyncio.run(story())


def test_a_failure_is_everybodys_and_the_next_batch_goes_on() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer)
        server.free.set()
        server.error = ConnectionError("gone")
        found = await asyncio.gather(batches.ask(A, "1"), batches.ask(A, "2"), return_exceptions=True)
        assert [str(one) for one in found] == ["gone", "gone"]
        server.error = None
        assert await batches.ask(A, "1") == 1

    asyncio.run(story())


def test_who_goes_away_takes_nobody_along() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer)
        early, late, patient = (asyncio.create_task(batches.ask(A, text)) for text in ("1", "22", "333"))
        await asyncio.sleep(0)
        early.cancel()
        await asyncio.sleep(0.01)
        late.cancel()
        await asyncio.sleep(0.01)
        server.free.set()
        assert await patient == 3
        assert server.asked == [(A, ["22", "333"])], "who left before it was sent is not asked about"
        with pytest.raises(asyncio.CancelledError):
            await late

    asyncio.run(story())


def test_when_all_have_gone_away_nothing_is_sent() -> None:
    async def story() -> None:
        server = Server()
        asking = asyncio.create_task(Batches(server.answer).ask(A, "1"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.sleep(0.01)
        assert server.asked == []

    asyncio.run(story())


def test_what_alone_fails_fails_alone() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer)
        server.free.set()
        good, bad = await asyncio.gather(batches.ask(A, "1"), batches.ask(A, ""), return_exceptions=True)
        assert (good, str(bad)) == (1, "empty")

    asyncio.run(story())


def test_a_batch_has_an_end() -> None:
    async def story() -> None:
        server = Server()
        batches = Batches(server.answer, most=2)
        server.free.set()
        await asyncio.gather(*(batches.ask(A, "x" * n) for n in range(1, 6)))
        assert [len(what) for _group, what in server.asked] == [2, 2, 1]

    asyncio.run(story())
