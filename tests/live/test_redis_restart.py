"""What Redis has taken is there after its restart, under the platform's own access rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.redis import PORT, Cluster, cluster
from wms.events.stream import MAXLEN, PUBLISH, STREAM

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

ADDRESSES = ("127.56.40.1", "127.56.40.2", "127.56.40.3")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster(*ADDRESSES) as made:
        yield made


def test_what_a_script_or_a_transaction_wrote_survives_a_kill(nodes: Cluster) -> None:
    """Redis replays both as the default user, which is off, and must be allowed all the same (docs/adr/0010)."""
    with nodes.cluster("app") as client:
        batch = [word for n in range(1, 4) for word in (f"{n}-0", n, f"event {n}")]
        assert client.eval(PUBLISH, 1, STREAM, MAXLEN, *batch) == 3
        pipeline = client.pipeline(transaction=True)
        pipeline.set("{kept}:one", "1")
        pipeline.set("{kept}:two", "2")
        pipeline.execute()
        client.set("kept:alone", "3")
    nodes.kill(*ADDRESSES)
    nodes.start(*ADDRESSES)
    nodes.wait_ok()
    with nodes.cluster("app") as client:
        assert [entry[0] for entry in client.xrange(STREAM)] == [b"1-0", b"2-0", b"3-0"]
        assert [client.get(key) for key in ("{kept}:one", "{kept}:two", "kept:alone")] == [b"1", b"2", b"3"]
    for address in ADDRESSES:
        assert "NOPERM" not in (nodes.home / address / "log").read_text()


def test_nobody_can_be_the_default_user(nodes: Cluster) -> None:
    def stranger(user: str | None, password: str | None) -> redis.Redis:
        return redis.Redis(
            host=ADDRESSES[0], port=PORT, ssl=True, ssl_ca_certs=str(nodes.ca), protocol=2,
            username=user, password=password,
        )  # fmt: skip

    with stranger(None, None) as client, pytest.raises(redis.AuthenticationError, match="required"):
        client.get("kept:alone")
    for word in ("default", "any"):
        with stranger("default", word) as client, pytest.raises(redis.AuthenticationError, match="invalid"):
            client.get("kept:alone")
