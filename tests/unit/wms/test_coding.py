"""Row A2: deflate, for who takes nothing else."""

from __future__ import annotations

import zlib

import pytest

from tests.unit.wms.test_service_api import Harness
from wms.api.asgi import outgoing
from wms.api.coding import MIN_BYTES, coded, deflate_only
from wms.api.conditional import matches

BODY = b'{"data":[' + b'{"sku":"SKU-1"},' * 100 + b"{}]}"


@pytest.mark.parametrize(
    ("header", "so"),
    [
        ("deflate", True), ("DEFLATE", True), ("deflate;q=0.5", True), ("identity, deflate ; q=0.001", True),
        ("deflate, gzip;q=0", True), ("br;q=0.000,deflate;q=1.0,gzip;q=0", True), ("deflate;q=.5", True),
        ("*, deflate", True), ("gzip, deflate", False), ("deflate, br;q=0.1", False), ("x-gzip, deflate", False),
        ("deflate;q=0", False), ("deflate;q=0.000", False), ("identity", False), ("", False), ("*", False),
        ("deflated", False), ("xdeflate", False), ("gzip;q=0", False),
    ],
)  # fmt: skip
def test_a2_deflate_is_for_who_takes_it_and_nothing_that_the_gateway_does(header: str, so: bool) -> None:
    assert deflate_only(header.encode()) is so


def test_a2_what_is_deflated_says_so_and_is_not_the_same_bytes_to_a_cache() -> None:
    plain = outgoing(200, BODY, b"application/json", ((b"etag", b'"abc"'), (b"vary", b"Authorization")))
    answer = coded(plain, b"deflate")
    headers = dict(answer.headers)
    assert zlib.decompress(answer.content) == BODY and len(answer.content) < len(BODY) / 5
    assert headers[b"content-encoding"] == b"deflate"
    assert headers[b"content-length"] == b"%d" % len(answer.content)
    assert (headers[b"etag"], headers[b"vary"]) == (b'W/"abc"', b"Authorization")
    assert len(headers) == len(answer.headers), "no header twice"
    assert matches({b"if-none-match": headers[b"etag"]}, b'"abc"')
    assert coded(plain, b"gzip, deflate") is plain and coded(answer, b"deflate") is answer


def test_a2_what_is_short_or_no_text_is_sent_as_it_is() -> None:
    short = outgoing(200, BODY[: MIN_BYTES - 1], b"application/json", ())
    picture = outgoing(200, BODY, b"image/png", ())
    assert coded(short, b"deflate") is short and coded(picture, b"deflate") is picture


def test_a2_the_service_deflates_its_description(api: Harness) -> None:
    answer = api.get("/api/v1/openapi.json", **{"Accept-Encoding": "deflate"})
    assert answer.headers["content-encoding"] == "deflate" and answer.headers["vary"] == "Accept-Encoding"
    assert zlib.decompress(answer.body) == api.get("/api/v1/openapi.json").body
    again = api.get(
        "/api/v1/openapi.json", **{"Accept-Encoding": "deflate", "If-None-Match": answer.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")


@pytest.fixture
def api() -> Harness:
    return Harness()
