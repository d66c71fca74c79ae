"""Rate limits (row A3): the bucket's arithmetic, leases, what happens without Redis, and what clients are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import AUTH, Harness
from wms.api.limits import client_address
from wms.domain.limits import Bucket, Decision, Taken, lease, take
from wms.store import limits
from wms.store.buckets import key
from wms.store.limits import Limiter

DEFAULTS = {"address": 100, "authenticated": 1000, "premium": 10_000}


def test_a3_a_full_bucket_gives_its_limit_at_once_and_then_its_rate() -> None:
    bucket, taken = take(Bucket(100, 0.0), 100, 0.0, wanted=150)
    assert (taken.granted, taken.left) == (100, 0)
    assert taken.next_s == pytest.approx(0.6)
    assert taken.full_s == pytest.approx(60.0)
    granted = 0
    for second in range(1, 61):
        bucket, taken = take(bucket, 100, float(second), wanted=10)
        granted += taken.granted
    assert granted == 100, "another hundred within the next minute"


def test_a_bucket_never_holds_more_than_its_limit() -> None:
    bucket, _ = take(Bucket(0, 0.0), 60, 10_000.0, wanted=0)
    assert bucket.tokens == 60


def test_a_clock_that_goes_back_adds_nothing_and_takes_nothing() -> None:
    bucket, taken = take(Bucket(5, 100.0), 60, 40.0)
    assert (taken.granted, bucket.tokens, bucket.at) == (1, 4, 100.0)
    assert take(bucket, 60, 101.0, wanted=9)[1].granted == 5


def test_a_lowered_limit_counts_at_once() -> None:
    assert take(Bucket(1000, 0.0), 10, 0.0, wanted=1000)[1].granted == 10


@pytest.mark.parametrize(("limit", "tokens"), [(1, 1), (100, 1), (1000, 10), (10_000, 100)])
def test_a_lease_is_a_hundredth(limit: int, tokens: int) -> None:
    assert lease(limit) == tokens


class SharedBuckets:
    """Buckets that all limiters share, as Redis has them; `away` takes them out of reach."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.buckets: dict[str, Bucket] = {}
        self.calls = 0
        self.away = False

    async def take(self, name: str, limit: int, wanted: int) -> Taken | None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            return None
        bucket = self.buckets.get(name, Bucket(limit, self.clock()))
        self.buckets[name], taken = take(bucket, limit, self.clock(), wanted)
        return taken


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def allowed(limiter: Limiter, limit: int, requests: int, name: str = "x") -> int:
    decisions = await asyncio.gather(*(limiter.take(name, limit) for _ in range(requests)))
    return sum(decision.allowed for decision in decisions)


def test_processes_share_one_bucket_and_overshoot_no_more_than_their_leases() -> None:
    clock = Clock()
    shared = SharedBuckets(clock)
    limiters = [Limiter(shared.take, 3, clock) for _ in range(3)]

    async def run() -> None:
        total = 0
        for _ in range(5):
            for limiter in limiters:
                total += await allowed(limiter, 1000, 100)
        assert total == 1000, "1500 asked for at one time, spread over three processes"
        clock.now += 60
        # Leave a lease in each, then let the bucket fill up: what each holds comes on top.
        for limiter in limiters:
            await allowed(limiter, 1000, 1)
        clock.now += 60
        total = sum([await allowed(limiter, 1000, 1000) for limiter in limiters])
        assert 1000 < total <= 1000 + 3 * lease(1000)

    asyncio.run(run())


def test_requests_at_once_lease_once() -> None:
    clock = Clock()
    shared = SharedBuckets(clock)

    async def run() -> None:
        limiter = Limiter(shared.take, 3, clock)
        assert await allowed(limiter, 1000, 10) == 10
        assert shared.calls == 1
        assert await allowed(limiter, 1000, 11) == 11
        assert shared.calls == 3

    asyncio.run(run())


def test_an_empty_bucket_is_not_asked_again_before_it_has_a_token() -> None:
    clock = Clock()
    shared = SharedBuckets(clock)

    async def run() -> None:
        limiter = Limiter(shared.take, 1, clock)
        assert await allowed(limiter, 60, 60) == 60
        calls = shared.calls
        refused = await limiter.take("x", 60)
        assert (refused.allowed, refused.remaining, refused.retry_after_s) == (False, 0, 1)
        assert await allowed(limiter, 60, 500) == 0
        assert shared.calls == calls + 1
        clock.now += 1.001
        assert await allowed(limiter, 60, 5) == 1

    asyncio.run(run())


def test_what_is_told_goes_down_and_says_when_all_is_back() -> None:
    clock = Clock()
    limiter = Limiter(SharedBuckets(clock).take, 1, clock)

    async def run() -> list[Decision]:
        return [await limiter.take("x", 1000) for _ in range(12)]

    found = asyncio.run(run())
    assert [decision.remaining for decision in found] == list(range(999, 987, -1))
    assert {decision.limit for decision in found} == {1000}
    assert found[0].reset_s == 1, "ten leased tokens are back in 0.6 s"


def test_without_redis_each_process_allows_its_share_and_is_never_open() -> None:
    clock = Clock()
    shared = SharedBuckets(clock)
    shared.away = True
    told: list[int] = []

    async def run() -> None:
        limiter = Limiter(shared.take, 4, clock, on_local=lambda: told.append(1))
        assert await allowed(limiter, 100, 500) == 25
        clock.now += 12
        assert await allowed(limiter, 100, 500) == 5, "25 a minute"

    asyncio.run(run())
    assert told


def test_when_redis_goes_away_the_share_is_of_what_was_left_and_when_it_is_back_it_decides() -> None:
    clock = Clock()
    shared = SharedBuckets(clock)

    async def run() -> None:
        limiter = Limiter(shared.take, 2, clock)
        assert await allowed(limiter, 100, 90) == 90
        shared.away = True
        assert await allowed(limiter, 100, 100) == 5, "half of the ten that were left"
        shared.away = False
        clock.now += 60
        assert await allowed(limiter, 100, 200) == 100

    asyncio.run(run())


def test_a_limit_smaller_than_the_processes_still_lets_one_through() -> None:
    async def run() -> None:
        clock = Clock()
        assert await allowed(Limiter(None, 20, clock), 5, 10) == 1

    asyncio.run(run())


def test_many_addresses_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELD_BUCKETS", 10)

    async def run() -> None:
        limiter = Limiter()
        for number in range(50):
            await limiter.take(f"address-{number}", 100)
        assert len(limiter._held) == 10

    asyncio.run(run())


def test_k2_the_key_has_four_parts_and_the_identifier_is_its_hash_tag() -> None:
    assert key("tenant-7-premium") == "wms:ratelimit:{tenant-7-premium}:1"


# Whose bucket


def scope(peer: str, **headers: str) -> dict[str, Any]:
    found = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (peer, 1234), "headers": found}


GATEWAYS = (ip_network("127.40.7.1"), ip_network("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("peer", "claimed", "address"),
    [
        ("127.40.7.1", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("127.40.7.2", "203.0.113.9", "127.40.7.2"),
        ("127.40.7.1", "not an address", "127.40.7.1"),
        ("127.40.7.1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.1", "203.0.113.9", "198.51.100.1"),
        ("", "203.0.113.9", "unknown"),
    ],
)
def test_the_address_is_believed_of_a_gateway_only(peer: str, claimed: str, address: str) -> None:
    assert client_address(scope(peer, X_Real_IP=claimed), GATEWAYS) == address


# What clients see


@pytest.fixture
def api() -> Harness:
    return Harness()


def told(response: Response) -> tuple[int, int]:
    return int(response.headers["ratelimit-limit"]), int(response.headers["ratelimit-remaining"])


def test_a3_every_counted_answer_tells_limit_remaining_and_reset(api: Harness) -> None:
    for target, headers, limit in (
        ("/api/v1/stock?warehouse_id=1&sku=S-1", AUTH, DEFAULTS["premium"]),
        ("/api/v1/stock?warehouse_id=x&sku=S-1", AUTH, DEFAULTS["premium"]),
        ("/api/v1/stock/none", {}, DEFAULTS["address"]),
        ("/api/v1/openapi.json", {}, DEFAULTS["address"]),
        ("/nowhere", {}, DEFAULTS["address"]),
    ):
        response = request(api.app, "GET", target, headers=headers)
        assert told(response)[0] == limit, target
        assert int(response.headers["ratelimit-reset"]) >= 0


def test_a3_the_hundred_and_first_request_of_an_address_is_refused(api: Harness) -> None:
    statuses = [request(api.app, "GET", "/api/v1/openapi.json").status for _ in range(100)]
    assert set(statuses) == {200}
    for target in ("/api/v1/openapi.json", "/nowhere", "/api/v1/stock/S-1"):
        refused = request(api.app, "GET", target)
        assert refused.status == 429
        assert refused.json["type"] == "urn:wms:problem:too-many-requests"
        assert int(refused.headers["retry-after"]) >= 1
        assert told(refused) == (100, 0)
    # A good credential is not kept out by others behind the same address.
    assert api.get("/api/v1/stock?warehouse_id=1&sku=S-1").status == 200


def test_guessed_credentials_count_on_the_address(api: Harness) -> None:
    for number in range(100):
        assert (
            request(
                api.app, "GET", "/api/v1/stock/S-1", headers={"Authorization": f"Bearer wms_{number}"}
            ).status
            == 401
        )
    assert (
        request(api.app, "GET", "/api/v1/stock/S-1", headers={"Authorization": "Bearer wms_x"}).status == 429
    )


def test_who_watches_is_never_shut_out(api: Harness) -> None:
    for _ in range(150):
        for target in ("/health/live", "/health/ready", "/metrics"):
            response = request(api.app, "GET", target)
            assert response.status == 200
            assert "ratelimit-limit" not in response.headers
        api.lines()


def test_a_limit_of_zero_is_none(api: Harness) -> None:
    api.services.settings = replace(api.services.settings, rate_premium=0)
    response = api.get("/api/v1/stock?warehouse_id=1&sku=S-1")
    assert (response.status, "ratelimit-limit" in response.headers) == (200, False)
