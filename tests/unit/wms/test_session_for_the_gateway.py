"""What the gateway is told of a credential, and that it looks where the service lets it keep something."""

from __future__ import annotations

import pytest

from stacks import spec
from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import AUTH, RECEIPT, Harness
from tests.unit.wms.test_service_api import answer as moved
from wms.api import session
from wms.api.app import OPERATIONS, routes
from wms.api.envelope import Envelope


def ask(api: Harness, headers: dict[str, str]) -> Response:
    known = routes(session.OPERATIONS, api.services)
    return request(Envelope(known, api.services, api.log), "GET", "/internal/session", headers=headers)


@pytest.mark.parametrize(("heard", "generation"), [(True, "0/16B3748"), (False, "0/0")])
def test_o4_a_change_is_a_new_generation_once_redis_has_nothing_older(heard: bool, generation: str) -> None:
    api = Harness()
    api.services.generations.read()
    api.database.row = ("posted", moved(to_on_hand=12))

    async def apply(*_: object) -> bool:
        assert api.services.generations.of(7) == "0/0", (
            "a new generation before Redis has heard of the change"
        )
        return heard

    api.services.cache.apply = apply  # type: ignore[method-assign,assignment]
    assert api.post(RECEIPT).status == 201
    assert api.services.generations.of(7) == generation


def test_k1_the_gateway_learns_tenant_roles_and_generation() -> None:
    api = Harness()
    api.services.generations.read()
    api.services.generations.rise(7, (7 << 32) + 0xA0)
    api.services.generations.rise(8, (8 << 32) + 0xA0)
    answer = ask(api, AUTH)
    assert (answer.status, answer.body) == (204, b"")
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-wms-")}
    assert told == {"x-wms-tenant": "7", "x-wms-scope": "administrator", "x-wms-generation": "7/A0"}
    # A second Cache-Control with no-store would keep nginx from keeping it.
    assert answer.headers["cache-control"] == "max-age=3, stale-while-revalidate=2, stale-if-error=300"


def test_k1_without_news_of_changes_the_gateway_is_given_no_tenant_to_keep_anything_for() -> None:
    answer = ask(Harness(), AUTH)
    assert answer.status == 204 and answer.headers["cache-control"] == "no-store"
    assert not any(name.startswith("x-wms-") for name in answer.headers)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_k1_the_gateway_is_told_nothing_of_a_stranger(headers: dict[str, str]) -> None:
    answer = ask(Harness(), headers)
    assert answer.status == 401 and answer.headers["cache-control"] == "no-store"
    assert not any(name.startswith("x-wms-") for name in answer.headers)


def test_the_question_is_not_in_the_description() -> None:
    assert not [operation.path for operation in OPERATIONS if operation.path.startswith("/internal")]


@pytest.mark.parametrize("environment", ["local", "staging", "production"])
def test_k1_what_the_service_lets_the_gateway_keep_lies_where_the_gateway_looks(environment: str) -> None:
    looked = spec.load(environment).gateway.cached
    kept = [o for o in OPERATIONS if o.cache and o.cache.surrogate_s and not o.public]
    assert kept and not [o.path for o in kept if o.path.split("/")[3] not in looked]
    # Where it looks for what is never kept, equal requests would wait for each other for nothing.
    asked = [o for o in OPERATIONS if o.method == "GET" and not o.public and o.path.split("/")[3] in looked]
    assert not [o.path for o in asked if not (o.cache and o.cache.surrogate_s)]
    for operation in kept:
        assert operation.cache is not None and 300 <= operation.cache.surrogate_s <= 3600, operation.path
