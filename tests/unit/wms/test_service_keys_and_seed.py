"""API keys are believed for a while; sample data is the same for the same numbers."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wms import seed
from wms.seed import Size, TenantKey
from wms.seed.generate import skus
from wms.store import keys
from wms.store.database import Database, Rows, Statement
from wms.store.keys import UNKNOWN_TTL_S, ApiKeys, hash_of

NOW = datetime(2025, 6, 1, tzinfo=UTC)


class Counting(Database):
    """Knows one key, of tenant 7, until it is revoked."""

    def __init__(self) -> None:
        self.calls = 0
        self.valid = True

    async def read(
        self,
        statement: Statement,
        parameters: Sequence[object],
        min_lsn: str | None = None,
        primary: bool = False,
    ) -> Rows:
        self.calls += 1
        known = self.valid and parameters[0] == hash_of("good")
        return [(7, 1, "administrator", "authenticated")] if known else []


def test_a_key_is_asked_for_once_in_its_time_and_revoked_after_it() -> None:
    clock, database = [0.0], Counting()
    known = ApiKeys(database, 30.0, lambda: clock[0])

    async def ask(key: str) -> int | None:
        found = await known.principal_of(key)
        return found.tenant_id if found else None

    assert [asyncio.run(ask("good")) for _ in range(3)] == [7, 7, 7]
    assert database.calls == 1
    database.valid = False
    clock[0] = 29.9
    assert asyncio.run(ask("good")) == 7
    clock[0] = 30.1
    assert asyncio.run(ask("good")) is None


def test_an_unknown_key_is_remembered_only_briefly() -> None:
    clock, database = [0.0], Counting()
    known = ApiKeys(database, 30.0, lambda: clock[0])
    for moment, calls in ((0.0, 1), (UNKNOWN_TTL_S - 0.1, 1), (UNKNOWN_TTL_S + 0.1, 2)):
        clock[0] = moment
        assert asyncio.run(known.principal_of("bad")) is None
        assert database.calls == calls


def test_guessing_keys_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CACHED_KEYS", 10)
    known = ApiKeys(Counting(), 30.0)

    async def guess() -> None:
        for number in range(50):
            await known.principal_of(f"guess-{number}")

    asyncio.run(guess())
    assert len(known._known) == 10


def test_the_same_numbers_give_the_same_data() -> None:
    small, large = Size(1, 1, 50, 1), Size(3, 2, 500, 1)
    assert list(seed.skus(small, 1)) == list(seed.skus(large, 1))[:50]
    assert (
        list(seed.balances(small, 1, 0, NOW))
        == list(seed.balances(large, 1, 0, NOW))[: len(list(seed.balances(small, 1, 0, NOW)))]
    )
    assert list(seed.skus(small, 1)) != list(seed.skus(small, 2))
    assert list(seed.skus(small, 1)) != list(seed.skus(Size(1, 1, 50, 2), 1))


def test_balances_are_positive_and_at_locations_that_exist() -> None:
    size = Size(1, 1, 3000, 1)
    places = {seed.location(number)[0] for number in range(seed.location_count(size))}
    assert len(places) == seed.location_count(size)
    for _, location, units, received in seed.balances(size, 1, 0, NOW):
        assert location in places
        assert units > 0
        assert received <= NOW


def test_the_keys_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    entry = TenantKey(1, "tenant-001", "wms_x", [1, 2])
    seed.write_keys(path, [entry])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert seed.read_keys(path) == [entry]
    assert seed.read_keys(tmp_path / "none.json") == []
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a keys file"):
        seed.read_keys(path)


def test_f3_every_sku_of_the_sample_data_has_its_picture_in_both_formats() -> None:
    web = Path(__file__).resolve().parents[3] / "wms/web"
    named = {sku.image for sku in skus(Size(tenants=1, warehouses=1, skus=500, seed=1), 1)}
    assert len(named) == 20
    for folder, ending in (("images", ".svg"), ("public/images", ".png"), ("public/images", ".webp")):
        assert {path.stem for path in (web / folder).glob("*" + ending)} == named
