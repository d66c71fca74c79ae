"""Orders, picking and shipments without a database: what is legal, what is set aside, how it is walked."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest

from wms.domain.orders import MAX_TOTAL_VALUE, ORDER, InsufficientStock, Want, plan, total_value
from wms.domain.picking import TASK, Settled, Stop, TooMany, settle, walk
from wms.domain.shipments import SHIPMENT
from wms.domain.states import IllegalMove, Machine

MACHINES = (ORDER, TASK, SHIPMENT)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: str(machine.noun))
def test_every_move_leads_to_a_state_and_every_state_is_reached(machine: Machine) -> None:
    targets = {target for moves in machine.moves.values() for target in moves.values()}
    assert targets <= set(machine.moves)
    first = next(iter(machine.moves))
    # SHORT is a PICKED with fewer units.
    assert set(machine.moves) - targets - {"SHORT"} == {first}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: str(machine.noun))
def test_a_move_is_made_where_the_table_has_it_and_refused_with_words_elsewhere(machine: Machine) -> None:
    for state, moves in machine.moves.items():
        for action in machine.actions:
            if action in moves:
                assert machine.after(state, action) == moves[action]
                continue
            with pytest.raises(IllegalMove) as caught:
                machine.after(state, action)
            assert caught.value.state == state
            text = str(caught.value)
            assert text.startswith(f"{machine.noun} is {state}: {action} needs ")
            assert text.endswith(", ".join(moves) or "nothing")


def test_an_unknown_state_is_an_error_not_a_refusal() -> None:
    with pytest.raises(KeyError):
        ORDER.after("LOST", "cancel")


def test_a_refusal_names_the_thing_the_state_and_what_is_allowed() -> None:
    assert ORDER.refusal("SHIPPED", "cancel", 7) == (
        "order 7 is SHIPPED: cancel needs NEW or ALLOCATED or PICKING or PICKED; allowed in SHIPPED: nothing"
    )


def test_an_order_is_worth_the_exact_sum_of_its_lines() -> None:
    assert str(total_value([(3, Decimal("0.10")), (1, Decimal("2.5"))])) == "2.80"
    assert str(total_value([])) == "0.00"
    assert total_value([(1, MAX_TOTAL_VALUE)]) == MAX_TOTAL_VALUE
    with pytest.raises(ValueError, match="allowed: up to"):
        total_value([(1, MAX_TOTAL_VALUE), (1, Decimal("0.01"))])


# Allocation


def taken(wants: list[Want], free: dict[tuple[int, int], int]) -> list[tuple[int, int, int]]:
    """(line, location, units) of the plan."""
    return [(x.line_number, x.location_id, x.quantity) for x in plan(wants, free)]


@pytest.mark.parametrize(
    ("free", "quantity", "expected"),
    [
        ({1: 9, 2: 5, 3: 7}, 5, [(1, 2, 5)]),  # the smallest that suffices, whole
        ({1: 9, 2: 5, 3: 7}, 6, [(1, 3, 6)]),
        ({1: 5, 2: 5}, 5, [(1, 1, 5)]),  # at equal size the lowest location
        ({1: 3, 2: 4, 3: 2}, 8, [(1, 2, 4), (1, 1, 3), (1, 3, 1)]),  # else the largest first
        ({1: 3, 2: 6, 3: 2}, 8, [(1, 2, 6), (1, 3, 2)]),  # and the rest again from the smallest that suffices
        ({1: 0, 2: 1}, 1, [(1, 2, 1)]),
    ],
)
def test_a_line_is_taken_from_the_best_fitting_balances(
    free: dict[int, int], quantity: int, expected: list[tuple[int, int, int]]
) -> None:
    assert taken([Want(1, 1, quantity)], {(1, place): units for place, units in free.items()}) == expected


def test_lines_of_one_sku_share_its_balances_in_the_order_of_their_numbers() -> None:
    free = {(1, 1): 3, (1, 2): 4}
    assert taken([Want(2, 1, 3), Want(1, 1, 4)], free) == [(1, 2, 4), (2, 1, 3)]
    assert free == {(1, 1): 3, (1, 2): 4}


def test_all_lines_or_none_and_every_short_one_is_named() -> None:
    free = {(1, 1): 5, (2, 1): 2, (9, 1): 100}
    with pytest.raises(InsufficientStock) as caught:
        plan([Want(1, 1, 3), Want(2, 2, 2), Want(3, 1, 3), Want(4, 3, 1)], free)
    found = [(x.line_number, x.quantity, x.available) for x in caught.value.lines]
    assert found == [(1, 3, 5), (3, 3, 5), (4, 1, 0)]
    assert "line 4 wants 1, free: 0" in str(caught.value)


def test_any_plan_serves_every_line_in_full_and_takes_no_more_than_is_free() -> None:
    random, plans = Random(5), 0
    for _ in range(500):
        free = {
            (random.randint(1, 3), place): random.randint(0, 9) for place in range(1, random.randint(2, 9))
        }
        wants = [Want(n, random.randint(1, 3), random.randint(1, 9)) for n in range(1, random.randint(2, 5))]
        by_sku = {sku: sum(w.quantity for w in wants if w.sku_id == sku) for sku in (1, 2, 3)}
        there = {sku: sum(units for (s, _), units in free.items() if s == sku) for sku in (1, 2, 3)}
        if any(by_sku[sku] > there[sku] for sku in by_sku):
            with pytest.raises(InsufficientStock):
                plan(wants, free)
            continue
        plans += 1
        found = plan(wants, free)
        for want in wants:
            assert sum(x.quantity for x in found if x.line_number == want.line_number) == want.quantity
        for balance, units in free.items():
            assert sum(x.quantity for x in found if (x.sku_id, x.location_id) == balance) <= units
        assert all(x.quantity > 0 for x in found)
    assert plans > 100


# Picking


def test_what_is_not_found_is_released() -> None:
    assert settle(5, 5) == Settled("PICKED", 5, 0)
    assert settle(5, 2) == Settled("SHORT", 2, 3)
    assert settle(5, 0) == Settled("SHORT", 0, 5)


def test_nobody_picks_more_than_asked_for_or_less_than_nothing() -> None:
    with pytest.raises(TooMany) as caught:
        settle(5, 6)
    assert caught.value.quantity == 5
    with pytest.raises(ValueError, match="-1 units"):
        settle(5, -1)


def stop(aisle: str, position: int, level: int = 1, number: int = 1) -> Stop:
    return Stop(
        aisle=aisle,
        position=position,
        level=level,
        location_id=number,
        order_id=1,
        line_number=1,
        reservation_id=number,
    )


def test_the_walk_goes_up_one_aisle_and_down_the_next_one_that_is_visited() -> None:
    stops = [stop(aisle, position) for aisle in "DAB" for position in (2, 1, 3)]
    assert [(s.aisle, s.position) for s in walk(stops)] == [
        ("A", 1), ("A", 2), ("A", 3), ("B", 3), ("B", 2), ("B", 1), ("D", 1), ("D", 2), ("D", 3),
    ]  # fmt: skip


def test_at_a_position_the_walk_goes_from_the_lowest_level_up_in_either_direction() -> None:
    stops = [stop(aisle, 1, level) for aisle in "AB" for level in (3, 1, 2)]
    assert [(s.aisle, s.level) for s in walk(stops)] == [(a, n) for a in "AB" for n in (1, 2, 3)]


def test_a_walk_does_not_depend_on_the_order_of_its_stops() -> None:
    random = Random(2)
    stops = [
        stop(random.choice("ABCz"), random.randint(1, 9), random.randint(1, 3), number)
        for number in range(60)
    ]
    once = walk(stops)
    random.shuffle(stops)
    assert walk(stops) == once
    assert sorted(once, key=lambda s: s.location_id) == sorted(stops, key=lambda s: s.location_id)
    assert walk([]) == []
