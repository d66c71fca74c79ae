"""What the stack tells the service of database roles, signing keys, rate limits and gateways."""

from __future__ import annotations

from typing import Any

import pytest

from stacks import render, spec
from stacks.engines import pgbouncer, service
from tests.stacks.golden import SITE


def environment(**values: Any) -> dict[str, str]:
    platform = spec.load("local", {"service": values})
    return dict(service.processes(platform, SITE)[0].environment)


def test_the_work_for_all_tenants_has_a_role_a_secret_and_small_pools_of_its_own() -> None:
    found = environment(worker_pool=4)
    assert found["WMS_WORKER_USER"] != found["WMS_DB_USER"]
    secrets = [render.secrets_in(found[f"WMS_{role}_PASSWORD"]) for role in ("DB", "WORKER")]
    assert secrets == [{"postgres/app"}, {"postgres/worker"}]
    platform = spec.load("local", {"pooler": {"worker_pool": 2}})
    proxy = platform.proxy
    pools = {db.name: (db.port, db.size, db.reserve) for db in pgbouncer.databases(platform)}
    assert pools[found["WMS_WORKER_WRITE_NAME"]] == (proxy.write_port, 2, 0)
    assert pools[found["WMS_WORKER_READ_NAME"]] == (proxy.read_port, 2, 0)
    assert found["WMS_WORKER_POOL"] == "4"


@pytest.mark.parametrize(("generation", "keys"), [(1, [1, 2]), (2, [2, 1, 3]), (9, [9, 8, 10])])
def test_the_signing_key_comes_with_the_one_before_and_the_one_after(
    generation: int, keys: list[int]
) -> None:
    found = environment(jwt_generation=generation)["WMS_JWT_KEYS"]
    assert [part.partition(":")[0] for part in found.split(",")] == [f"g{number}" for number in keys]
    assert render.secrets_in(found) == {f"service/jwt_{number}" for number in keys}


def test_a_rotation_keeps_every_secret_that_is_still_needed() -> None:
    before, after = (
        render.secrets_in(environment(jwt_generation=number)["WMS_JWT_KEYS"]) for number in (4, 5)
    )
    assert {"service/jwt_4", "service/jwt_5"} <= before & after


def test_a3_the_limits_and_who_may_name_the_client() -> None:
    found = environment()
    assert [found[f"WMS_RATE_{tier}"] for tier in ("ANONYMOUS", "AUTHENTICATED", "PREMIUM")] == [
        "100",
        "1000",
        "10000",
    ]
    assert found["WMS_RATE_PROCESSES"] == "3"
    assert found["WMS_TRUSTED_PROXIES"] == "127.40.7.1,127.40.7.2"
    assert environment(rate_limits={"premium": 0})["WMS_RATE_PREMIUM"] == "0"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rate_limits": {"premium": -1}}, "service.rate_limits.premium: found -1"),
        ({"rate_limits": {"gold": 1}}, "service.rate_limits.gold: unknown key"),
        ({"jwt_generation": 0}, "service.jwt_generation: found 0"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(spec.SpecError, match=text):
        spec.load("local", {"service": values})
