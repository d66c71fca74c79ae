"""The rules of balances and receipts, what the API makes of refusals, and migrations outside a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.asgi import request
from tests.unit.wms.test_service_api import AUTH, Harness
from wms.domain.inventory import Balance, Insufficient, utilisation
from wms.domain.receipts import MAX_LINES, RECEIPT, received
from wms.domain.states import IllegalMove
from wms.migrations import files
from wms.migrations.files import Migration, MigrationError, Statement, index_of, statements

POST = AUTH | {"Content-Type": "application/json", "Idempotency-Key": "k1"}
DOCUMENT = {
    "id": 3,
    "warehouse_id": 1,
    "receipt_number": "R-1",
    "supplier": "Ferragens Sul",
    "status": "RECEIVING",
    "created_at": "2026-01-02T03:04:05.000000Z",
    "updated_at": "2026-01-02T03:04:05.000000Z",
    "lines": [{"line_number": 1, "sku": "S-1", "expected": 5, "received": 2}],
}
LINE = {"line_number": 1, "location": "A-1-1", "quantity": 2}


@pytest.fixture
def api() -> Harness:
    return Harness()


def post(api: Harness, target: str, body: object) -> Any:
    return request(api.app, "POST", target, headers=POST, chunks=(msgspec.json.encode(body),))


# Balances


def test_h2_only_free_units_leave_or_are_reserved() -> None:
    balance = Balance(10, 7)
    assert balance.free == 3
    assert balance.take(3) == Balance(7, 7)
    refusals: tuple[Callable[[int], Balance], ...] = (balance.take, balance.reserve)
    for refused in refusals:
        with pytest.raises(Insufficient) as caught:
            refused(4)
        assert (caught.value.free, caught.value.wanted) == (3, 4)


def test_h2_a_pick_takes_what_was_promised_to_it() -> None:
    assert Balance(10, 7).take(5, release=5) == Balance(5, 2)
    # Short: the rest of the promise ends, the units stay.
    assert Balance(10, 10).take(1, release=3) == Balance(9, 7)
    assert Balance(10, 10).take(3, release=3) == Balance(7, 7)
    with pytest.raises(Insufficient):
        Balance(10, 10).take(4, release=3)


@pytest.mark.parametrize(("on_hand", "reserved"), [(-1, 0), (1, 2), (1, -1)])
def test_h2_no_balance_is_below_zero_or_promised_twice(on_hand: int, reserved: int) -> None:
    with pytest.raises(ValueError, match="0 <= reserved <= on hand"):
        Balance(on_hand, reserved)


def test_h2_a_promise_ends_once() -> None:
    with pytest.raises(ValueError, match="reserved -1"):
        Balance(5, 2).release(3)
    with pytest.raises(ValueError, match="reserved -1"):
        Balance(5, 2).take(0, release=3)


UNITS = st.integers(1, 9)


class Shelf(RuleBasedStateMachine):
    """A balance beside a ledger of what came and went, and a list of what was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = Balance()
        self.ledger = 0
        self.promised: list[int] = []

    @rule(units=UNITS)
    def put(self, units: int) -> None:
        self.balance, self.ledger = self.balance.put(units), self.ledger + units

    @rule(units=UNITS)
    def take(self, units: int) -> None:
        if units > self.ledger - sum(self.promised):
            with pytest.raises(Insufficient):
                self.balance.take(units)
        else:
            self.balance, self.ledger = self.balance.take(units), self.ledger - units

    @rule(units=UNITS)
    def reserve(self, units: int) -> None:
        if units > self.ledger - sum(self.promised):
            with pytest.raises(Insufficient):
                self.balance.reserve(units)
        else:
            self.balance = self.balance.reserve(units)
            self.promised.append(units)

    @precondition(lambda self: self.promised)
    @rule(short=st.integers(0, 9))
    def pick(self, short: int) -> None:
        promised = self.promised.pop()
        units = max(0, promised - short)
        self.balance, self.ledger = self.balance.take(units, release=promised), self.ledger - units

    @invariant()
    def nothing_is_lost_or_promised_twice(self) -> None:
        assert self.balance == Balance(self.ledger, sum(self.promised))


TestH2NoSequenceOfMovesBreaksABalance = Shelf.TestCase
TestH2NoSequenceOfMovesBreaksABalance.settings = settings(max_examples=60, deadline=None)


def test_m4_utilisation_is_of_what_was_measured() -> None:
    assert utilisation(300, 100) == 0.3333
    assert utilisation(100, 150) == 1.5
    assert utilisation(None, 10) is None


# Receipts


def test_h2_a_receipt_with_units_in_stock_is_closed_and_not_cancelled() -> None:
    state = "EXPECTED"
    for action in ("receive", "receive", "close"):
        state = RECEIPT.after(state, action)
    assert state == "RECEIVED"
    assert RECEIPT.after("EXPECTED", "cancel") == "CANCELLED"
    for state, action in (("RECEIVING", "cancel"), ("EXPECTED", "close"), ("RECEIVED", "receive")):
        with pytest.raises(IllegalMove):
            RECEIPT.after(state, action)


def test_d2_a_delivery_is_summed_by_line() -> None:
    assert received({1: 0, 2: 5}, [(1, 2), (2, 1), (1, 3)]) == {1: 5, 2: 6}
    with pytest.raises(KeyError):
        received({1: 0}, [(2, 1)])


def test_d2_a_delivery_is_one_statement_however_many_lines(api: Harness) -> None:
    api.database.row = ("done", msgspec.json.encode(DOCUMENT).decode())
    lines = [LINE | {"line_number": number} for number in range(1, MAX_LINES + 1)]
    response = post(api, "/api/v1/receipts/3/lines", {"warehouse_id": 1, "lines": lines})
    assert response.status == 200, response.body
    assert response.json["lines"] == DOCUMENT["lines"]
    assert response.headers["wms-commit-lsn"]
    ((name, parameters),) = api.database.asked
    assert name == "receive_lines"
    assert msgspec.json.decode(str(parameters[5])) == lines


@pytest.mark.parametrize(
    ("action", "row", "status", "kind", "text"),
    [
        ("lines", ("unknown_receipt", None), 404, "unknown-receipt", "no receipt 3 in warehouse 1"),
        (
            "lines",
            ("illegal_move", '{"state": "RECEIVED"}'),
            409,
            "illegal-move",
            "allowed in RECEIVED: nothing",
        ),
        (
            "close",
            ("illegal_move", '{"state": "EXPECTED"}'),
            409,
            "illegal-move",
            "EXPECTED: receive, cancel",
        ),
        ("cancel", ("illegal_move", '{"state": "RECEIVING"}'), 409, "illegal-move", "needs EXPECTED"),
        ("lines", ("blocked", '{"balances": ["S-1 at A-1-1"]}'), 409, "balance-blocked", "S-1 at A-1-1"),
        ("lines", ("unknown_line", '{"line_numbers": [7, 9]}'), 422, "unprocessable", "no such line: 7, 9"),
        ("lines", ("unknown_location", '{"locations": ["Z"]}'), 422, "unprocessable", "no such location: Z"),
        ("cancel", ("in_flight", None), 409, "request-in-flight", "ask again"),
    ],
)
def test_a_refusals_of_receipts_say_what_and_what_next(
    api: Harness, action: str, row: tuple[str, str | None], status: int, kind: str, text: str
) -> None:
    api.database.row = row
    body: dict[str, Any] = {"warehouse_id": 1} | ({"lines": [LINE]} if action == "lines" else {})
    response = post(api, f"/api/v1/receipts/3/{action}", body)
    assert (response.status, response.json["type"]) == (status, f"urn:wms:problem:{kind}")
    assert text in response.json["detail"]


def test_a_refusals_of_a_new_receipt_name_the_field(api: Harness) -> None:
    body = {
        "warehouse_id": 1,
        "receipt_number": "R-1",
        "supplier": "Sul",
        "lines": [{"sku": "S-1", "expected": 1}],
    }
    for row, status, text in (
        (
            ("unknown_sku", msgspec.json.encode({"skus": [f"S-{n}" for n in range(12)]}).decode()),
            422,
            "and 2 more",
        ),
        (("unknown_warehouse", None), 422, "warehouse"),
        (("number_taken", None), 409, "R-1"),
    ):
        api.database.row = row
        response = post(api, "/api/v1/receipts", body)
        assert (response.status, text in response.json["detail"]) == (status, True), response.body


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [LINE, LINE],
        [LINE | {"quantity": 0}],
        [LINE | {"line_number": MAX_LINES + 1}],
        [LINE | {"line_number": number % MAX_LINES + 1} for number in range(MAX_LINES + 1)],
    ],
)
def test_a_wrong_deliveries_never_reach_the_database(api: Harness, lines: list[Any]) -> None:
    response = post(api, "/api/v1/receipts/3/lines", {"warehouse_id": 1, "lines": lines})
    assert (response.status, response.json["errors"][0]["in"]) == (400, "body")
    assert not api.database.asked


def test_a1_lists_ask_for_one_row_more_than_the_page(api: Harness) -> None:
    for target, name, parameters in (
        ("/api/v1/skus?q=v%C3%A1lvula&abc_class=A&limit=10", "skus_page", (7, "válvula", "A", None, 11)),
        # The first page is cut out of the cached one, which is as long as a page can be.
        ("/api/v1/warehouses", "warehouses_page", (7, None, 201)),
        ("/api/v1/locations?warehouse_id=2", "locations_page", (7, 2, None, 51)),
        ("/api/v1/movements?warehouse_id=2&sku=S", "movements_page", (7, 2, "S", None, 51)),
        ("/api/v1/receipts?warehouse_id=2&status=RECEIVED", "receipts_page", (7, 2, "RECEIVED", None, 51)),
    ):
        response = api.get(target)
        assert response.json["data"] == []
        assert api.database.asked[-1] == (name, parameters)


@pytest.mark.parametrize(
    "target", ["/api/v1/skus/NONE", "/api/v1/warehouses/9/capacity", "/api/v1/receipts/9?warehouse_id=1"]
)
def test_what_is_not_there_is_not_found(api: Harness, target: str) -> None:
    response = api.get(target)
    assert (response.status, response.json["type"].startswith("urn:wms:problem:unknown-")) == (404, True)


# Migrations outside a transaction


def outside(text: str) -> Migration:
    return Migration(1, "m", f"{files.OUTSIDE}\n{text}", "")


def test_a_file_says_in_its_first_line_that_it_runs_outside_a_transaction() -> None:
    assert outside("SELECT 1;").outside
    assert not Migration(1, "m", f"SELECT 1;\n{files.OUTSIDE}\n", "").outside


def test_statements_end_with_a_semicolon_at_the_end_of_a_line() -> None:
    found = statements(
        outside("-- Why; because.\nSELECT ';', 1\n  FROM t; \n\n-- migrate: each\nSELECT 'x';\n-- end\n")
    )
    assert found == (Statement("SELECT ';', 1\n  FROM t"), Statement("SELECT 'x'", each=True))
    with pytest.raises(MigrationError, match=r"0001_m\.sql: the last statement has no semicolon"):
        statements(outside("SELECT 1"))


@pytest.mark.parametrize("form", ["IF NOT EXISTS i ON t", "ON t"])
def test_a_concurrent_build_that_could_not_be_repeated_is_refused(form: str) -> None:
    with pytest.raises(MigrationError, match="needs a name, and no IF NOT EXISTS"):
        statements(outside(f"CREATE INDEX CONCURRENTLY {form} (a);"))


def test_the_name_of_an_index_is_read_from_its_statement() -> None:
    assert index_of("CREATE UNIQUE INDEX\n CONCURRENTLY a_b ON t (c)") == "a_b"
    assert index_of("CREATE INDEX a ON t (c)") is None


def test_every_file_outside_a_transaction_can_be_taken_apart() -> None:
    found = [migration for migration in files.read() if migration.outside]
    assert any("to_tsvector('portuguese', name)" in migration.sql for migration in found)
    assert all(statements(migration) for migration in found)
