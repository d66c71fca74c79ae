"""What caches are told, 304, requests once per key, and the limits of requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import AUTH, POST, Harness, the_error
from wms.api import commands, fields, openapi
from wms.api.app import OPERATIONS, routes
from wms.api.conditional import CachePolicy, matches, surrogate_keys
from wms.api.envelope import Envelope
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, SelectPageParams
from wms.api.problem import Problem
from wms.api.selection import Selectable
from wms.domain.roles import NOBODY
from wms.log import RequestLog
from wms.store.database import Commit, Statement, heard_lsn, wanted_lsn


class SkuParams(SelectPageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A filter."""

    sku: str | None = None


class Sku(msgspec.Struct, frozen=True):
    """What is answered."""

    id: int
    name: str = ""
    stock: list[int] | msgspec.UnsetType = msgspec.UNSET


async def handler(_call: Call[Any, Any]) -> Reply:
    return Reply({"seen": wanted_lsn.get(), "heard": heard_lsn.get()})


POLICY = CachePolicy(browser_s=10, surrogate_s=300, keys=("stock", "sku:{sku}"))
OPERATION = Operation(
    method="GET",
    path="/api/v1/things",
    name="listThings",
    summary="Things",
    handler=handler,
    params=SkuParams,
    answers={200: Answer(Page[Sku], "Things.")},
    cache=POLICY,
    selection=Selectable(Sku, includes=("stock",)),
)


def ask(operation: Operation[Any, Any], query: str = "", **headers: str) -> Response:
    harness = Harness()
    envelope = Envelope(routes([operation], harness.services), harness.services, RequestLog("off", "i"))
    target = operation.path + query
    return request(envelope, operation.method, target, headers=AUTH | headers)


def test_k1_browsers_and_our_own_caches_are_told_apart() -> None:
    found = ask(OPERATION, "?sku=A-1").headers
    assert found["cache-control"] == "private, max-age=10"
    assert found["surrogate-control"] == "max-age=300"
    assert found["surrogate-key"] == "t7 t7:stock t7:sku:A-1"
    assert found["vary"] == "Authorization, WMS-Min-LSN, Accept-Encoding"


def test_k1_without_a_policy_a_tenants_data_is_asked_for_each_time() -> None:
    found = ask(replace(OPERATION, cache=None)).headers
    assert (found["cache-control"], found["surrogate-key"]) == ("private, no-cache", "t7")
    assert found["etag"]
    assert "surrogate-control" not in found


def test_k1_what_is_nobodys_is_public_and_has_no_tenant() -> None:
    found = ask(replace(OPERATION, public=True), "?sku=A-1").headers
    assert found["cache-control"] == "public, max-age=10"
    assert found["surrogate-key"] == "stock sku:A-1"
    assert found["vary"] == "Accept-Encoding"


def test_k1_writes_errors_and_health_are_not_kept() -> None:
    api = Harness()
    api.database.row = ("in_flight", None)
    wrong = [
        request(api.app, "POST", "/api/v1/movements", headers=POST, chunks=(b"{}",)),
        api.get("/api/v1/stock"),
        api.get("/nope"),
        api.get("/health/live"),
    ]
    for response in wrong:
        assert response.headers["cache-control"] == "no-store"
        assert "etag" not in response.headers


def test_k1_keys_are_of_one_tenant_and_hold_no_blank() -> None:
    found = surrogate_keys(("a", "sku:{sku}"), 7, SkuParams(sku="x y\tt8:a"))
    assert found == ("t7", "t7:a", "t7:sku:x%20y%09t8%3Aa")
    assert surrogate_keys(("sku:{sku}",), 7, SkuParams()) == ("t7",)


def test_an_answer_at_hand_is_not_sent_again() -> None:
    first = ask(OPERATION)
    tag = first.headers["etag"]
    again = ask(OPERATION, **{"If-None-Match": f'"x", W/{tag}'})
    assert (again.status, again.body) == (304, b"")
    for name in ("etag", "cache-control", "surrogate-key", "surrogate-control", "vary"):
        assert again.headers[name] == first.headers[name]
    assert "content-length" not in again.headers
    other = ask(OPERATION, **{"If-None-Match": tag, "WMS-Min-LSN": "0/1"})
    assert (other.status, other.headers["etag"] != tag) == (200, True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (b"*", True),
        (b'"a"', True),
        (b'"b", "a"', True),
        (b'W/"a"', True),
        (b'"b"', False),
        (b"a", False),
        (b"", False),
    ],
)
def test_if_none_match_compares_weakly(asked: bytes, expected: bool) -> None:
    assert matches({b"if-none-match": asked}, b'"a"') is expected
    assert not matches({}, b'"a"')


def test_h1_a_reader_says_what_he_must_see() -> None:
    assert ask(OPERATION, **{"WMS-Min-LSN": "A/1F"}).json == {"seen": "A/1F", "heard": None}
    assert ask(OPERATION, **{"WMS-Generation": "A/1F"}).json == {"seen": None, "heard": "A/1F"}
    assert ask(OPERATION).json == {"seen": None, "heard": None}
    for wrong in ("", "1", "x/1", "0/123456789", "0/1;"):
        for header in ("WMS-Min-LSN", "WMS-Generation"):
            error = the_error(ask(OPERATION, **{header: wrong}))
            assert (error["field"], error["in"]) == (header, "header")
    assert wanted_lsn.get() is None and heard_lsn.get() is None


def test_a_handler_that_hangs_is_given_up() -> None:
    async def hangs(_call: Call[Any, Any]) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    harness = Harness()
    services = replace(harness.services, settings=replace(harness.services.settings, request_timeout_s=0.05))
    envelope = Envelope(
        routes([replace(OPERATION, handler=hangs)], services), services, RequestLog("off", "i")
    )
    found = request(envelope, "GET", "/api/v1/things", headers=AUTH)
    assert (found.status, found.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"[" * 3 + b"]" * 3, False),
        (b"[" * 4 + b"]" * 4, True),
        (b'{"a":{"b":[1]}}', False),
        (b'{"a":{"b":[{}]}}', True),
        (b"[" + b'{"a":[1]},' * 100 + b"{}]", False),
        (b"[" + b'{"a":[1]},' * 100 + b"{},[[[]]]]", True),
        (b'["' + b"[" * 100 + b'"]', False),
        (b'["\\"' + b"[" * 100 + b'"]', False),
        (b"[" * 60_000, True),
        (b"]" * 60_000, False),
    ],
)
def test_depth_is_of_what_nests_only(raw: bytes, expected: bool) -> None:
    assert fields.deeper(raw, 3) is expected


def test_bodies_and_queries_are_limited_in_depth_length_and_number() -> None:
    api = Harness()
    deep: Any = []
    for _ in range(fields.MAX_BODY_DEPTH):
        deep = [deep]
    assert the_error(api.post({"type": "receipt", "x": deep}))["allowed"].endswith("deep")
    assert api.get("/api/v1/stock?sku=" + "x" * fields.MAX_QUERY_BYTES).status == 400
    assert api.get("/api/v1/stock?" + "&".join(f"a{n}=1" for n in range(40))).status == 400
    assert not api.database.asked


COMMAND = Statement("ship", "SELECT outcome, answer FROM ship(%s, %s, %s, %s)")


class Shipped(msgspec.Struct, frozen=True):
    """An answer."""

    id: int


def execute(api: Harness, *, key: bytes = b"k", path: str = "/x", body: Any = None) -> Reply:
    harness_call: Call[Any, Any] = Call(
        api.services,
        replace(NOBODY, tenant_id=7),
        Nothing(),
        body,
        {b"idempotency-key": key},
        "ship",
        "POST",
        path,
    )
    refusals = {"gone": lambda answer: Problem(409, "gone", (answer or b"").decode())}
    return asyncio.run(commands.execute(harness_call, COMMAND, (3,), Shipped, refusals))


def test_a_command_is_answered_with_its_lsn() -> None:
    api = Harness()
    api.database.row = ("done", '{"id": 5}')
    reply = execute(api)
    assert (reply.content, reply.status) == (Shipped(5), 201)
    assert (reply.headers, reply.commit) == ((), Commit("0/16B3748"))
    ((name, parameters),) = api.database.asked
    assert (name, parameters[:2], parameters[3:]) == ("ship", (7, "k"), (3,))
    api.database.row = ("replayed", '{"id": 5}')
    assert execute(api).repeated


def test_a_command_is_hashed_with_its_path_and_body() -> None:
    api = Harness()
    api.database.row = ("done", '{"id": 5}')
    for path, body in (("/x", 1), ("/x", 1), ("/x", 2), ("/y", 1)):
        execute(api, path=path, body=body)
    first, same, body_changed, path_changed = (asked[1][2] for asked in api.database.asked)
    assert first == same
    assert len({first, body_changed, path_changed}) == 3


def test_a_command_refused_is_a_problem_and_a_surprise_is_a_fault() -> None:
    api = Harness()
    api.database.row = ("gone", "why")
    with pytest.raises(Problem, match="409 gone: why"):
        execute(api)
    api.database.row = ("key_reused", None)
    with pytest.raises(Problem, match="422"):
        execute(api)
    api.database.row = ("in_flight", None)
    with pytest.raises(Problem, match="request-in-flight"):
        execute(api)
    for surprise in (("nonsense", None), ("done", None)):
        api.database.row = surprise
        with pytest.raises(RuntimeError):
            execute(api)


def test_the_description_tells_of_choices_and_conditions() -> None:
    found = openapi.document([OPERATION])
    operation = found["paths"]["/api/v1/things"]["get"]
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert parameters["fields"]["schema"]["items"]["enum"] == ["id", "name"]
    assert (parameters["fields"]["style"], parameters["fields"]["explode"]) == ("form", False)
    assert parameters["include"]["schema"]["items"]["enum"] == ["stock"]
    assert parameters["limit"]["schema"]["maximum"] == 200
    assert "null" not in str(parameters["cursor_after"]["schema"])
    assert {"If-None-Match", "WMS-Min-LSN"} <= set(parameters)
    assert "304" in operation["responses"]
    assert "ETag" in operation["responses"]["200"]["headers"]
    assert "required" not in found["components"]["schemas"]["Sku"]


def test_every_change_wants_a_key_and_every_list_of_a_tenant_may_be_asked_for_again() -> None:
    document = openapi.document(OPERATIONS)
    for operation in OPERATIONS:
        described = document["paths"][operation.path][operation.method.lower()]
        if operation.method == "POST" and not operation.public and "tokens" not in operation.path:
            assert "Idempotency-Key" in operation.header_params, operation.name
        if operation.method == "GET" and not operation.public:
            assert "304" in described["responses"], operation.name


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of many."""

    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=9)]


class Lines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body with a list."""

    lines: list[Line]


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        (b'{"lines":[{"sku":"a","quantity":0}]}', "lines[0].quantity", "an integer from 1 to 9"),
        (b'{"lines":[{"sku":1,"quantity":1}]}', "lines[0].sku", "a string"),
        (b'{"lines":[{"sku":"a","quantity":1,"x":2}]}', "lines[0].x", "sku, quantity"),
        (b'{"lines":{}}', "lines", "array"),
        (b'{"x":{}}', "x", "lines"),
    ],
)
def test_what_is_wrong_within_a_list_is_named_with_what_is_allowed(
    body: bytes, field: str, allowed: str
) -> None:
    with pytest.raises(Problem) as raised:
        fields.body(body, Lines)
    (error,) = raised.value.errors
    assert (error.field.replace("[...]", "[0]"), error.allowed) == (field, allowed)


def test_k3_every_operation_that_changes_a_tenants_data_says_what_that_does_to_the_cache() -> None:
    """And one that does not say is answered by nobody; sessions (tokens) are in no cache."""
    changing = {o.name for o in OPERATIONS if o.method != "GET" and not o.path.startswith("/api/v1/tokens")}
    assert changing == {o.name for o in OPERATIONS if o.changes is not None}
    assert {"postMovement", "confirmPick", "setConfiguration"} < changing
