"""Which endpoint a request is for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from wms.api import session
from wms.api.app import OPERATIONS
from wms.api.routing import NoRoute, Routes


@dataclass(frozen=True)
class Place:
    """An endpoint that only says where it is."""

    method: str
    path: str


PLACES = [
    Place("GET", "/metrics"),
    Place("GET", "/api/v1/orders"),
    Place("POST", "/api/v1/orders"),
    Place("GET", "/api/v1/orders/{order_id}"),
    Place("POST", "/api/v1/orders/{order_id}/cancel"),
    Place("POST", "/api/v1/orders/{order_id}/allocate"),
    Place("POST", "/api/v1/picks/confirm"),
    Place("GET", "/api/v1/picks/{task_id}"),
    Place("PUT", "/api/v1/picks/{task_id}"),
]
ROUTES = Routes(PLACES)


@pytest.mark.parametrize(
    ("method", "path", "expected", "params"),
    [
        ("GET", "/metrics", "/metrics", {}),
        ("POST", "/api/v1/orders", "/api/v1/orders", {}),
        ("GET", "/api/v1/orders/7", "/api/v1/orders/{order_id}", {"order_id": "7"}),
        ("POST", "/api/v1/orders/7/cancel", "/api/v1/orders/{order_id}/cancel", {"order_id": "7"}),
        ("POST", "/api/v1/orders/a b/allocate", "/api/v1/orders/{order_id}/allocate", {"order_id": "a b"}),
        # What is written out goes before a parameter.
        ("POST", "/api/v1/picks/confirm", "/api/v1/picks/confirm", {}),
        ("PUT", "/api/v1/picks/8", "/api/v1/picks/{task_id}", {"task_id": "8"}),
    ],
)
def test_a_request_finds_its_endpoint(method: str, path: str, expected: str, params: dict[str, str]) -> None:
    found, told = ROUTES.find(method, path)
    assert (found.method, found.path, dict(told)) == (method, expected, params)


def test_head_is_answered_by_get() -> None:
    assert ROUTES.find("HEAD", "/api/v1/orders/7")[0] == Place("GET", "/api/v1/orders/{order_id}")


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "metrics", "/metrics/", "/api/v1", "/api/v1/orders/", "/api/v1/orders/7/", "/api/v1/orders//cancel",
        "/api/v1/orders/7/cancel/x", "/api/v1/other/7", "/API/v1/orders", "/x/api/v1/orders/7",
    ],
)  # fmt: skip
def test_any_other_path_is_not_found(path: str) -> None:
    with pytest.raises(NoRoute) as missing:
        ROUTES.find("GET", path)
    assert missing.value.status == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/v1/orders", "GET, HEAD, POST"),
        ("/api/v1/picks/8", "GET, HEAD, PUT"),
        ("/api/v1/picks/confirm", "POST"),
    ],
)
def test_another_method_is_told_the_right_ones(path: str, allowed: str) -> None:
    with pytest.raises(NoRoute) as missing:
        ROUTES.find("DELETE", path)
    assert (missing.value.status, missing.value.headers) == (405, {"Allow": allowed})


def test_a_parameter_where_none_would_be_found_is_refused() -> None:
    with pytest.raises(ValueError, match="first 4 segments"):
        Routes([Place("GET", "/health/{name}")])


def test_every_operation_is_found_by_its_own_path_and_no_other_answers_it() -> None:
    known = (*OPERATIONS, *session.OPERATIONS)
    routes = Routes(known)
    for operation in known:
        found, params = routes.find(operation.method, operation.path.replace("{", "").replace("}", ""))
        assert found is operation
        assert all(f"{{{name}}}" in operation.path and value == name for name, value in params.items())
