"""Rate limits (row A3) over a real Redis: one bucket for all processes, and what happens when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wms.domain.limits import Bucket, lease, take
from wms.store.buckets import SCRIPT, RedisBuckets, key
from wms.store.limits import Limiter

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
ROOT = Path(__file__).resolve().parents[2]
ADDRESS, PORT = "127.43.23.9", 6379

PASSWORD = "the-password-of-app"


def may_do() -> str:
    """What the platform lets the service's user do in Redis."""
    lines = (ROOT / "stacks/templates/users.acl.j2").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("user {{ app }}"))
    return line.partition(" ~")[1] + line.partition(" ~")[2]


class Server:
    """A Redis server of one node in cluster mode, with every slot."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers. Raises TimeoutError."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "redis-server", "--bind", ADDRESS, "--port", str(PORT), "--save", "", "--appendonly", "no",
                    "--cluster-enabled", "yes", "--protected-mode", "no", "--dir", str(self._home),
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            # The second time round the slots are taken, which is an error and fine.
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, PORT), timeout=1) as found:
                found.sendall(f"ACL SETUSER app reset on >{PASSWORD} {may_do()}\r\n".encode())
                assert found.recv(1000).startswith(b"+OK")
                found.sendall(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
                found.recv(1000)
                found.sendall(b"CLUSTER INFO\r\n")
                if b"cluster_state:ok" in found.recv(1000):
                    return
            time.sleep(0.05)
        raise TimeoutError((self._home / "log").read_text())

    def kill(self) -> None:
        """End it at once, and forget what it knew."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            (self._home / "nodes.conf").unlink(missing_ok=True)


@pytest.fixture
def server() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="wms-redis-"))
    made = None
    try:
        made = Server(home)
        yield made
    finally:
        if made is not None:
            made.kill()
        shutil.rmtree(home, ignore_errors=True)


class Process:
    """What a process of the service has: a connection of its own and a limiter."""

    def __init__(self, processes: int) -> None:
        # One attempt, as the service makes.
        self._redis: Any = Redis(
            host=ADDRESS,
            port=PORT,
            username="app",
            password=PASSWORD,
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )
        self.calls = 0
        self.limiter = Limiter(RedisBuckets(self.evaluate, RedisError).take, processes)

    async def evaluate(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.calls += 1
        return await self._redis.eval(script, len(keys), *keys, *args)

    async def allowed(self, name: str, limit: int, requests: int) -> int:
        """How many of so many requests, sent at once, are let through."""
        found = await asyncio.gather(*(self.limiter.take(name, limit) for _ in range(requests)))
        return sum(decision.allowed for decision in found)

    async def close(self) -> None:
        await self._redis.aclose()


def test_a3_processes_at_once_let_the_limit_through_and_no_more(server: Server) -> None:
    limit, each = 1000, 700

    async def run() -> None:
        processes = [Process(3) for _ in range(3)]
        try:
            started = time.monotonic()
            total = sum(await asyncio.gather(*(p.allowed("t-1", limit, each) for p in processes)))
            took = time.monotonic() - started
            # All began without a lease, so nothing but what flowed in meanwhile comes on top; a process that had
            # enough may hold a rest.
            assert limit - 3 * lease(limit) <= total <= limit + limit / 60 * took + 1
            assert sum(p.calls for p in processes) <= limit / lease(limit) + 3 + limit / 60 * took + 3
            refused = await processes[0].limiter.take("t-1", limit)
            assert not refused.allowed and refused.retry_after_s >= 1 and refused.reset_s >= 59
            assert await processes[1].allowed("t-2", limit, 10) == 10, "another tenant is not concerned"
        finally:
            await asyncio.gather(*(p.close() for p in processes))

    asyncio.run(run())


def test_it_flows_in_again_at_the_rate_of_the_limit(server: Server) -> None:
    async def run() -> None:
        process = Process(1)
        try:
            assert await process.allowed("x", 600, 700) >= 600
            began, total = time.monotonic(), 0
            while time.monotonic() - began < 2:
                total += await process.allowed("x", 600, 1)
                await asyncio.sleep(0.005)
            assert 15 <= total <= 21, "10 a second"
        finally:
            await process.close()

    asyncio.run(run())


def test_without_redis_each_has_its_share_and_with_it_again_the_bucket_decides(server: Server) -> None:
    async def run() -> None:
        processes = [Process(2) for _ in range(2)]
        try:
            assert await processes[0].allowed("seen", 100, 40) == 40
            server.kill()
            local = [await p.allowed("unseen", 100, 100) for p in processes]
            assert all(50 <= count <= 51 for count in local), "half of the limit each"
            assert 30 <= await processes[0].allowed("seen", 100, 100) <= 31, (
                "half of the sixty that were left"
            )
            server.start()
            assert await processes[0].allowed("new", 100, 200) <= 101
            assert (await processes[1].limiter.take("new", 100)).allowed is False
        finally:
            await asyncio.gather(*(p.close() for p in processes))

    asyncio.run(run())


def test_the_script_does_what_the_pure_bucket_does(server: Server) -> None:
    async def run() -> None:
        redis: Any = Redis(host=ADDRESS, port=PORT, username="app", password=PASSWORD)
        try:
            bucket = Bucket(100, 0.0)
            for wanted in (1, 0, 30, 60, 20, 5):
                granted, left, next_ms, full_ms = await redis.eval(SCRIPT, 1, key("same"), 100, wanted)
                bucket, expected = take(bucket, 100, 0.0, wanted)
                assert (granted, left) == (expected.granted, expected.left)
                assert next_ms / 1000 == pytest.approx(expected.next_s, abs=0.25)
                assert full_ms / 1000 == pytest.approx(expected.full_s, abs=0.25)
            # A bucket is kept until it is full, and not longer.
            assert 59_000 < await redis.pttl(key("same")) <= 61_000
            assert await redis.eval(SCRIPT, 1, key("once"), 60_000, 1) == [1, 59_999, 0, 1]
            await asyncio.sleep(1.2)
            assert await redis.exists(key("once")) == 0
        finally:
            await redis.aclose()

    asyncio.run(run())


# Through the service; it needs no database for this.


@contextlib.contextmanager
def service(folder: Path, address: str) -> Iterator[urllib3.HTTPConnectionPool]:
    """A process of the service, one of two, that believes us to be a gateway."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "WMS_BIND_ADDRESS": address,
        "WMS_DB_PASSWORD": "none",
        "WMS_WORKER_PASSWORD": "none",
        "WMS_DB_SSLMODE": "disable",
        "WMS_DB_HOSTS": f"{ADDRESS}:9",
        "WMS_DRAIN_MS": "0",
        "WMS_REDIS_NODES": f"{ADDRESS}:{PORT}",
        "WMS_REDIS_PASSWORD": PASSWORD,
        "WMS_REDIS_TIMEOUT_MS": "1000",
        "WMS_RATE_PROCESSES": "2",
        "WMS_TRUSTED_PROXIES": "127.0.0.0/8",
        "WMS_ACCESS_LOG": "off",
    }
    with (folder / f"log-{address}").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "wms.serve"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    pool = urllib3.HTTPConnectionPool(address, 8000, retries=False, timeout=10)
    try:
        until(lambda: metric(pool, "wms_redis_up") == 1, f"{address} has found Redis")
        yield pool
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()
            pool.close()


def until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if check():
                return
        time.sleep(0.1)
    raise TimeoutError(what)


def metric(pool: urllib3.HTTPConnectionPool, name: str) -> float:
    """The value of a metric without labels; -1 when there is none."""
    text = pool.request("GET", "/metrics").data.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else -1.0


def passed(pools: Sequence[urllib3.HTTPConnectionPool], client: str, requests: int) -> int:
    """How many of so many requests of a client, to each process in turn, are answered."""
    statuses = [
        pools[number % len(pools)]
        .request("GET", "/api/v1/openapi.json", headers={"X-Real-IP": client})
        .status
        for number in range(requests)
    ]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def test_a3_an_address_has_one_bucket_in_all_services_and_half_in_each_while_redis_is_away(
    server: Server, tmp_path: Path
) -> None:
    with service(tmp_path, "127.43.23.11") as first, service(tmp_path, "127.43.23.12") as second:
        began = time.monotonic()
        assert (
            100 <= passed((first, second), "203.0.113.7", 150) <= 101 + (time.monotonic() - began) * 100 / 60
        )
        assert passed((second,), "203.0.113.8", 10) == 10, "another client is not concerned"
        assert metric(first, "wms_rate_limit_local_total") == 0
        server.kill()
        until(lambda: metric(first, "wms_redis_up") == 0, "Redis is missed")
        began = time.monotonic()
        found = passed((first,), "203.0.113.9", 80)
        assert 50 <= found <= 51 + (time.monotonic() - began) * 50 / 60
        assert metric(first, "wms_rate_limit_local_total") > 0
