"""Answers that are kept whole: given again only while what they were made of is believed, and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import KEY, Harness
from wms.api.kept import Kept
from wms.api.operation import no_redis
from wms.cache import keys
from wms.cache.cache import Cache
from wms.cache.near import Near
from wms.store.database import Commit, Row
from wms.store.keys import hash_of

TARGET = "/api/v1/stock?warehouse_id=1&sku=S-1"
OTHER_TENANT, VIEWER, FRONTEND = "wms_tenant-8", "wms_viewer-of-7", "wms_frontend-of-7"


class World(Harness):
    """The application with a near cache and without Redis; time stands still unless a test moves it."""

    def __init__(self, size: int = 10, near: int = 10) -> None:
        super().__init__()
        self.now = 1000.0
        self.services.cache = Cache(no_redis(), self.services.metrics.cache, Near(near), lambda: self.now)
        self.services.kept = Kept(size, lambda: self.now)
        self.stock(5)
        principals: dict[bytes, Row] = {
            hash_of(KEY): (7, 1, "administrator", "premium"),
            hash_of(OTHER_TENANT): (8, 2, "administrator", "premium"),
            hash_of(VIEWER): (7, 3, "viewer", "premium"),
            hash_of(FRONTEND): (7, 4, "frontend", "premium"),
        }
        read = self.database.read

        async def by_key(
            statement: object, parameters: object, min_lsn: str | None = None, primary: bool = False
        ) -> list[Row]:
            if getattr(statement, "name", "") == "principal_of_api_key":
                return [principals[parameters[0]]]  # type: ignore[index]
            return await read(statement, parameters, min_lsn, primary)  # type: ignore[arg-type]

        self.database.read = by_key  # type: ignore[method-assign]

    def stock(self, on_hand: int) -> None:
        """What the database has from now on."""
        self.database.rows = [("A-1-1", on_hand, 0, datetime(2026, 1, 1, tzinfo=UTC))]

    def ask(self, target: str = TARGET, key: str = KEY, **headers: str) -> Response:
        return request(self.app, "GET", target, headers={"Authorization": f"Bearer {key}"} | headers)

    def on_hand(self, target: str = TARGET, key: str = KEY, **headers: str) -> int:
        answer = self.ask(target, key, **headers)
        assert answer.status == 200
        return int(answer.json["data"][0]["on_hand"])

    @property
    def loads(self) -> int:
        return len(self.database.asked)


def test_k1_an_answer_is_given_again_with_what_belongs_to_its_own_request() -> None:
    world = World()
    first, second = world.ask(), world.ask(**{"X-Request-Id": "r2"})
    assert world.loads == 1
    assert (second.status, second.body) == (first.status, first.body)
    own = {"x-request-id", "ratelimit-remaining"}
    assert {n: v for n, v in first.headers.items() if n not in own} == {
        n: v for n, v in second.headers.items() if n not in own
    }
    assert second.headers["x-request-id"] == "r2"
    # One less, but for what the bucket was given in between.
    assert int(second.headers["ratelimit-remaining"]) <= int(first.headers["ratelimit-remaining"])


def test_k1_an_answer_that_is_given_again_counts_as_a_read_of_the_near_cache_and_a_request() -> None:
    world = World()
    for _ in range(3):
        world.ask()
    text = world.ask("/metrics").body.decode()
    assert 'wms_cache_reads_total{entity="inventory:location",layer="database"} 1.0' in text
    assert 'wms_cache_reads_total{entity="inventory:location",layer="near"} 2.0' in text
    assert (
        'wms_http_request_duration_seconds_count{method="GET",route="/api/v1/stock",status="200"} 3.0' in text
    )


def test_k1_a_client_that_has_the_answer_is_told_so_from_what_is_kept() -> None:
    world = World()
    tag = world.ask().headers["etag"]
    answer = world.ask(**{"If-None-Match": tag})
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in answer.headers and world.loads == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda world: asyncio.run(
            world.services.cache.invalidate([keys.stock_in(7, 1, "S-1")], Commit("0/10"))
        ),
        lambda world: world.services.cache.forget([str(keys.stock_in(7, 1, "S-1"))], 16, "event"),
        lambda world: world.services.cache.forget_all(),
        lambda world: setattr(world, "now", world.now + 2.0),
    ],
    ids=["a write", "an event", "a gap in the events", "its age"],
)
def test_k3_an_answer_goes_with_what_it_was_made_of(change: Callable[[World], None]) -> None:
    world = World()
    assert world.on_hand() == 5
    world.stock(6)
    assert world.on_hand() == 5, "not yet"
    change(world)
    assert world.on_hand() == 6


def test_k3_a_load_that_a_write_has_overtaken_is_answered_and_not_kept() -> None:
    world = World()
    read = world.database.read

    async def overtaken(*arguments: object) -> list[Row]:
        found = await read(*arguments)  # type: ignore[arg-type]
        if getattr(arguments[0], "name", "") == "stock_lookup":
            await world.services.cache.invalidate([keys.stock_in(7, 1, "S-1")], Commit(""))
        return found

    world.database.read = overtaken  # type: ignore[method-assign, assignment]
    assert world.on_hand() == 5
    world.database.read = read  # type: ignore[method-assign]
    world.stock(6)
    assert world.on_hand() == 6


def test_k3_an_answer_goes_when_the_near_cache_has_no_room_for_what_it_was_made_of() -> None:
    """Nobody would tell it of a write any more."""
    world = World(near=1)
    world.ask()
    world.ask("/api/v1/stock?warehouse_id=1&sku=S-2")
    world.stock(6)
    assert world.on_hand() == 6


@pytest.mark.parametrize("header", ["WMS-Min-LSN", "WMS-Generation"])
def test_h1_a_reader_who_must_see_a_write_is_given_nothing_that_was_kept(header: str) -> None:
    world = World()
    world.ask()
    world.stock(6)
    assert world.on_hand(**{header: "0/10"}) == 6


def test_k2_no_tenant_is_given_what_was_made_for_another() -> None:
    world = World()
    assert world.on_hand() == 5
    world.stock(9)
    assert world.on_hand(key=OTHER_TENANT) == 9
    assert world.on_hand() == 5
    assert world.ask(key=OTHER_TENANT).headers["surrogate-key"] == "t8"


def test_h2_a_kept_answer_is_for_those_who_may_ask_for_it() -> None:
    world = World()
    world.ask()
    assert world.ask(key=FRONTEND).status == 403
    assert world.ask(key=VIEWER).status == 200
    assert request(world.app, "GET", TARGET).status == 401


def test_another_query_is_another_question_and_a_wrong_one_is_still_wrong() -> None:
    world = World()
    world.ask()
    assert world.ask(TARGET + "&colour=red").status == 400
    world.stock(6)
    assert world.on_hand("/api/v1/stock?sku=S-1&warehouse_id=1") == 5, "the value is held, the answer is new"


def test_no_more_answers_are_kept_than_there_is_room_for() -> None:
    world = World(size=0)
    world.ask()
    assert (
        world.services.kept.get((7, frozenset({"administrator"}), "/api/v1/stock", TARGET[14:].encode()))
        is None
    )
    world = World(size=1)
    world.ask()
    world.ask("/api/v1/stock?warehouse_id=1&sku=S-2")
    asked = [
        (7, frozenset({"administrator"}), "/api/v1/stock", b"warehouse_id=1&sku=S-%d" % n) for n in (1, 2)
    ]
    assert [world.services.kept.get(one) is not None for one in asked] == [False, True]
