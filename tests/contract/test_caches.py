"""Layers 2 and 3 of row K1 as their own servers do them: real gateways and edges before a service that is not."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from msgspec.structs import replace

from stacks import inventory, spec, topology
from stacks.engines import nginx, varnish
from tests.support.origin import Given, Origin, serving
from tests.support.platform import eventually
from tests.support.sandbox import Sandbox, sandbox
from wms.api.asgi import outgoing
from wms.api.coding import coded
from wmsctl.deadline import Deadline
from wmsctl.edge import purge
from wmsctl.secrets import Secret

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

ONE, TWO, PICKER = "Bearer key-of-tenant-one", "Bearer key-of-tenant-two", "Bearer key-of-a-picker-of-one"
KEPT = {"x-accel-expires": "300", "surrogate-control": "max-age=300", "surrogate-key": "t1 t1:sku"}
PRIVATE = {"cache-control": "private, no-cache", "vary": "Authorization, WMS-Min-LSN"}
SKUS = "/api/v1/skus"
DESCRIPTION = "/api/v1/openapi.json"
ASSET = "/assets/index-0a1b2c3d.js"
IMAGES = Path(__file__).resolve().parents[2] / "wms/web/public/images"
CODE = b"export const answer = 42;\n" * 100


@dataclass
class Web:
    """The servers, and a client that trusts them."""

    home: Sandbox
    origin: Origin
    client: urllib3.PoolManager

    def address(self, node: str) -> str:
        return next(n.address for n in topology.nodes(self.home.platform) if n.name == node)

    def get(self, node: str, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        """One GET to a node; header names with _ for -."""
        return self.request("GET", node, path, **headers)

    def request(self, method: str, node: str, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(method, f"https://{self.address(node)}:8443{path}", headers=sent)

    def purge(self, node: str, path: str = "/", token: str = "", **headers: str) -> urllib3.BaseHTTPResponse:
        return self.request(
            "PURGE", node, path, X_Purge_Token=token or self.home.secrets["edge/purge"], **headers
        )


def _answers(web: Web, node: str, path: str) -> bool:
    try:
        return web.get(node, path).status == 200
    except urllib3.exceptions.HTTPError:
        return False


@pytest.fixture(scope="module")
def servers() -> Iterator[Web]:
    platform = spec.load("local", {"network": f"127.{100 + os.getpid() % 100}"})
    dist = Path(tempfile.mkdtemp(prefix="wms-dist-"))
    for name, content in {
        "index.html": b"<!doctype html><title>WMS</title>",
        "sw.js": b"// worker",
        ASSET[1:]: CODE,
        **{f"images/pneu.{kind}": (IMAGES / f"pneu.{kind}").read_bytes() for kind in ("webp", "png")},
    }.items():
        (dist / name).parent.mkdir(exist_ok=True)
        (dist / name).write_bytes(content)
    for path in (dist, *dist.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        with sandbox(platform, web=str(dist)) as home:
            places = {
                (n.address, platform.service.port): Path(home.site.certificate(n.name))
                for n in topology.of_role(platform, "app")
            }
            origin = Origin()
            keys = ["gateway-1/nginx", "gateway-2/nginx"]
            for node in ("edge-1", "edge-2"):
                keys += [f"{node}/edge-tls", f"{node}/varnish"]
            with serving(origin, places), home.started(*keys):
                client = urllib3.PoolManager(ca_certs=home.site.ca, retries=False, timeout=20, maxsize=16)
                web = Web(home, origin, client)
                for node, health in (
                    ("gateway-1", nginx.HEALTH),
                    ("edge-1", varnish.HEALTH),
                    ("edge-2", varnish.HEALTH),
                ):
                    eventually(
                        lambda node=node, health=health: _answers(web, node, health),  # type: ignore[misc]
                        40,
                        lambda: "\n".join(home.output(key) for key in keys),
                    )
                eventually(lambda: _answers(web, "edge-1", "/"), 20, "edge-1 does not reach the gateways")
                eventually(lambda: _answers(web, "edge-2", "/"), 20, "edge-2 does not reach the gateways")
                yield web
    finally:
        shutil.rmtree(dist, ignore_errors=True)


@pytest.fixture
def web(servers: Web) -> Web:
    """The servers with an origin that knows two tenants and nothing else, and caches that hold nothing of a test
    before.
    """
    origin = servers.origin
    origin.credentials = {ONE: ("1", "administrator"), TWO: ("2", "administrator"), PICKER: ("1", "picker")}
    origin.answers = {
        SKUS: lambda tenant, number: Given(200, {**KEPT, **PRIVATE}, f"{tenant}:{number}".encode())
    }
    origin.down = False
    origin.asked.clear()
    # What is kept of a generation is asked for by nobody any more.
    origin.generation = f"0/{time.time_ns() & 0xFFFFFFFF:X}"
    origin.credentials = {f"{name} {origin.generation}": known for name, known in origin.credentials.items()}
    for node in ("edge-1", "edge-2"):
        assert servers.purge(node, X_Purge_All="yes").status == 200
    return servers


def who(web: Web, name: str) -> str:
    """The credential of this test's ONE, TWO or PICKER."""
    return f"{name} {web.origin.generation}"


def status(answer: urllib3.BaseHTTPResponse) -> str:
    return answer.headers.get("Cache-Status", "")


# The gateway (layer 3)


def test_k1_two_tenants_and_two_roles_never_meet_on_one_url(web: Web) -> None:
    for _ in range(2):
        answers = {
            name: web.get("gateway-1", SKUS, Authorization=who(web, name)) for name in (ONE, TWO, PICKER)
        }
    assert [a.data for a in answers.values()] == [b"1:0", b"2:1", b"1:2"]
    assert {status(a) for a in answers.values()} == {"gateway; hit"}
    assert web.origin.count(SKUS) == 3
    # Through an edge it is the same, and the edge keeps none of it.
    found = [web.get("edge-1", SKUS, Authorization=who(web, name)) for name in (ONE, TWO, ONE)]
    assert [a.data[:1] for a in found] == [b"1", b"2", b"1"]
    assert all("edge; fwd=bypass" in status(a) for a in found)


def test_k1_what_belongs_to_one_request_is_not_kept_for_others(web: Web) -> None:
    web.origin.answers[SKUS] = lambda tenant, number: Given(
        200, {**KEPT, **PRIVATE, "ratelimit-remaining": "7", "x-request-id": "of-the-first", "etag": '"a"'}
    )
    web.get("gateway-1", SKUS, Authorization=who(web, ONE))
    answer = web.get("gateway-1", SKUS, Authorization=who(web, ONE), X_Request_ID="of-the-second")
    assert status(answer) == "gateway; hit"
    assert answer.headers["X-Request-ID"] == "of-the-second"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    gone = {"ratelimit-remaining", "surrogate-control", "surrogate-key", "x-accel-expires", "x-wms-tenant"}
    assert not gone & {name.lower() for name in answer.headers}
    again = web.get("gateway-1", SKUS, Authorization=who(web, ONE), If_None_Match='"a"')
    assert (again.status, again.data) == (304, b"")


def test_k1_a_stranger_is_answered_by_the_service_and_gets_nothing_kept(web: Web) -> None:
    web.get("gateway-1", SKUS, Authorization=who(web, ONE))
    web.origin.answers[SKUS] = lambda tenant, number: Given(
        401 if not tenant else 200, {**KEPT, **PRIVATE}, b"no"
    )
    for credential in ({}, {"Authorization": "Bearer wrong"}):
        for _ in range(2):
            answer = web.get("gateway-1", SKUS, **credential)
            assert (answer.status, answer.data) == (401, b"no")
    assert web.get("gateway-1", SKUS, Authorization=who(web, ONE)).data == b"1:0"


@pytest.mark.parametrize("node", ["gateway-1", "edge-1"])
def test_k1_the_gateways_question_cannot_be_asked_from_outside(web: Web, node: str) -> None:
    for path in ("/internal/session", "/internal/", "//internal/session", "/api/../internal/session"):
        answer = web.get(node, path, Authorization=who(web, ONE))
        assert answer.status == 404 and "x-wms-tenant" not in answer.headers
    assert web.origin.count("/internal/session") == 0


@pytest.mark.parametrize(
    "header", [{"WMS_Min_LSN": "0/1"}, {"Cache_Control": "no-cache"}, {"Cache_Control": "max-age=0"}], ids=str
)
def test_k1_who_must_see_the_newest_passes_by(web: Web, header: dict[str, str]) -> None:
    web.get("gateway-1", SKUS, Authorization=who(web, ONE))
    answer = web.get("gateway-1", SKUS, Authorization=who(web, ONE), **header)
    assert (answer.data, status(answer)) == (b"1:1", "gateway; fwd=bypass")
    assert web.origin.asked[-1].headers.get("wms-min-lsn") == header.get("WMS_Min_LSN")


def test_k1_without_a_word_of_the_service_nothing_is_kept(web: Web) -> None:
    web.origin.answers[SKUS] = lambda tenant, number: Given(
        200, {"cache-control": "public, max-age=60"}, b"%d" % number
    )
    assert [web.get("gateway-1", SKUS, Authorization=who(web, ONE)).data for _ in range(3)] == [
        b"0",
        b"1",
        b"2",
    ]


def test_k1_a_new_generation_is_seen_in_seconds_and_read_where_it_is(web: Web) -> None:
    credential = who(web, ONE)
    assert web.get("gateway-1", SKUS, Authorization=credential).data == b"1:0"
    assert web.origin.asked[-1].headers["wms-generation"] == web.origin.generation
    web.origin.generation = "7/70"
    changed = time.monotonic()
    eventually(lambda: web.get("gateway-1", SKUS, Authorization=credential).data == b"1:1", 8, "never seen")
    assert time.monotonic() - changed < 6.5
    assert web.origin.asked[-1].headers["wms-generation"] == "7/70"


def test_k1_equal_requests_wait_for_one(web: Web) -> None:
    credential = who(web, ONE)
    web.get("gateway-1", SKUS + "?warm", Authorization=credential)
    web.origin.answers[SKUS] = lambda tenant, number: Given(200, {**KEPT, **PRIVATE}, b"x", delay_s=0.1)
    before = web.origin.count(SKUS)
    found: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(web.get("gateway-1", SKUS, Authorization=credential).data)
        )
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [b"x"] * 12
    assert web.origin.count(SKUS) - before == 1


def test_k1_an_old_answer_is_better_than_a_failure(web: Web) -> None:
    web.origin.answers[SKUS] = lambda tenant, number: Given(
        200, {**KEPT, **PRIVATE, "x-accel-expires": "1"}, b"old"
    )
    credential = who(web, ONE)
    assert web.get("gateway-1", SKUS, Authorization=credential).data == b"old"
    web.origin.down = True
    time.sleep(2.1)
    answers = [web.get("gateway-1", SKUS, Authorization=credential) for _ in range(2)]
    assert [(a.status, a.data) for a in answers] == [(200, b"old")] * 2
    assert status(answers[1]) == "gateway; hit; detail=stale"
    # Also when nobody can say any more whose credential it is; but not for one that was never seen.
    time.sleep(5)
    assert web.get("gateway-1", SKUS, Authorization=credential).status == 200
    assert web.get("gateway-1", SKUS, Authorization=who(web, TWO)).status == 503


def test_k1_a_withdrawn_credential_is_refused_within_seconds(web: Web) -> None:
    credential = who(web, ONE)
    assert web.get("gateway-1", SKUS, Authorization=credential).status == 200
    del web.origin.credentials[credential]
    web.origin.answers[SKUS] = lambda tenant, number: Given(401 if not tenant else 200, PRIVATE)
    moment = time.monotonic()
    eventually(lambda: web.get("gateway-1", SKUS, Authorization=credential).status == 401, 8, "still served")
    assert time.monotonic() - moment < 6.5


def test_k1_no_credential_is_on_the_gateways_disk(web: Web) -> None:
    credential = who(web, ONE)
    web.get("gateway-1", SKUS, Authorization=credential)
    assert status(web.get("gateway-1", SKUS, Authorization=credential)) == "gateway; hit"
    kept = [path for path in web.home.folder("gateway-1/nginx").rglob("*") if path.is_file()]
    assert any("cache" in str(path) for path in kept) and any("sessions" in str(path) for path in kept)
    for path in kept:
        assert b"key-of-tenant-one" not in path.read_bytes(), path
    for name in ("cache", "sessions"):
        assert (web.home.folder("gateway-1/nginx") / name).stat().st_mode & 0o077 == 0


def test_k1_other_paths_ask_nothing_beforehand(web: Web) -> None:
    web.origin.answers["/api/v1/stock"] = lambda tenant, number: Given(200, PRIVATE, b"%d" % number)
    found = [web.get("gateway-1", "/api/v1/stock", Authorization=who(web, ONE)).data for _ in range(2)]
    assert found == [b"0", b"1"] and web.origin.count("/internal/session") == 0


# The edge (layer 2)


def _public(number: int, **more: str) -> Given:
    keep = {
        "cache-control": "public, no-cache",
        "surrogate-control": "max-age=300",
        "surrogate-key": "description",
    }
    return Given(200, {**keep, **more}, b"%d" % number)


@pytest.mark.parametrize("how", ["key", "url", "all"])
def test_k1_a_purge_empties_each_edge(web: Web, how: str) -> None:
    web.origin.answers[DESCRIPTION] = lambda tenant, number: _public(number)
    first = {node: [web.get(node, DESCRIPTION) for _ in range(2)] for node in ("edge-1", "edge-2")}
    assert [[a.data for a in found] for found in first.values()] == [[b"0", b"0"], [b"1", b"1"]]
    assert first["edge-1"][1].headers["X-Cache"] == "HIT" and "edge; hit" in status(first["edge-1"][1])
    assert not {"surrogate-key", "surrogate-control", "xkey"} & {
        n.lower() for n in first["edge-1"][1].headers
    }
    assert web.purge("edge-1", token="guess").status == 403
    assert web.get("edge-1", DESCRIPTION).data == b"0"
    arguments = {"key": {"xkey_purge": "other description"}, "url": {}, "all": {"X_Purge_All": "yes"}}[how]
    for node in ("edge-1", "edge-2"):
        answer = web.purge(node, DESCRIPTION if how == "url" else "/", **arguments)
        assert answer.status == 200 and answer.headers["X-Edge-Purged"] == ("1" if how == "key" else "yes")
    assert [web.get(node, DESCRIPTION).data for node in ("edge-1", "edge-2")] == [b"2", b"3"]


def test_k1_wmsctl_purges_real_edges_and_knows_when_varnish_is_away(web: Web) -> None:
    made = inventory.inventory(web.home.platform, web.home.site, "/nowhere")
    token = Secret(web.home.secrets[made.web.purge])
    web.origin.answers[DESCRIPTION] = lambda tenant, number: _public(number)
    for node in ("edge-1", "edge-2"):
        web.get(node, DESCRIPTION)
    results = purge.run(made, token, purge.wanted(["description"], "", False), Deadline.after(10))
    assert [(r.node, r.purged, r.objects) for r in results] == [("edge-1", True, 1), ("edge-2", True, 1)]
    assert all(
        r.purged for r in purge.run(made, token, purge.wanted([], "/images/a", False), Deadline.after(10))
    )
    assert all(r.purged for r in purge.run(made, token, purge.wanted([], "", True), Deadline.after(10)))
    wrong = purge.run(made, Secret("guess"), purge.wanted([], "", True), Deadline.after(10))
    assert [(r.purged, r.reachable) for r in wrong] == [(False, True)] * 2
    # What a gateway says to it while Varnish is away.
    there = made.web.gateways[0]
    away = replace(made, web=replace(made.web, edges=(there,)))
    (result,) = purge.run(away, token, purge.wanted([], "", True), Deadline.after(10))
    assert not result.purged and not result.reachable and "Varnish" in result.trouble


def test_k1_the_edge_serves_the_old_answer_while_it_asks_and_when_that_fails(web: Web) -> None:
    web.origin.answers[DESCRIPTION] = lambda tenant, number: _public(
        number, **{"surrogate-control": "max-age=1"}
    )
    assert web.get("edge-1", DESCRIPTION).data == b"0"
    time.sleep(1.3)
    assert web.get("edge-1", DESCRIPTION).data == b"0"
    eventually(lambda: web.get("edge-1", DESCRIPTION).data == b"1", 3, "never refreshed")
    web.origin.down = True
    time.sleep(1.3)
    assert {web.get("edge-1", DESCRIPTION).data for _ in range(3)} == {b"1"}
    assert web.get("edge-1", DESCRIPTION + "?never-seen").status == 503


def test_k1_the_edge_keeps_nothing_that_was_asked_for_with_a_credential(web: Web) -> None:
    web.origin.answers[DESCRIPTION] = lambda tenant, number: _public(number)
    found = [web.get("edge-1", DESCRIPTION, Authorization=who(web, ONE)).data for _ in range(2)]
    assert found == [b"0", b"1"]


# The frontend's files


@pytest.mark.parametrize("path", ["/", "/orders/12", "/inventory/SKU.1"])
def test_f4_pages_are_the_frontend_asked_for_each_time(web: Web, path: str) -> None:
    answer = web.get("edge-1", path)
    assert answer.status == 200 and b"<title>WMS" in answer.data
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Strict-Transport-Security"]
    assert web.get("edge-1", path, If_None_Match=answer.headers["ETag"]).status == 304


def test_k1_assets_are_kept_by_the_edge_and_for_ever_by_browsers(web: Web) -> None:
    first, second = (web.get("edge-1", ASSET, Authorization="Bearer whoever", Cookie="a=b") for _ in range(2))
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert second.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert second.headers["Content-Type"] == "text/javascript"
    assert web.get("edge-1", "/sw.js").headers["Cache-Control"] == "no-cache"


CODINGS = {
    "gzip": "gzip",
    "deflate": "deflate",
    "br": "br",
    "identity": "",
    "": "",
    "gzip, deflate": "gzip",
    "gzip, deflate, br": "br",
    "DEFLATE": "deflate",
    "deflate, gzip;q=0": "deflate",
    "deflate;q=0.5, br;q=0": "deflate",
    "gzip;q=0.001, br;q=0": "gzip",
    "br;q=0.2, gzip;q=0": "br",
    "deflate;q=0, identity": "",
    "gzip;q=0, br;q=0.000, deflate;q=0.0": "",
}
"""Accept-Encoding → Content-Encoding."""


@pytest.mark.parametrize(("node", "path"), [("gateway-1", SKUS), ("edge-1", SKUS), ("edge-1", DESCRIPTION)])
def test_a2_every_coding_is_given_to_who_takes_it_and_no_cache_confuses_them(
    web: Web, node: str, path: str
) -> None:
    """The gateway and the edge as they are; the service's part is done by the service's function. Fails when a weight
    of 0 is taken for a wish, or a copy in one coding answers who takes another.
    """
    body = b'{"data":[' + b'{"sku":"SKU-000001"},' * 200 + b"{}]}"
    public = path == DESCRIPTION

    def answer(tenant: str, number: int) -> Given:
        takes = web.origin.asked[-1].headers.get("accept-encoding", "")
        keep = _public(number).headers if public else {**KEPT, **PRIVATE}
        keep["vary"] = "Accept-Encoding" if public else "Authorization, WMS-Min-LSN, Accept-Encoding"
        raw = tuple((name.encode(), value.encode()) for name, value in keep.items())
        made = coded(outgoing(200, body, b"application/json", raw), takes.encode())
        headers = {name.decode(): value.decode() for name, value in made.headers}
        del headers["content-length"]
        return Given(200, headers, made.content)

    web.origin.answers[path] = answer
    decode: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "": bytes,
        # Python has no brotli: its browsers are in tests/web.
        "br": lambda raw: body if len(raw) < len(body) / 5 else raw,
    }
    for _ in range(2):
        for takes, coding in CODINGS.items():
            headers = {"Accept-Encoding": takes} if takes else {}
            if not public:
                headers["Authorization"] = who(web, ONE)
            found = web.client.request(
                "GET", f"https://{web.address(node)}:8443{path}", headers=headers, decode_content=False
            )
            assert found.status == 200
            assert found.headers.get("Content-Encoding", "") == coding, takes
            assert decode[coding](found.data) == body, takes
            assert "Accept-Encoding" in found.headers["Vary"] and found.headers.getlist("Vary") == [
                found.headers["Vary"]
            ]
    # Kept: as it came from the service by each gateway, as the gateway made it by the edge.
    gateways = 1 if node == "gateway-1" else len(topology.of_role(web.home.platform, "gateway"))
    assert web.origin.count(path) <= (4 if public else 2 * gateways)


def width(image: bytes) -> int:
    """In pixels, of a PNG (IHDR) or a lossy WEBP, plain (RFC 6386 §9.1) or extended (RFC 9649 §2.7)."""
    if image[:4] == b"\x89PNG":
        return int.from_bytes(image[16:20], "big")
    if image[8:16] == b"WEBPVP8X":
        return int.from_bytes(image[24:27], "little") + 1
    assert image[8:16] == b"WEBPVP8 " and image[23:26] == b"\x9d\x01\x2a"
    return int.from_bytes(image[26:28], "little") & 0x3FFF


@pytest.mark.parametrize("kind", ["webp", "png"])
def test_f3_pictures_are_made_in_the_width_and_format_that_is_asked_for(web: Web, kind: str) -> None:
    """Fails when the edge gives the original, another format, or more bytes for fewer pixels."""
    sizes = []
    for wanted in nginx.IMAGE_WIDTHS:
        found = [web.get("edge-1", f"/images/pneu?w={wanted}&format={kind}", Accept="*/*") for _ in range(2)]
        assert [a.status for a in found] == [200, 200] and found[0].data == found[1].data
        assert [a.headers["X-Cache"] for a in found] == ["MISS", "HIT"]
        assert found[1].headers["Content-Type"] == f"image/{kind}" and "Vary" not in found[1].headers
        assert found[1].headers["Cache-Control"] == "public, max-age=86400"
        assert width(found[0].data) == wanted
        sizes.append(len(found[0].data))
    original = len((IMAGES / f"pneu.{kind}").read_bytes())
    assert sizes == sorted(sizes) and sizes[-1] <= original
    assert all(size < original / 2 for size in sizes[:-1]), (sizes, original)
    print(f"pneu.{kind}: {original} bytes, by width {dict(zip(nginx.IMAGE_WIDTHS, sizes, strict=True))}")


def test_f3_the_format_is_the_one_that_the_browser_takes_and_both_are_kept(web: Web) -> None:
    kinds = {
        "image/avif,image/webp,image/png,*/*;q=0.8": "image/webp",
        "IMAGE/WEBP;q=0.3": "image/webp",
        "image/*,*/*;q=0.8": "image/png",
        "image/png, image/webp;q=0": "image/png",
        "image/webp;q=0.0,*/*": "image/png",
        "": "image/png",
    }
    for _ in range(2):
        for node in ("gateway-1", "edge-1"):
            for accept, kind in kinds.items():
                answer = web.get(node, "/images/pneu?w=96", Accept=accept)
                assert (answer.headers["Content-Type"], answer.headers["Vary"]) == (kind, "Accept"), (
                    node,
                    accept,
                )
    # However the browser words it: the edge has asked for each format once.
    for accept in kinds:
        assert web.get("edge-1", "/images/pneu?w=96", Accept=accept).headers["X-Cache"] == "HIT"
    default = web.get("edge-1", "/images/pneu", Accept="image/webp")
    assert width(default.data) == 192


@pytest.mark.parametrize(
    "query",
    [
        "w=97",
        "w=0",
        "w=-1",
        "w=9999",
        "w=",
        "w=48&w=96",
        "w=96&format=gif",
        "format=png&w=96",
        "q=100",
        "w=96&x=1",
        "W=96",
    ],
)
def test_f3_other_pictures_are_not_made(web: Web, query: str) -> None:
    """Anybody may ask: what is not on the list costs nothing and is kept nowhere."""
    for _ in range(2):
        answer = web.get("edge-1", f"/images/pneu?{query}")
        assert answer.status == 400 and answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Cache"] == "MISS"
        assert "48, 96, 192, 384" in answer.json()["detail"]


def test_a2_assets_are_compressed_as_the_client_likes_and_kept_so(web: Web) -> None:
    for _ in range(2):
        zipped = web.client.request(
            "GET", f"https://{web.address('edge-1')}:8443{ASSET}", headers={"Accept-Encoding": "gzip"},
            decode_content=False, preload_content=False,
        )  # fmt: skip
        assert zipped.headers["Content-Encoding"] == "gzip" and gzip.decompress(zipped.read()) == CODE
        brotli = web.client.request(
            "GET", f"https://{web.address('edge-1')}:8443{ASSET}", headers={"Accept-Encoding": "gzip, br"},
            decode_content=False, preload_content=False,
        )  # fmt: skip
        assert brotli.headers["Content-Encoding"] == "br"
        assert web.get("edge-1", ASSET, Accept_Encoding="identity").data == CODE


@pytest.mark.parametrize(
    "path",
    [
        "/assets/gone.js",
        "/images/gone",
        "/images/gone?w=96",
        "/images/pneu.png",
        "/images/a/b",
        "/metrics",
        "/-/x",
    ],
)
def test_f4_what_is_not_there_is_404(web: Web, path: str) -> None:
    answer = web.get("edge-1", path)
    assert answer.status == 404 and answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
