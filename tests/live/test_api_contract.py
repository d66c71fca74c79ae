"""What the service answers is what its description says, for requests that follow the description and for some that do
not: no fault of the service, no status, header, content type or shape that is not described.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.postgres import Database, database
from tests.support.service import Service, module, service
from wms.api.app import OPERATIONS
from wms.seed import TenantKey, read_keys

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
DATABASE_ADDRESS = "127.43.20.3"
SERVICE_ADDRESS = "127.43.20.4"
EXAMPLES = 12
"""Requests for each operation and mode; fixed by `derandomize`, so that a run is the same as the last one."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SIGNS_OUT = {"signOut"}
"""Would make the following requests meaningless."""
NUMBERS = count(1)


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(DATABASE_ADDRESS) as made:
        module(made, "wms.migrations", "up")
        yield made


@pytest.fixture(scope="module")
def key(db: Database, tmp_path_factory: pytest.TempPathFactory) -> TenantKey:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    with db.connect("wms_owner") as owner:
        # No number that somebody thinks of: a key may be revoked, and this one is needed to the end.
        owner.execute("ALTER TABLE api_keys ALTER api_key_id RESTART WITH 730000001")
    module(db, "wms.seed", "--skus", "20", "--warehouses", "1", "--keys-out", str(path))
    return next(iter(read_keys(path)))


@pytest.fixture(scope="module")
def wms(db: Database, key: TenantKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(
        db,
        tmp_path_factory.mktemp("service"),
        SERVICE_ADDRESS,
        WMS_JWT_KEYS="a:" + "s" * 32,
        WMS_RATE_SIGN_IN="0",
    ) as made:
        yield made


@pytest.fixture(scope="module")
def known(wms: Service, key: TenantKey) -> dict[str, Any]:
    """Values that name something: made-up ones almost never do, and would try the refusals only."""
    warehouse = key.warehouses[0]
    sku = ask(wms, key, "GET", "/api/v1/skus?limit=1")["data"][0]["sku"]
    customer = ask(wms, key, "GET", "/api/v1/customers?limit=1")["data"][0]["code"]
    here = {"warehouse_id": warehouse}
    move = {"type": "receipt", "sku": sku, "to_location": "A-1-1", "quantity": 500}
    ask(wms, key, "POST", "/api/v1/movements", here | move)
    lines = [{"sku": sku, "expected": 5}]
    receipt = ask(
        wms,
        key,
        "POST",
        "/api/v1/receipts",
        here | {"receipt_number": "R", "supplier": "Sol", "lines": lines},
    )
    wanted = {"customer": customer, "lines": [{"sku": sku, "quantity": 3, "unit_price": "2.50"}]}
    orders = [
        ask(wms, key, "POST", "/api/v1/orders", here | wanted | {"order_number": f"O-{n}"}) for n in (1, 2)
    ]
    ask(wms, key, "POST", f"/api/v1/orders/{orders[0]['id']}/allocate", here)
    wave = ask(wms, key, "POST", "/api/v1/waves", here | {"order_ids": [orders[0]["id"]]})
    task = ask(wms, key, "GET", f"/api/v1/picks?warehouse_id={warehouse}")["data"][0]
    spare = ask(wms, key, "POST", "/api/v1/api-keys", {"name": "spare", "role": "viewer"})
    return here | {
        "sku": sku, "location": "A-1-1", "from_location": "A-1-1", "to_location": "A-1-2", "customer": customer,
        "order_id": orders[1]["id"], "receipt_id": receipt["id"], "wave_id": wave["id"], "task_id": task["id"],
        "user_id": 1, "api_key_id": spare["api_key_id"], "cursor_after": None, "line_number": 1,
    }  # fmt: skip


def ask(wms: Service, key: TenantKey, method: str, target: str, body: Any = None) -> Any:
    """The JSON of an answer that must be a success."""
    headers = {} if body is None else {"Idempotency-Key": f"known-{next(NUMBERS)}"}
    response = wms.request(method, target, key.api_key, headers=headers, json=body)
    assert response.status in (200, 201), (target, response.data)
    return response.json()


@pytest.fixture(scope="module")
def description(wms: Service) -> Any:
    """The description as schemathesis reads it."""
    document = wms.request("GET", "/api/v1/openapi.json").json()
    return schemathesis.openapi.from_dict(document)


def settle(value: Any, known: dict[str, Any]) -> Any:
    """`value` with what is known in its place, at any depth; what is known as None is left out."""
    if isinstance(value, dict):
        return {
            name: known[name]
            if name in known and not isinstance(child, dict | list)
            else settle(child, known)
            for name, child in value.items()
            if known.get(name, child) is not None or child is None
        }
    if isinstance(value, list):
        return [settle(child, known) for child in value]
    return value


def whole(value: Any) -> Any:
    """`value` with 5 for 5.0: JSON Schema calls both an integer, the service takes the first only."""
    if isinstance(value, dict):
        return {name: whole(child) for name, child in value.items()}
    if isinstance(value, list):
        return [whole(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value
)
@pytest.mark.parametrize("name", [o.name for o in OPERATIONS if o.name not in SIGNS_OUT])
def test_a1_every_answer_is_described(
    wms: Service, key: TenantKey, known: dict[str, Any], description: Any, name: str, mode: GenerationMode
) -> None:
    operation = description.find_operation_by_id(name)
    if mode is GenerationMode.NEGATIVE and not (operation.definition.raw.get("parameters") or operation.body):
        # Nothing to get wrong.
        assert not operation.definition.raw.get("requestBody")
        return
    seen: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers(case: Any, real: bool) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body = whole(case.body)
        if real and mode is GenerationMode.POSITIVE:
            case.path_parameters = settle(case.path_parameters, known)
            case.query = settle(case.query, known)
            case.body = settle(case.body, known)
        response = case.call(base_url=wms.url, headers={"Authorization": f"Bearer {key.api_key}"}, timeout=10)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    answers()
    assert seen, "nothing was sent"
    assert wms.process.poll() is None, wms.log.read_text()[-3000:]
