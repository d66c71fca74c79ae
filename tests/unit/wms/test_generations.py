"""Row K1: what the gateway keeps of a tenant is left behind by the tenant's next change."""

from __future__ import annotations

from wms.events.generations import STALE_S, Generations
from wms.events.stream import Delivery
from wms.store.events import Event


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def delivery(tenant: int, lsn: int) -> Delivery:
    event = Event(
        sequence=1,
        tenant_id=tenant,
        type="sku.changed",
        entity="sku",
        identifier="A",
        payload={},
        occurred_at=0.0,
    )
    return Delivery(event, lsn)


def test_k1_a_change_gives_its_tenant_a_new_generation_and_no_other() -> None:
    generations = Generations(Clock())
    generations.begin(0x1_0000_00A0)
    generations.read()
    assert generations.of(1) == generations.of(2) == "1/A0"
    generations.take(delivery(1, 0x1_0000_00B0))
    assert (generations.of(1), generations.of(2)) == ("1/B0", "1/A0")


def test_k1_what_was_missed_raises_every_tenant() -> None:
    generations = Generations(Clock())
    generations.read()
    generations.take(delivery(1, 5))
    generations.begin(9)
    assert generations.of(1) == generations.of(2) == "0/9"
    generations.begin(3)
    assert generations.of(1) == "0/9", "a generation that was left behind must not come back"


def test_k1_what_a_process_changed_itself_is_a_generation_before_its_event_and_after() -> None:
    generations = Generations(Clock())
    generations.read()
    generations.rise(1, 9)
    generations.take(delivery(1, 7))
    assert (generations.of(1), generations.of(2)) == ("0/9", "0/0")
    generations.begin(8)
    assert (generations.of(1), generations.of(2)) == ("0/9", "0/8")
    generations.begin(10)
    assert generations.of(1) == "0/A"


def test_k1_who_hears_nothing_says_nothing() -> None:
    clock = Clock()
    generations = Generations(clock)
    assert generations.of(1) is None
    generations.read()
    clock.now += STALE_S / 2
    assert generations.of(1) is not None
    clock.now += STALE_S
    assert generations.of(1) is None
