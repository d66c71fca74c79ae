"""Credentials that are made and ended through the API, and what a process does when it hears of an end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import AUTH, FakeDatabase, Harness
from wms.domain import passwords
from wms.domain.roles import Principal
from wms.domain.tokens import LEEWAY_S, LIFETIME_S, Tokens
from wms.store.database import Commit, Rows, Statement, Unavailable
from wms.store.ended import OVERLAP_S, REMEMBERED_S, Ended
from wms.store.keys import ApiKeys, hash_of

ANA = Principal(7, "user:12", frozenset({"administrator"}), "authenticated", session_id=31)
PASSWORD = "correct horse battery"
STORED = passwords.hash_of(PASSWORD)
NEW_KEY = {"name": "scanner 3", "role": "picker"}
KEPT = NEW_KEY | {
    "api_key_id": 9,
    "tier": "authenticated",
    "created_at": "2026-01-02T03:04:05Z",
    "created_by": "key:1",
    "revoked_at": None,
}


@pytest.fixture
def api() -> Harness:
    made = Harness()
    made.services.tokens = Tokens({"a": b"k" * 32})
    return made


def bearer(api: Harness, principal: Principal = ANA) -> dict[str, str]:
    return {"Authorization": f"Bearer {api.services.tokens.issue(principal)}"}


def send(
    api: Harness, method: str, target: str, body: object = None, headers: dict[str, str] | None = None
) -> Response:
    sent = {"Content-Type": "application/json", "Idempotency-Key": "k1"} | (
        AUTH if headers is None else headers
    )
    chunks = () if body is None else (msgspec.json.encode(body),)
    return request(api.app, method, target, headers=sent, chunks=chunks or (b"",))


# API keys


class Keeping(FakeDatabase):
    """Keeps the answer of the first request, as the database does under its idempotency key."""

    kept: bytes = b""

    async def write(self, statement: Statement, parameters: Sequence[object], final: Any) -> Any:
        self.asked.append((statement.name, parameters))
        if self.kept:
            return ("replayed", self.kept), Commit("0/1")
        secret = parameters[3]
        assert isinstance(secret, bytes)
        self.kept = msgspec.json.encode(KEPT | {"secret": secret.hex()})
        return ("done", self.kept), Commit("0/1")


def test_a_key_is_shown_once_and_kept_as_its_hash(api: Harness) -> None:
    api.services.database = database = Keeping()
    api.services.keys = ApiKeys(database, 30)
    first, again = (send(api, "POST", "/api/v1/api-keys", NEW_KEY) for _ in range(2))
    assert (first.status, again.status) == (201, 201)
    key = first.json["key"]
    assert key.startswith("wms_") and len(key) > 40
    assert database.asked[0][1][3] == hash_of(key) and key not in repr(database.asked) + str(database.kept)
    assert again.json == first.json | {"key": None}
    assert again.headers["idempotency-replayed"] == "true"
    assert "secret" not in first.json
    assert database.asked[0][1][4:] == ("scanner 3", "picker", "authenticated", "key:1")


@pytest.mark.parametrize(
    ("principal", "changes", "status"),
    [
        (ANA, {}, 201),
        (ANA, {"tier": "premium"}, 403),
        (replace(ANA, tier="premium"), {"tier": "premium"}, 201),
        (ANA, {"role": "administrator"}, 201),
    ],
)
def test_a_key_can_do_no_more_than_its_maker(
    api: Harness, principal: Principal, changes: dict[str, str], status: int
) -> None:
    api.services.database = Keeping()
    answer = send(api, "POST", "/api/v1/api-keys", NEW_KEY | changes, bearer(api, principal))
    assert answer.status == status, answer.body


def test_who_administers_keys_only_gives_no_right_of_others(
    api: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No role of today is like this; one of tomorrow may be."""
    monkeypatch.setitem(api_key_roles(), "keymaster", frozenset({"keys:admin", "users:admin", "stock:read"}))
    keymaster = bearer(api, replace(ANA, roles=frozenset({"keymaster"})))
    refused = send(api, "POST", "/api/v1/api-keys", NEW_KEY, keymaster)
    assert refused.status == 403 and "configuration:read" in refused.json["detail"]
    for method, target, body in (
        ("PUT", "/api/v1/users/5/roles", {"roles": ["administrator"]}),
        (
            "POST",
            "/api/v1/users",
            {"username": "rui", "display_name": "Rui", "password": PASSWORD, "roles": ["viewer"]},
        ),
    ):
        assert send(api, method, target, body, keymaster).status == 403
    assert not api.database.asked


def api_key_roles() -> dict[str, frozenset[str]]:
    from wms.domain import roles

    return roles.KEY_ROLES


def test_a_key_that_is_not_there_is_not_revoked(api: Harness) -> None:
    api.database.row = ("unknown_key", None)
    answer = send(api, "DELETE", "/api/v1/api-keys/9")
    assert (answer.status, answer.json["type"]) == (404, "urn:wms:problem:unknown-api-key")


# Users


def test_nobody_puts_himself_out(api: Harness) -> None:
    answer = send(api, "PUT", "/api/v1/users/12/active", {"active": False}, bearer(api))
    assert (answer.status, answer.json["type"]) == (409, "urn:wms:problem:own-account")
    assert not api.database.asked
    api.database.row = ("done", b'{"username": "ana", "active": true, "roles": ["viewer"]}')
    assert send(api, "PUT", "/api/v1/users/12/active", {"active": True}, bearer(api)).status == 200


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({}, 200, ""),
        ({"old_password": "not the right one"}, 422, "old_password"),
        ({"new_password": PASSWORD}, 422, "new_password"),
        ({"new_password": "I am ANA the first"}, 422, "new_password"),
        ({"new_password": "short"}, 400, "new_password"),
    ],
)
def test_a_password_is_changed_by_who_knows_the_old_one(
    api: Harness, changes: dict[str, str], status: int, field: str
) -> None:
    api.database.rows = [("ana", STORED)]
    api.database.row = ("done", b'{"sessions_ended": 2}')
    body = {"old_password": PASSWORD, "new_password": "another long one"} | changes
    answer = send(api, "PUT", "/api/v1/users/12/password", body, bearer(api))
    assert answer.status == status, answer.body
    if status == 200:
        (name, (tenant, user, before, after, session)) = api.database.asked[-1]
        assert (name, tenant, user, before, session) == ("change_password", 7, 12, STORED, 31)
        assert passwords.matches("another long one", str(after))
    else:
        assert answer.json["errors"][0]["field"] == field
        assert not any(name == "change_password" for name, _ in api.database.asked)
    assert not any(word.encode() in answer.body for word in body.values())


def test_a_password_is_changed_by_its_user_only(api: Harness) -> None:
    body = {"old_password": PASSWORD, "new_password": "another long one"}
    for headers in (AUTH, bearer(api, replace(ANA, subject="user:13"))):
        assert send(api, "PUT", "/api/v1/users/12/password", body, headers).status == 403
    assert not api.database.asked


def test_the_old_password_is_guessed_at_ten_times_a_minute(api: Harness) -> None:
    api.services.settings = replace(api.services.settings, rate_sign_in=2)
    api.database.rows = [("ana", STORED)]
    body = {"old_password": "wrong", "new_password": "another long one"}
    statuses = [send(api, "PUT", "/api/v1/users/12/password", body, bearer(api)).status for _ in range(3)]
    assert statuses == [422, 422, 429]


# Ends


class Ends(FakeDatabase):
    """Tells of ends, and for which time it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.since: list[float] = []

    async def read(
        self,
        statement: Statement,
        parameters: Sequence[object],
        min_lsn: str | None = None,
        primary: bool = False,
    ) -> Rows:
        if statement.name == "ended_credentials":
            (since,) = parameters
            assert isinstance(since, float)
            self.since.append(since)
            if isinstance(self.rows, Exception):
                raise self.rows
            return self.rows
        return await super().read(statement, parameters, min_lsn, primary)


def test_a_token_is_good_for_nothing_once_its_session_has_ended(api: Harness) -> None:
    worker = Ends()
    worker.rows = [("session", 7, 31), ("session", 8, 32)]
    other = bearer(api, replace(ANA, session_id=32))
    assert send(api, "GET", "/api/v1/configuration", None, bearer(api)).status == 200
    asyncio.run(api.services.ended.hear(worker, api.services.keys))
    refused = send(api, "GET", "/api/v1/configuration", None, bearer(api))
    assert (refused.status, refused.json["errors"][0]["detail"]) == (401, "session-ended")
    assert send(api, "GET", "/api/v1/configuration", None, other).status == 200, "of another tenant"
    assert send(api, "GET", "/api/v1/configuration").status == 200, "a key has no session"


def test_a_key_is_believed_no_more_once_it_is_revoked() -> None:
    database = Ends()
    known = ApiKeys(database, 30.0)
    from tests.unit.wms.test_service_api import KEY

    async def scene() -> list[bool]:
        found = [await known.principal_of(KEY) is not None]
        database.rows = [("key", 8, 1), ("key", 7, 2)]
        await Ended().hear(database, known)
        found.append(bool(known._known))
        database.rows = [("key", 7, 1)]
        await Ended().hear(database, known)
        found.append(bool(known._known))
        return found

    assert asyncio.run(scene()) == [True, True, False], "forgotten too early, or not at all"


def test_what_ended_while_nobody_could_be_asked_is_heard_of_afterwards() -> None:
    clock, worker = [1000.0], Ends()
    ended, known = Ended(lambda: clock[0]), ApiKeys(worker, 30.0)

    def hear() -> float:
        asyncio.run(ended.hear(worker, known))
        return worker.since[-1]

    assert hear() == REMEMBERED_S + OVERLAP_S, "a process that starts hears of all that matters"
    clock[0] += 2
    assert hear() == OVERLAP_S + 2
    worker.rows = Unavailable("away", 1)
    clock[0] += 100
    with pytest.raises(Unavailable):
        hear()
    worker.rows = [("session", 7, 31)]
    clock[0] += 100
    assert hear() == OVERLAP_S + 200
    assert ended.has(ANA)


def test_an_end_is_remembered_for_as_long_as_a_token_lives() -> None:
    clock, worker = [0.0], Ends()
    ended, known = Ended(lambda: clock[0]), ApiKeys(worker, 30.0)
    worker.rows = [("session", 7, 31)]
    asyncio.run(ended.hear(worker, known))
    clock[0] = 50.0
    worker.rows = [("session", 7, 31), ("session", 7, 40)]
    asyncio.run(ended.hear(worker, known))
    worker.rows = []
    clock[0] = LIFETIME_S + LEEWAY_S + 1.0
    asyncio.run(ended.hear(worker, known))
    assert ended.has(ANA)
    clock[0] = REMEMBERED_S
    asyncio.run(ended.hear(worker, known))
    assert not ended.has(ANA) and ended.has(replace(ANA, session_id=40))
