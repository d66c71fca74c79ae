"""Users, tokens, configuration and rate limits against real servers: PostgreSQL behind PgBouncer, and Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import service as support
from tests.support.postgres import Database
from tests.support.service import Service, Tenant, sent_by_requests, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
ROOT = Path(__file__).resolve().parents[2]
DATABASE_ADDRESS = "127.43.23.1"
SERVICE_ADDRESS = "127.43.23.2"
PASSWORD = "correct horse battery"
SECRETS = {"old": "a" * 32, "new": "b" * 40}
NUMBERS = count(1)
ENDS_WITHIN_S = 4.0
"""Of a credential that ended before its time: POLL_S with its jitter, and a loaded machine."""


def user(api: Service, tenant: Tenant, *roles: str) -> tuple[int, str]:
    """(id, name) of a new user."""
    name = f"user{next(NUMBERS)}"
    body = {"username": name, "display_name": "Teste", "password": PASSWORD, "roles": roles}
    made = api.call("POST", "/api/v1/users", tenant.key, body)
    assert made.status == 201, made.data
    return made.json()["user_id"], name


def signed_in(api: Service, tenant: Tenant, name: str) -> dict[str, Any]:
    """The answer to a sign-in."""
    body = {"username": name, "password": PASSWORD}
    made = api.call("POST", "/api/v1/tokens", tenant.key, body)
    assert made.status == 201, made.data
    return dict(made.json())


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    """The two servers with the schema in place."""
    with support.migrated(DATABASE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(db: Database, tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Two tenants with keys."""
    return support.seeded(db, tmp_path_factory.mktemp("keys"), "--skus", "5")


@pytest.fixture(scope="module")
def api(db: Database, tenants: list[Tenant], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = {
        "WMS_PROBE_INTERVAL_MS": "200",
        "WMS_JWT_KEYS": f"new:{SECRETS['new']},old:{SECRETS['old']}",
        # One test is about a limit.
        "WMS_RATE_AUTHENTICATED": "1000",
        "WMS_RATE_SIGN_IN": "1000",
    }
    support.without_jobs(db)
    with support.service(db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, **variables) as made:
        yield made


@pytest.fixture
def owner(db: Database) -> Iterator[psycopg.Connection[Any]]:
    with db.connect("wms_owner") as connection:
        yield connection


@pytest.fixture
def app(db: Database) -> Iterator[psycopg.Connection[Any]]:
    """The service's own role, past the service."""
    with db.connect("wms_app") as connection:
        yield connection


def value(connection: psycopg.Connection[Any], statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    return row[0] if row else None


# Users and roles


def test_a_user_is_created_once_listed_by_page_and_told_to_the_outbox(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant = tenants[0]
    body = {"username": "ana", "display_name": "Ana Souza", "password": PASSWORD, "roles": ["viewer"]}
    first = api.call("POST", "/api/v1/users", tenant.key, body, Idempotency_Key="ana-1")
    again = api.call("POST", "/api/v1/users", tenant.key, body, Idempotency_Key="ana-1")
    assert (first.status, again.status) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert api.call("POST", "/api/v1/users", tenant.key, body).status == 409
    user_id = first.json()["user_id"]
    events = "SELECT count(*) FROM outbox WHERE type = 'user.changed' AND identifier = %s AND tenant_id = %s"
    assert value(owner, events, str(user_id), tenant.id) == 1

    for _ in range(3):
        user(api, tenant, "picker")
    names: list[str] = []
    cursor = ""
    while True:
        page = api.call("GET", f"/api/v1/users?limit=2{cursor}", tenant.key).json()
        names += [user["username"] for user in page["data"]]
        if not page["pagination"]["has_more"]:
            break
        cursor = f"&cursor_after={page['pagination']['cursor_after']}"
    assert names == sorted(set(names)) and "ana" in names and len(names) >= 4
    assert PASSWORD.encode() not in api.call("GET", "/api/v1/users", tenant.key).data
    kept = owner.execute("SELECT row_to_json(u)::text FROM users u").fetchall()
    assert not any(PASSWORD in row[0] for row in kept)


def test_roles_change_what_a_refreshed_token_may_do(api: Service, tenants: list[Tenant]) -> None:
    tenant = tenants[0]
    user_id, name = user(api, tenant, "viewer")
    signed = signed_in(api, tenant, name)
    token = signed["access_token"]
    assert api.call("GET", "/api/v1/configuration", token).status == 200
    refused = api.call("GET", "/api/v1/users", token)
    assert refused.status == 403
    assert "users:admin" in refused.json()["detail"]
    own = api.call("GET", f"/api/v1/users/{user_id}/permissions", token)
    assert own.json()["roles"] == ["viewer"] and "stock:write" not in own.json()["permissions"]
    assert api.call("GET", f"/api/v1/users/{user_id + 1}/permissions", token).status == 403

    changed = api.call("PUT", f"/api/v1/users/{user_id}/roles", tenant.key, {"roles": ["administrator"]})
    assert changed.status == 200 and "users:admin" in changed.json()["permissions"]
    assert api.call("GET", "/api/v1/users", token).status == 403, "a token that is out keeps its roles"
    renewed = api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": signed["refresh_token"]})
    assert renewed.status == 201
    assert api.call("GET", "/api/v1/users", renewed.json()["access_token"]).status == 200
    assert api.call("PUT", "/api/v1/users/999999/roles", tenant.key, {"roles": []}).status == 404


# Sessions


def test_a_refresh_token_is_good_once_and_its_copy_ends_the_session(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    _, name = user(api, tenants[0], "picker")
    first = signed_in(api, tenants[0], name)["refresh_token"]
    second = api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": first}).json()["refresh_token"]
    stolen = api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": first})
    assert (stolen.status, stolen.json()["errors"][0]["detail"]) == (401, "unknown-refresh-token")
    assert api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": second}).status == 401
    reasons = owner.execute("SELECT end_reason FROM sessions WHERE ended_at IS NOT NULL").fetchall()
    assert ("reuse",) in reasons
    kept = owner.execute("SELECT token_hash FROM refresh_tokens").fetchall()
    assert all(len(row[0]) == 32 for row in kept)


def test_of_exchanges_at_once_one_wins(api: Service, tenants: list[Tenant]) -> None:
    _, name = user(api, tenants[0], "picker")
    token = signed_in(api, tenants[0], name)["refresh_token"]
    barrier = threading.Barrier(4)

    def exchange(_: int) -> int:
        barrier.wait(10)
        return int(api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": token}).status)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(exchange, range(4))) == [201, 401, 401, 401]


def test_signing_out_ends_the_session(api: Service, tenants: list[Tenant]) -> None:
    _, name = user(api, tenants[0], "picker")
    token = signed_in(api, tenants[0], name)["refresh_token"]
    for _ in range(2):
        assert api.call("POST", "/api/v1/tokens/revoke", body={"refresh_token": token}).status == 200
    assert api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": token}).status == 401


def test_a_session_runs_out_and_is_forgotten(
    api: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    user_id, name = user(api, tenants[0], "picker")
    token = signed_in(api, tenants[0], name)["refresh_token"]
    owner.execute("UPDATE sessions SET expires_at = now() - interval '25 h' WHERE user_id = %s", (user_id,))
    assert api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": token}).status == 401
    with db.connect("wms_worker") as worker:
        assert value(worker, "SELECT forget_sessions(100)") == 1
    assert value(owner, "SELECT count(*) FROM sessions WHERE user_id = %s", user_id) == 0


def test_wrong_names_and_passwords_are_one_answer_and_an_inactive_user_is_out(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    user_id, name = user(api, tenants[0], "picker")
    token = signed_in(api, tenants[0], name)["refresh_token"]
    answers = [
        api.call("POST", "/api/v1/tokens", tenants[0].key, {"username": n, "password": p}).json()
        for n, p in ((name, "wrong password"), ("nobody-here", PASSWORD))
    ]
    assert {answer.pop("request_id") for answer in answers} and answers[0] == answers[1]
    assert answers[0]["errors"][0]["detail"] == "wrong-credentials"
    owner.execute("UPDATE users SET active = false WHERE user_id = %s", (user_id,))
    body = {"username": name, "password": PASSWORD}
    assert api.call("POST", "/api/v1/tokens", tenants[0].key, body).status == 401
    assert api.call("POST", "/api/v1/tokens/refresh", body={"refresh_token": token}).status == 401


def test_a_key_for_a_frontend_can_sign_in_and_nothing_else(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    _, name = user(api, tenants[0], "viewer")
    owner.execute(
        "INSERT INTO api_keys (tenant_id, key_hash, name, role) VALUES (%s, sha256('wms_front'), 'f', 'frontend')",
        (tenants[0].id,),
    )
    front = replace(tenants[0], key="wms_front")
    assert api.call("GET", "/api/v1/configuration", front.key).status == 403
    token = signed_in(api, front, name)["access_token"]
    answer = api.call("GET", "/api/v1/configuration", token)
    assert (answer.status, answer.headers["ratelimit-limit"]) == (200, "1000")


# API keys


def test_a_key_is_made_shown_once_used_and_revoked(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant = tenants[0]
    body = {"name": "leitor 3", "role": "viewer"}
    made = api.call("POST", "/api/v1/api-keys", tenant.key, body, Idempotency_Key="key-made")
    again = api.call("POST", "/api/v1/api-keys", tenant.key, body, Idempotency_Key="key-made")
    assert (made.status, again.status) == (201, 201)
    key, number = made.json()["key"], made.json()["api_key_id"]
    assert again.json() == made.json() | {"key": None}
    kept = owner.execute(
        "SELECT row_to_json(k)::text FROM api_keys k UNION ALL SELECT answer::text FROM idempotency_keys"
    )
    assert not any(key in row[0] for row in kept.fetchall())

    assert api.call("GET", "/api/v1/configuration", key).status == 200
    assert api.call("GET", "/api/v1/api-keys", key).status == 403
    listed = {
        entry["api_key_id"]: entry for entry in api.call("GET", "/api/v1/api-keys", tenant.key).json()["data"]
    }
    assert listed[number] == {name: value for name, value in made.json().items() if name != "key"}
    assert listed[number]["created_by"].startswith("key:") and key not in str(listed)

    for _ in range(2):
        revoked = api.call("DELETE", f"/api/v1/api-keys/{number}", tenant.key)
        assert revoked.status == 200 and revoked.json()["revoked_at"] is not None
    until("revoked", lambda: api.call("GET", "/api/v1/configuration", key).status == 401, ENDS_WITHIN_S)
    assert api.call("DELETE", "/api/v1/api-keys/999999", tenant.key).status == 404
    events = "SELECT string_agg(type, ',' ORDER BY event_id) FROM outbox WHERE entity = 'api_key' AND identifier = %s"
    assert value(owner, events, str(number)) == "api_key.created,api_key.revoked"


def test_a_key_that_was_revoked_elsewhere_is_refused_in_a_moment(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    """As by another process; this one had believed it for another half minute."""
    made = api.call("POST", "/api/v1/api-keys", tenants[0].key, {"name": "x", "role": "viewer"}).json()
    assert api.call("GET", "/api/v1/configuration", made["key"]).status == 200
    owner.execute("UPDATE api_keys SET revoked_at = now() WHERE api_key_id = %s", (made["api_key_id"],))
    until(
        "revoked", lambda: api.call("GET", "/api/v1/configuration", made["key"]).status == 401, ENDS_WITHIN_S
    )


# Ends of sessions


def test_who_is_put_out_is_out_in_a_moment_and_let_in_again(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant = tenants[0]
    user_id, name = user(api, tenant, "viewer")
    signed = [signed_in(api, tenant, name) for _ in range(2)]
    target = f"/api/v1/users/{user_id}/active"
    out = api.call("PUT", target, tenant.key, {"active": False})
    assert (out.status, out.json()["active"], out.json()["permissions"]) == (200, False, [])
    assert api.call("PUT", target, tenant.key, {"active": False}).status == 200, "twice is once"
    body = {"username": name, "password": PASSWORD}
    assert api.call("POST", "/api/v1/tokens", tenant.key, body).status == 401
    for session in signed:
        refreshed = {"refresh_token": session["refresh_token"]}
        assert api.call("POST", "/api/v1/tokens/refresh", body=refreshed).status == 401
        token = session["access_token"]
        until("out", lambda t=token: reason(api, t) == "session-ended", ENDS_WITHIN_S)  # type: ignore[misc]
    reasons = owner.execute(
        "SELECT DISTINCT end_reason FROM sessions WHERE user_id = %s", (user_id,)
    ).fetchall()
    assert reasons == [("deactivated",)]
    events = "SELECT count(*) FROM outbox WHERE type = 'user.changed' AND identifier = %s"
    assert value(owner, events, str(user_id)) == 2, "made, and put out once"

    back = api.call("PUT", target, tenant.key, {"active": True})
    assert back.json()["active"] and back.json()["permissions"]
    assert reason(api, signed[0]["access_token"]) == "session-ended", "old sessions stay ended"
    assert reason(api, signed_in(api, tenant, name)["access_token"]) == ""
    assert api.call("PUT", "/api/v1/users/999999/active", tenant.key, {"active": False}).status == 404


def test_a_changed_password_ends_the_other_sessions(api: Service, tenants: list[Tenant]) -> None:
    tenant = tenants[0]
    user_id, name = user(api, tenant, "viewer")
    own, other = signed_in(api, tenant, name), signed_in(api, tenant, name)
    target, new = f"/api/v1/users/{user_id}/password", "another good long one"
    wrong = {"old_password": "not the one at all", "new_password": new}
    assert api.call("PUT", target, own["access_token"], wrong).status == 422
    body = {"old_password": PASSWORD, "new_password": new}
    assert api.call("PUT", target, tenant.key, body).status == 403
    changed = api.call("PUT", target, own["access_token"], body)
    assert (changed.status, changed.json()) == (200, {"sessions_ended": 1})
    until("ended", lambda: reason(api, other["access_token"]) == "session-ended", ENDS_WITHIN_S)
    assert reason(api, own["access_token"]) == ""
    for session, status in ((own, 201), (other, 401)):
        refreshed = api.call(
            "POST", "/api/v1/tokens/refresh", body={"refresh_token": session["refresh_token"]}
        )
        assert refreshed.status == status
    for password, status in ((PASSWORD, 401), (new, 201)):
        signed = api.call("POST", "/api/v1/tokens", tenant.key, {"username": name, "password": password})
        assert signed.status == status


def test_signing_out_ends_the_access_token_too(api: Service, tenants: list[Tenant]) -> None:
    _, name = user(api, tenants[0], "picker")
    signed = signed_in(api, tenants[0], name)
    out = {"refresh_token": signed["refresh_token"]}
    assert api.call("POST", "/api/v1/tokens/revoke", body=out).status == 200
    until("out", lambda: reason(api, signed["access_token"]) == "session-ended", ENDS_WITHIN_S)


def test_a_sign_in_that_is_overtaken_opens_no_session(
    db: Database,
    api: Service,
    tenants: list[Tenant],
    owner: psycopg.Connection[Any],
    app: psycopg.Connection[Any],
) -> None:
    """Between the check of the password and the session somebody puts the user out, or changes the password."""
    user_id, _ = user(api, tenants[0], "viewer")
    stored = value(owner, "SELECT password_hash FROM users WHERE user_id = %s", user_id)
    opened = "SELECT outcome FROM open_session(%s, %s, %s, sha256(%s), 'authenticated', 60)"

    def open_(password: str, token: str) -> Any:
        return value(app, opened, tenants[0].id, user_id, password, token)

    assert open_(stored, "a") == "done"
    assert open_(stored.replace("$", "$x", 1), "b") == "unknown_user"
    with db.connect("wms_owner") as other, other.transaction(), ThreadPoolExecutor(1) as pool:
        other.execute("UPDATE users SET active = false WHERE user_id = %s", (user_id,))
        waiting = pool.submit(open_, stored, "c")
        time.sleep(0.3)
        assert not waiting.done(), "it waits for what is about to be"
        other.execute("COMMIT; BEGIN")
        assert waiting.result(5) == "unknown_user"


def reason(api: Service, token: str) -> str:
    """Why a token is refused; empty when it is not."""
    answer = api.call("GET", "/api/v1/configuration", token)
    return "" if answer.status == 200 else str(answer.json()["errors"][0]["detail"])


# Configuration


def test_configuration_is_changed_only_by_who_saw_it_last(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    key, target = tenants[0].key, "/api/v1/configuration/picking.batch"
    assert api.call("PUT", target, key, {"value": 1}).status == 428
    assert api.call("PUT", target, key, {"value": 1}, If_Match='"1"').status == 412
    assert api.call("PUT", target, key, {"value": 1}, If_Match="1").status == 400
    made = api.call("PUT", target, key, {"value": {"size": 8}}, If_None_Match="*")
    assert (made.status, made.headers["etag"], made.json()["version"]) == (201, '"1"', 1)
    again = api.call("PUT", target, key, {"value": {"size": 8}}, If_None_Match="*")
    assert (again.status, again.json()) == (201, made.json()), "the same change sent again is done already"
    assert api.call("PUT", target, key, {"value": {"size": 9}}, If_None_Match="*").status == 412
    changed = api.call("PUT", target, key, {"value": [1, None, "ç"]}, If_Match='"1"')
    assert (changed.status, changed.json()["version"]) == (200, 2)
    assert api.call("PUT", target, key, {"value": 3}, If_Match='"1"').status == 412
    assert api.call("PUT", target, key, {"value": "\x00"}, If_Match='"2"').status == 400
    assert api.call("PUT", target, key, {"value": "\\u0000"}, If_Match='"2"').status == 200
    listed = api.call("GET", "/api/v1/configuration", key).json()["data"]
    assert [(e["key"], e["value"], e["version"]) for e in listed] == [("picking.batch", "\\u0000", 3)]
    events = (
        "SELECT count(*) FROM outbox WHERE type = 'configuration.changed' AND identifier = 'picking.batch'"
    )
    assert value(owner, events) == 3


def test_of_changes_at_once_one_wins(api: Service, tenants: list[Tenant]) -> None:
    target = "/api/v1/configuration/race"
    assert api.call("PUT", target, tenants[0].key, {"value": 0}, If_None_Match="*").status == 201
    barrier = threading.Barrier(4)

    def change(number: int) -> int:
        barrier.wait(10)
        return int(api.call("PUT", target, tenants[0].key, {"value": number + 1}, If_Match='"1"').status)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(change, range(4))) == [200, 412, 412, 412]


# Tenants are apart (row H2)


def test_h2_a_tenant_reaches_nothing_of_another_through_the_endpoints(
    api: Service, tenants: list[Tenant]
) -> None:
    mine, other = tenants
    user_id, name = user(api, other, "viewer")
    assert (
        api.call("PUT", "/api/v1/configuration/secret", other.key, {"value": 1}, If_None_Match="*").status
        == 201
    )
    assert api.call("GET", f"/api/v1/users/{user_id}/permissions", mine.key).status == 404
    assert api.call("PUT", f"/api/v1/users/{user_id}/roles", mine.key, {"roles": []}).status == 404
    assert name.encode() not in api.call("GET", "/api/v1/users?limit=200", mine.key).data
    assert b'"secret"' not in api.call("GET", "/api/v1/configuration?limit=200", mine.key).data
    assert (
        api.call("PUT", "/api/v1/configuration/secret", mine.key, {"value": 2}, If_Match='"1"').status == 412
    )
    body = {"username": name, "password": PASSWORD}
    assert api.call("POST", "/api/v1/tokens", mine.key, body).status == 401
    token = signed_in(api, other, name)["access_token"]
    seen = api.call("GET", "/api/v1/configuration?limit=200", token, X_Tenant_Id=str(mine.id)).json()["data"]
    assert "secret" in [entry["key"] for entry in seen]
    page = api.call("GET", "/api/v1/users?limit=1", other.key)
    cursor = page.json()["pagination"]["cursor_after"]
    if cursor:
        assert api.call("GET", f"/api/v1/users?limit=1&cursor_after={cursor}", mine.key).status == 400


TABLES = ("users", "user_roles", "sessions", "refresh_tokens", "configuration")


def test_h2_the_services_own_role_sees_and_changes_rows_of_its_tenant_only(
    api: Service, tenants: list[Tenant], owner: psycopg.Connection[Any], app: psycopg.Connection[Any]
) -> None:
    mine, other = tenants
    user_id, name = user(api, other, "viewer")
    signed_in(api, other, name)
    api.call("PUT", "/api/v1/configuration/own", other.key, {"value": 1}, If_None_Match="*")
    for table in TABLES:
        assert value(owner, f"SELECT count(*) FROM {table} WHERE tenant_id = %s", other.id) > 0, table
        assert value(app, f"SELECT count(*) FROM {table}") == 0, "no tenant set: no rows"
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            assert value(app, f"SELECT count(*) FROM {table} WHERE tenant_id <> %s", mine.id) == 0, table
    for statement in (
        f"UPDATE users SET updated_at = now() WHERE user_id = {user_id}",
        f"DELETE FROM user_roles WHERE user_id = {user_id}",
        f"UPDATE sessions SET ended_at = now() WHERE user_id = {user_id}",
        f"UPDATE refresh_tokens SET used_at = now() WHERE tenant_id = {other.id}",
        f"UPDATE configuration SET value = '0' WHERE tenant_id = {other.id}",
    ):
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            assert app.execute(statement.encode()).rowcount == 0, statement
    for statement in (
        "INSERT INTO users (tenant_id, username, display_name, password_hash) "
        f"VALUES ({other.id}, 'x', 'x', 'scrypt$')",
        f"INSERT INTO user_roles (tenant_id, user_id, role) VALUES ({other.id}, {user_id}, 'administrator')",
        f"INSERT INTO configuration (tenant_id, key, value, updated_by) VALUES ({other.id}, 'x', '1', 'x')",
        "SELECT * FROM api_keys",
        "UPDATE users SET username = 'x'",
        "SELECT key_hash FROM api_keys",
        "UPDATE api_keys SET role = 'administrator'",
        "DELETE FROM api_keys",
        "UPDATE user_roles SET role = 'administrator'",
        "DELETE FROM sessions",
        "DELETE FROM refresh_tokens",
        "DELETE FROM configuration",
        "UPDATE configuration SET tenant_id = tenant_id",
        "UPDATE sessions SET expires_at = now() + interval '1 year'",
    ):
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
            # An error leaves nothing to commit.
            raise psycopg.Rollback


# Cost


def test_a_token_costs_no_look_at_the_database(
    api: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    _, name = user(api, tenants[0], "administrator")
    token = signed_in(api, tenants[0], name)["access_token"]
    with db.connect("postgres") as admin:
        admin.execute("SELECT pg_stat_statements_reset()")
        for _ in range(5):
            assert api.call("GET", "/api/v1/users", token).status == 200
        found = sent_by_requests(admin)
    assert [(q.split("FROM ")[-1].split("(")[0], calls) for q, calls in found] == [("user_page", 5)]


def test_indexes_carry_the_lists_and_doors(owner: psycopg.Connection[Any]) -> None:
    owner.execute("SET enable_seqscan = off")
    for statement in (
        "SELECT * FROM users WHERE tenant_id = 1 AND username > 'm' ORDER BY username LIMIT 50",
        "SELECT * FROM configuration WHERE tenant_id = 1 AND key > 'm' ORDER BY key LIMIT 50",
        "SELECT * FROM refresh_tokens WHERE token_hash = sha256('x')",
        "SELECT * FROM user_roles WHERE tenant_id = 1 AND user_id = 1",
    ):
        plan = "\n".join(row[0] for row in owner.execute(f"EXPLAIN {statement}".encode()).fetchall())
        assert "Index" in plan and "Sort" not in plan, plan
