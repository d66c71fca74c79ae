"""Sample data: ABC classes, barcodes, the command line, the simulated history, and what progress tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from wms.seed import SCALES, Size, generate
from wms.seed.__main__ import DEFAULT, parse
from wms.seed.history import COLUMNS, OPEN_STATES, History, Rows, Site
from wms.seed.progress import Progress

NOW = datetime(2025, 6, 1, tzinfo=UTC)
SIZE = Size(1, 1, 120, 1, orders=240, months=1)


def simulate(size: Size, least: int = 50_000) -> tuple[History, list[Rows]]:
    """A warehouse's history with ids from 1, and its pieces."""
    counters: dict[str, Iterator[int]] = {table: count(1) for table in COLUMNS}
    site = Site(
        "wh001",
        range(1001, 1001 + size.skus),
        range(5001, 5001 + generate.location_count(size)),
        range(1, 21),
    )
    history = History(size, 1, 0, site, NOW, lambda table: next(counters[table]))
    return history, list(history.run(least))


def rows(pieces: list[Rows], table: str) -> list[dict[str, Any]]:
    names = COLUMNS[table].split(", ")
    return [
        dict(zip(names, line.rstrip("\n").split("\t"), strict=True))
        for piece in pieces
        for line in piece.lines[table]
    ]


def test_the_same_seed_gives_the_same_history_in_pieces_of_any_size() -> None:
    one, many = simulate(SIZE)[1], simulate(SIZE, least=100)[1]
    assert len(many) > 3
    for table in COLUMNS:
        assert rows(one, table) == rows(many, table)
    assert rows(one, "orders") != rows(simulate(replace(SIZE, seed=2))[1], "orders")


def test_the_ledger_comes_in_the_order_of_time() -> None:
    moments = [row["created_at"] for row in rows(simulate(SIZE, least=100)[1], "inventory_transactions")]
    assert moments == sorted(moments)


def test_a_piece_is_not_larger_than_asked_for_by_more_than_a_day() -> None:
    day = max(len(piece) for piece in simulate(SIZE, least=1)[1])
    assert max(len(piece) for piece in simulate(SIZE, least=100)[1]) < 100 + day


def test_h2_what_is_left_is_what_the_ledger_adds_up_to_and_never_below_zero() -> None:
    history, pieces = simulate(SIZE)
    running: Counter[tuple[str, str]] = Counter()
    for row in sorted(rows(pieces, "inventory_transactions"), key=lambda row: str(row["created_at"])):
        assert datetime.fromisoformat(row["created_at"]) <= NOW
        if row["to_location_id"] != "\\N":
            running[row["sku_id"], row["to_location_id"]] += int(row["quantity"])
        if row["from_location_id"] != "\\N":
            running[row["sku_id"], row["from_location_id"]] -= int(row["quantity"])
            assert running[row["sku_id"], row["from_location_id"]] >= 0, row
    held = Counter[tuple[str, str]]()
    for row in rows(pieces, "reservations"):
        if row["status"] == "OPEN":
            held[row["sku_id"], row["location_id"]] += int(row["quantity"])
    left = {(str(sku), str(place)): (units, reserved) for sku, place, units, reserved in history.touched()}
    assert {place: units for place, (units, _) in left.items() if units} == {
        k: v for k, v in running.items() if v
    }
    assert {place: units for place, (_, units) in left.items() if units} == dict(held)
    assert all(reserved <= units for units, reserved in left.values())


def test_the_last_orders_are_in_every_state_and_the_rest_is_done() -> None:
    states = [row["status"] for row in rows(simulate(SIZE)[1], "orders")]
    assert len(states) == SIZE.orders
    assert set(states[-len(OPEN_STATES) :]) == set(OPEN_STATES)
    assert set(states[:-20]) <= {"SHIPPED", "CANCELLED"}


def test_few_orders_make_a_history_too() -> None:
    for orders in (1, 5):
        assert len(rows(simulate(replace(SIZE, orders=orders, skus=1))[1], "orders")) == orders


def test_a_fifth_of_the_skus_is_class_a_and_makes_four_fifths_of_the_demand() -> None:
    # Quantiles of the distribution; a sample of it comes near, its heavy tail less so.
    asked = [generate.demand(1, 1, number) for number in range(1, 20_001)]
    classes = Counter(map(generate.abc_class, asked))
    assert classes["A"] / len(asked) == pytest.approx(0.20, abs=0.02)
    assert classes["B"] / len(asked) == pytest.approx(0.30, abs=0.02)
    share = sum(each for each in asked if generate.abc_class(each) == "A") / sum(asked)
    assert 0.65 < share < 0.92


def test_a_sku_has_a_valid_ean_13_of_its_own_and_stays_as_it_is_when_others_come() -> None:
    made = list(generate.skus(replace(SIZE, skus=300), 1))
    assert made[:120] == list(generate.skus(SIZE, 1))
    assert len({sku.barcode for sku in made}) == len(made)
    for sku in made:
        digits = [int(digit) for digit in sku.barcode]
        assert len(digits) == 13
        assert (sum(digits[0::2]) + 3 * sum(digits[1::2])) % 10 == 0
        assert sku.weight_g > 0
        assert sku.image.isascii() and " " not in sku.image
    # Country, tenant, number, and the check digit.
    assert generate.barcode(1, 1).startswith("789001000001")


def test_a_size_of_ones_own_takes_precedence_over_the_scale() -> None:
    assert parse([]) == (DEFAULT, None)
    assert DEFAULT.orders == 0
    assert parse(["--scale", "large"])[0] == SCALES["large"]
    assert parse(["--scale", "small", "--skus", "9", "--keys-out", "-"]) == (
        replace(SCALES["small"], skus=9),
        "-",
    )


@pytest.mark.parametrize(
    "arguments", [["--scale", "huge"], ["--skus", "0"], ["--orders", "-1"], ["--months", "x"]]
)
def test_a_wrong_size_is_refused_with_what_is_allowed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_progress_tells_rate_and_time_left_now_and_then() -> None:
    now, said = [0.0], list[str]()
    progress = Progress(100, lambda: now[0], said.append)
    progress.skip(20)
    for _ in range(4):
        now[0] += 1.0
        progress.add(1000, 400)
        progress.work("wh001", 10)
    assert said == [
        "wh001: 2000 rows, 1000 rows/s, 6 s left",
        "wh001: 4000 rows, 1000 rows/s, 4 s left",
    ]
    progress.end()
    assert said[-1] == "4000 rows in 4.0 s (1000 rows/s), 1600 of them stock transactions (24000 a minute)"


def test_history_begins_when_it_should() -> None:
    times = [datetime.fromisoformat(row["created_at"]) for row in rows(simulate(SIZE)[1], "orders")]
    assert NOW - timedelta(days=30) <= min(times) <= NOW - timedelta(days=28)
    assert max(times) > NOW - timedelta(days=1)
