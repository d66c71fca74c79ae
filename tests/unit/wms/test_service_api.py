"""The API without a database: errors that name field and allowed values, the envelope, the description."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from psycopg import errors

from tests.support.asgi import Response, request
from wms.api.app import OPERATIONS, routes
from wms.api.envelope import Envelope
from wms.api.operation import Services
from wms.log import RequestLog
from wms.metrics import Metrics
from wms.readiness import Check
from wms.settings import load
from wms.store.database import Commit, Database, Row, Rows, Statement, Unavailable
from wms.store.keys import ApiKeys, hash_of

KEY = "wms_key-of-tenant-7"
AUTH = {"Authorization": f"Bearer {KEY}"}
POST = AUTH | {"Content-Type": "application/json", "Idempotency-Key": "k1"}
RECEIPT = {"type": "receipt", "warehouse_id": 1, "sku": "S-1", "to_location": "A-1-1", "quantity": 5}


class FakeDatabase(Database):
    """Answers with what it is given; remembers what was asked."""

    def __init__(self) -> None:
        self.rows: Rows | Exception = []
        self.row: Row | Exception = ("posted", b"")
        self.asked: list[tuple[str, Sequence[object]]] = []

    async def read(
        self,
        statement: Statement,
        parameters: Sequence[object],
        min_lsn: str | None = None,
        primary: bool = False,
    ) -> Rows:
        if statement.name == "principal_of_api_key":
            return [(7, 1, "administrator", "premium")] if parameters[0] == hash_of(KEY) else []
        self.asked.append((statement.name, parameters))
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows

    async def write(
        self, statement: Statement, parameters: Sequence[object], final: Any
    ) -> tuple[Row, Commit]:
        self.asked.append((statement.name, parameters))
        if isinstance(self.row, Exception):
            raise self.row
        return self.row, Commit("0/16B3748")


class Harness:
    """The application over a fake database; its log goes to a pipe."""

    def __init__(self) -> None:
        settings = load(
            {
                "WMS_DB_PASSWORD": "x",
                "WMS_WORKER_PASSWORD": "y",
                "WMS_DB_SSLMODE": "disable",
                "WMS_BODY_TIMEOUT_MS": "100",
            }
        )
        self.database = FakeDatabase()
        self.services = Services(
            settings=settings,
            database=self.database,
            keys=ApiKeys(self.database, 30),
            metrics=Metrics("1", "i", "z"),
            checks={"database_write": Check(True, schema=3), "database_read": Check(True, schema=3)},
        )
        self._reader, writer = os.pipe()
        self.log = RequestLog("all", "i", writer)
        self.app = Envelope(routes(OPERATIONS, self.services), self.services, self.log)

    def get(self, target: str, **headers: str) -> Response:
        return request(self.app, "GET", target, headers=AUTH | headers)

    def post(self, body: object, headers: dict[str, str] | None = None, **options: Any) -> Response:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        options.setdefault("chunks", (raw,))
        return request(
            self.app, "POST", "/api/v1/movements", headers=POST if headers is None else headers, **options
        )

    def lines(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [msgspec.json.decode(line) for line in os.read(self._reader, 65536).splitlines()]


@pytest.fixture
def api() -> Harness:
    return Harness()


def the_error(response: Response, status: int = 400) -> dict[str, Any]:
    assert response.status == status, response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["status"] == status
    assert response.json["request_id"] == response.headers["x-request-id"]
    (error,) = response.json["errors"]
    return dict(error)


@pytest.mark.parametrize(
    ("target", "field", "allowed"),
    [
        ("/api/v1/stock?sku=S-1", "warehouse_id", "an integer from 1 to"),
        ("/api/v1/stock?warehouse_id=x&sku=S-1", "warehouse_id", "an integer from 1 to"),
        ("/api/v1/stock?warehouse_id=0&sku=S-1", "warehouse_id", "an integer from 1 to"),
        ("/api/v1/stock?warehouse_id=1&sku=", "sku", "a string of 1 to 64 characters matching"),
        ("/api/v1/stock?warehouse_id=1&sku=S%00", "sku", "matching"),
        ("/api/v1/stock?warehouse_id=1&sku=S&tenant_id=2", "tenant_id", "warehouse_id, sku"),
        ("/api/v1/stock?warehouse_id=1&warehouse_id=2&sku=S", "warehouse_id", "once"),
        ("/api/v1/stock/S-1?colour=red", "colour", "none"),
        ("/api/v1/stock/S-1?sku=S-2", "sku", "none"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(
    api: Harness, target: str, field: str, allowed: str
) -> None:
    error = the_error(api.get(target))
    assert error["field"] == field
    assert allowed in error["allowed"]
    assert not api.database.asked


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"type": "gift"}, "type", "one of receipt, issue, adjustment, transfer"),
        ({"quantity": 0}, "quantity", "an integer from 1 to 1000000"),
        ({"quantity": 1.5}, "quantity", "an integer from 1 to 1000000"),
        ({"quantity": 10**30}, "quantity", "an integer from 1 to 1000000"),
        ({"sku": "a/b"}, "sku", "matching"),
        ({"reference": "x\ny"}, "reference", "or null"),
        ({"tenant_id": 2}, "tenant_id", "warehouse_id, sku, to_location, quantity, reference"),
        (
            {"type": "transfer", "from_location": "A-1-1"},
            "to_location",
            "a location other than from_location",
        ),
    ],
)
def test_a_wrong_body_field_is_named_with_what_is_allowed(
    api: Harness, changes: dict[str, object], field: str, allowed: str
) -> None:
    error = the_error(api.post(RECEIPT | changes))
    assert (error["field"], error["in"]) == (field, "body")
    assert allowed in error["allowed"]
    assert not api.database.asked


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 60_000, b'{"type":' * 8000])
def test_what_is_not_json_is_malformed(api: Harness, body: bytes) -> None:
    assert the_error(api.post(body))["field"] == "(whole)"


@pytest.mark.parametrize("key", [None, "", "a b", "é", "x" * 129])
def test_a_movement_needs_an_idempotency_key(api: Harness, key: str | None) -> None:
    headers = {name: value for name, value in POST.items() if name != "Idempotency-Key"}
    if key is not None:
        headers["Idempotency-Key"] = key
    error = the_error(api.post(RECEIPT, headers))
    assert (error["field"], error["in"]) == ("Idempotency-Key", "header")
    assert not api.database.asked


def test_bodies_are_limited_in_size_time_and_type(api: Harness) -> None:
    limit = api.services.settings.max_body_bytes
    assert api.post(b" " * (limit + 1)).status == 413
    assert api.post(b"", chunks=(b" " * limit, b" ")).status == 413
    assert api.post(b"", POST | {"Content-Length": str(limit + 1)}).status == 413
    assert api.post(b"", POST | {"Content-Length": "9" * 400}).status == 413
    assert api.post(b"", chunks=(b"{",), hang=True).status == 408
    assert api.post(RECEIPT, POST | {"Content-Type": "text/plain"}).status == 415
    assert not api.database.asked


@pytest.mark.parametrize(
    "credential", [None, "", "Basic eDp5", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + "x" * 300]
)
def test_without_a_valid_key_there_is_no_tenant(api: Harness, credential: str | None) -> None:
    headers = {"X-Tenant-Id": "7"} | ({} if credential is None else {"Authorization": credential})
    for method, target in (("GET", "/api/v1/stock/S-1"), ("POST", "/api/v1/movements")):
        response = request(api.app, method, target, headers=headers)
        assert response.status == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert not api.database.asked


def test_the_tenant_comes_from_the_credential_only(api: Harness) -> None:
    api.get("/api/v1/stock?warehouse_id=1&sku=S-1", **{"X-Tenant-Id": "8"})
    assert api.database.asked == [("stock_lookup", (7, 1, "S-1"))]


def answer(**values: object) -> bytes:
    full = {
        "id": 9,
        "posted_at": "2025-01-02T03:04:05-03:00",
        "from_on_hand": None,
        "to_on_hand": None,
    } | values
    return msgspec.json.encode(full)


def test_a_posted_movement_tells_balances_and_lsn(api: Harness) -> None:
    api.database.row = ("posted", answer(to_on_hand=12))
    response = api.post(RECEIPT)
    assert response.status == 201
    assert response.json["balances"] == [{"location": "A-1-1", "on_hand": 12}]
    assert response.json["posted_at"] == "2025-01-02T06:04:05Z"
    assert response.headers["wms-commit-lsn"] == "0/16B3748"
    assert "idempotency-replayed" not in response.headers
    assert response.headers["cache-control"] == "no-store"


def test_the_request_hash_ignores_form_and_notices_content(api: Harness) -> None:
    api.database.row = ("replayed", answer(to_on_hand=12))
    assert api.post(RECEIPT).headers["idempotency-replayed"] == "true"
    api.post(msgspec.json.format(msgspec.json.encode(dict(reversed(RECEIPT.items()))), indent=4))
    api.post(RECEIPT | {"quantity": 6})
    first, same, other = (parameters[2] for _, parameters in api.database.asked)
    assert first == same != other


@pytest.mark.parametrize(
    ("row", "status", "kind"),
    [
        (("insufficient", b'{"on_hand": 2}'), 409, "insufficient-stock"),
        (("blocked", None), 409, "balance-blocked"),
        (("in_flight", None), 409, "request-in-flight"),
        (("key_reused", None), 422, "unprocessable"),
        (("unknown_warehouse", None), 422, "unprocessable"),
        (("unknown_sku", None), 422, "unprocessable"),
        (("unknown_to", None), 422, "unprocessable"),
        (Unavailable("the database did not answer in time", 1), 503, "unavailable"),
        (errors.CheckViolation("secret detail"), 500, "internal-error"),
    ],
)
def test_refusals_are_problems(api: Harness, row: Row | Exception, status: int, kind: str) -> None:
    api.database.row = row
    response = api.post(RECEIPT)
    assert response.status == status
    assert response.json["type"] == f"urn:wms:problem:{kind}"
    assert b"secret detail" not in response.body
    assert ("retry-after" in response.headers) == (status == 503 or kind == "request-in-flight")


def test_an_adjustment_names_its_own_field(api: Harness) -> None:
    body = {
        "type": "adjustment",
        "warehouse_id": 1,
        "sku": "S",
        "location": "Z",
        "change": -1,
        "reference": "x",
    }
    api.database.row = ("unknown_from", None)
    assert the_error(api.post(body), 422)["field"] == "location"


def test_an_unknown_sku_is_not_found_and_an_empty_list_is_an_answer(api: Harness) -> None:
    assert api.get("/api/v1/stock/S-1").status == 404
    assert api.get("/api/v1/stock?warehouse_id=1&sku=S-1").json == {"data": []}


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/api/v1", "/api/v1/stock/", "/api/v1/stock/a/b", "/api/v1/movements/1"]
)
def test_unknown_paths_are_problems(api: Harness, path: str) -> None:
    response = api.get(path)
    assert response.status == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_wrong_method_tells_the_right_one(api: Harness) -> None:
    for method, target, allowed in (("DELETE", "/api/v1/stock", "GET"), ("GET", "/api/v1/tokens", "POST")):
        response = request(api.app, method, target, headers=AUTH)
        assert response.status == 405
        assert allowed in response.headers["allow"]


def test_the_request_id_is_kept_when_harmless_and_made_otherwise(api: Harness) -> None:
    assert api.get("/health/live", **{"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert api.get("/health/live", **{"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
    assert len(api.get("/health/live").headers["x-request-id"]) == 16


def test_the_log_has_the_route_and_no_secret(api: Harness) -> None:
    api.get("/api/v1/stock/S-1?token=hush", **{"X-Request-Id": "r1"})
    (line,) = api.lines()
    assert line["route"] == "/api/v1/stock/{sku}"
    assert (line["path"], line["status"], line["tenant_id"], line["request_id"]) == (
        "/api/v1/stock/S-1",
        400,
        7,
        "r1",
    )
    assert "hush" not in str(line)
    assert KEY not in str(line)


def test_metrics_have_templates_and_the_objectives_boundaries(api: Harness) -> None:
    api.get("/api/v1/stock/S-1")
    api.get("/nope/" + "x" * 50)
    api.database.row = ("posted", answer(to_on_hand=12))
    api.post(RECEIPT)
    text = api.get("/metrics").body.decode()
    for boundary in ("0.1", "0.3", "0.5", "1.0"):
        labels = f'le="{boundary}",method="GET",route="/api/v1/stock/{{sku}}",status="404"'
        assert f"wms_http_request_duration_seconds_bucket{{{labels}}} 1.0" in text
    assert 'wms_http_request_duration_seconds_count{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'wms_stock_movements_total{kind="receipt",outcome="posted"} 1.0' in text
    assert 'wms_database_errors_total{pool="read",reason="connection"} 0.0' in text
    assert "xxxx" not in text


def test_draining_is_not_ready_and_closes_connections(api: Harness) -> None:
    assert api.get("/health/ready").json["status"] == "ready"
    api.services.checks["database_write"] = Check(False, "gone")
    degraded = api.get("/health/ready")
    assert (degraded.status, degraded.json["status"]) == (200, "degraded")
    assert "connection" not in degraded.headers
    api.services.draining = True
    drained = api.get("/health/ready")
    assert (drained.status, drained.json["status"], drained.headers["connection"]) == (
        503,
        "draining",
        "close",
    )
    assert api.get("/health/live").status == 200


def test_every_route_is_described_and_every_description_routed(api: Harness) -> None:
    document = api.get("/api/v1/openapi.json").json
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    names = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(names) == len(set(names))
    for path, item in document["paths"].items():
        for method, operation in item.items():
            # Routed: anything but an unknown path or a wrong method.
            assert request(api.app, method.upper(), path.replace("{sku}", "S-1")).status not in (404, 405)
            assert operation["summary"]
            assert {"400", "500"} <= set(operation["responses"])
            public = operation["security"] == []
            # A refresh token is a credential, but not one for other operations.
            assert public == ("401" not in operation["responses"]) or path == "/api/v1/tokens/refresh"
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")


def test_every_reference_of_the_description_resolves(api: Harness) -> None:
    document = api.get("/api/v1/openapi.json").json
    schemas = document["components"]["schemas"]
    seen = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                prefix, _, name = value["$ref"].rpartition("/")
                assert prefix == "#/components/schemas"
                assert name in schemas
                seen.add(name)
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)

    walk(document)
    assert seen == set(schemas), "described but never used"


def test_movements_are_described_as_a_union_by_type(api: Harness) -> None:
    document = api.get("/api/v1/openapi.json").json
    operation = document["paths"]["/api/v1/movements"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["discriminator"]["mapping"]) == {"receipt", "issue", "adjustment", "transfer"}
    (header,) = operation["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", True)


def patterns(value: Any) -> Iterator[str]:
    """Every pattern in a description, wherever it is; but headers have no lines."""
    if isinstance(value, dict) and value.get("in") != "header":
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        for name, part in value.items():
            if name != "headers":
                yield from patterns(part)
    elif isinstance(value, list):
        for part in value:
            yield from patterns(part)


def test_no_rule_lets_a_last_line_feed_through(api: Harness) -> None:
    """A code with one would be another code that looks the same."""
    found = set(patterns(api.get("/api/v1/openapi.json").json))
    assert len(found) > 5
    assert [pattern for pattern in found if not pattern.endswith(r"$(?!\n)")] == []
    assert the_error(api.post(RECEIPT | {"sku": "S-1\n"}))["field"] == "sku"
    assert the_error(api.post(RECEIPT | {"reference": "a\n"}))["field"] == "reference"
    assert not api.database.asked
