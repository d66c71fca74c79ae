"""Roles, passwords, access tokens, and what the endpoints of accounts do before they ask the database."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import AUTH, Harness
from wms.api.app import OPERATIONS
from wms.api.configuration import expected_version
from wms.api.problem import Problem
from wms.domain import passwords
from wms.domain.roles import FRONTEND, KEY_ROLES, PERMISSIONS, ROLES, Principal, permissions_of
from wms.domain.tokens import LEEWAY_S, LIFETIME_S, InvalidToken, Reason, Tokens
from wms.settings import SettingsError, load

NOW = 1_800_000_000.0
OLD, NEW = b"o" * 32, b"n" * 32
ANA = Principal(7, "user:12", frozenset({"picker", "viewer"}), "premium", session_id=31)

# Roles


def test_only_administrators_change_users_and_configuration() -> None:
    for permission in ("users:admin", "keys:admin", "configuration:write", "sessions:write"):
        assert [role for role, allowed in ROLES.items() if permission in allowed] == ["administrator"]
    assert ROLES["administrator"] == PERMISSIONS
    assert KEY_ROLES[FRONTEND] == {"sessions:write"}
    assert not any(permission.endswith((":write", ":admin")) for permission in ROLES["viewer"])


def test_roles_add_up_and_an_unknown_one_adds_nothing() -> None:
    principal = replace(ANA, roles=frozenset({"picker", "receiver", "emperor"}))
    assert principal.may("picking:write") and principal.may("receiving:write")
    assert not principal.may("users:admin")
    assert permissions_of(["viewer", "picker"]) == sorted(ROLES["viewer"] | ROLES["picker"])


def test_nobody_gives_away_more_than_he_has() -> None:
    supervisor = replace(ANA, roles=frozenset({"supervisor"}))
    assert supervisor.lacks(["viewer", "picker", "receiver", "supervisor"]) == []
    assert "users:admin" in supervisor.lacks(["viewer", "administrator"])
    assert supervisor.lacks([FRONTEND]) == ["sessions:write"]
    administrator = replace(ANA, roles=frozenset({"administrator"}))
    assert administrator.lacks(KEY_ROLES) == []


def test_every_operation_needs_a_permission_that_some_role_has() -> None:
    for operation in OPERATIONS:
        if operation.permission:
            assert operation.permission in PERMISSIONS, operation.name
        assert not (operation.public and operation.permission), operation.name


# Passwords


def test_a_password_matches_its_hash_only() -> None:
    stored = passwords.hash_of("correct horse battery", b"s" * 16)
    assert stored.startswith("scrypt$16384$8$5$")
    assert passwords.matches("correct horse battery", stored)
    assert not passwords.matches("correct horse batterz", stored)
    assert not passwords.matches("", passwords.NOBODYS)
    assert passwords.hash_of("x") != passwords.hash_of("x")


def test_the_hash_is_scrypt_as_rfc_7914_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 7914 §12, second vector, of which the first 32 bytes.
    key = passwords._derive("password", b"NaCl", 1024, 8, 16)
    assert key.hex() == "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"


# Access tokens


def encoded(value: object) -> bytes:
    return urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=")


def forged(
    header: Mapping[str, Any] | None = None, key: bytes = NEW, algorithm: str = "sha256", **claims: object
) -> str:
    """A token with a true signature and something else changed."""
    head = {"alg": "HS256", "kid": "new", "typ": "JWT"} | dict(header or {})
    body = {
        "iss": "wms", "aud": "wms", "sub": "user:12", "tid": 7, "roles": ["viewer"], "tier": "authenticated", "sid": 31,
        "iat": int(NOW), "exp": int(NOW) + 900, "jti": "x",
    }  # fmt: skip
    signed = encoded(head) + b"." + encoded(body | claims)
    signature = urlsafe_b64encode(hmac.digest(key, signed, algorithm)).rstrip(b"=")
    return (signed + b"." + signature).decode()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens({"new": NEW, "old": OLD}, lambda: NOW)


def test_a_token_tells_who_it_was_issued_to(tokens: Tokens) -> None:
    assert tokens.verify(tokens.issue(ANA)) == ANA
    assert tokens.verify(forged()).tier == "authenticated"
    assert ANA.user_id == 12


def why(tokens: Tokens, token: str) -> Reason:
    with pytest.raises(InvalidToken) as caught:
        tokens.verify(token)
    assert token not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (forged({"alg": "none"}), "wrong-algorithm"),
        (forged({"alg": "HS512"}, algorithm="sha512"), "wrong-algorithm"),
        (forged({"alg": "RS256"}), "wrong-algorithm"),
        (forged({"alg": "hs256"}), "wrong-algorithm"),
        (forged({"typ": "at+jwt"}), "wrong-algorithm"),
        (forged({"kid": "other"}), "unknown-key"),
        (forged({"kid": ""}), "unknown-key"),
        (forged({"kid": "old"}), "wrong-signature"),
        (forged(key=b"z" * 32), "wrong-signature"),
        (forged(aud="other"), "wrong-audience"),
        (forged(iss="other"), "wrong-issuer"),
        (forged(exp=int(NOW) - LEEWAY_S), "expired"),
        (forged(iat=int(NOW) + LEEWAY_S + 1), "not-yet-valid"),
        (forged(sub="key:1"), "malformed"),
        (forged(sub="user:0"), "malformed"),
        (forged(tid=0), "malformed"),
        (forged(tid="7"), "malformed"),
        (forged(sid=0), "malformed"),
        (forged(sid=None), "malformed"),
        (forged(tier="anonymous"), "malformed"),
        (forged(aud=["wms"]), "malformed"),
        (forged(exp=None), "malformed"),
        (forged() + "A", "wrong-signature"),
        (forged() + "=", "malformed"),
        (forged().rpartition(".")[0] + ".", "wrong-signature"),
        (forged().rpartition(".")[0], "malformed"),
        (forged() + ".x", "malformed"),
        ("..", "malformed"),
        ("é.é.é", "malformed"),
        ("a" * 3000, "malformed"),
    ],
)
def test_a_token_that_is_not_good_is_refused_with_its_reason(tokens: Tokens, token: str, reason: str) -> None:
    assert why(tokens, token) == reason


def test_every_changed_character_is_noticed(tokens: Tokens) -> None:
    good = tokens.issue(ANA)
    for position, character in enumerate(good):
        other = "A" if character != "A" else "B"
        with pytest.raises(InvalidToken):
            tokens.verify(good[:position] + other + good[position + 1 :])


def test_clocks_may_differ_a_little_in_both_directions() -> None:
    token = Tokens({"k": NEW}, lambda: NOW).issue(ANA)
    for moment in (NOW - LEEWAY_S, NOW + LIFETIME_S + LEEWAY_S - 0.1):
        assert Tokens({"k": NEW}, partial(float, moment)).verify(token) == ANA
    assert why(Tokens({"k": NEW}, lambda: NOW + LIFETIME_S + LEEWAY_S), token) == "expired"


def test_keys_rotate_by_overlap() -> None:
    """As the stack gives them: the one that signs, the one before, the one after."""
    before = Tokens({"g1": OLD, "g2": NEW}, lambda: NOW)
    after = Tokens({"g2": NEW, "g1": OLD, "g3": b"3" * 32}, lambda: NOW)
    assert after.verify(before.issue(ANA)) == ANA, "issued before the rotation"
    assert before.verify(after.issue(ANA)) == ANA, "at a process that is not restarted yet"
    later = Tokens({"g3": b"3" * 32, "g2": NEW}, lambda: NOW)
    assert why(later, before.issue(ANA)) == "unknown-key"


def test_without_keys_no_token_is_made_or_taken(tokens: Tokens) -> None:
    with pytest.raises(RuntimeError):
        Tokens({}).issue(ANA)
    assert why(Tokens({}), tokens.issue(ANA)) == "unknown-key"


# Settings

LEAST = {"WMS_DB_PASSWORD": "x", "WMS_WORKER_PASSWORD": "y", "WMS_DB_SSLMODE": "disable"}


@pytest.mark.parametrize(
    "value", ["k:" + "s" * 31, "s" * 40, f"k:{'s' * 32},k:{'t' * 32}", f"k k:{'s' * 32}", f":{'s' * 32}"]
)
def test_wrong_keys_are_refused_and_not_shown(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(LEAST | {"WMS_JWT_KEYS": value})
    assert "WMS_JWT_KEYS" in str(caught.value)
    assert "sss" not in str(caught.value)


def test_the_first_key_signs() -> None:
    found = load(LEAST | {"WMS_JWT_KEYS": f"b:{'s' * 32},a:{'t' * 32}"})
    assert list(found.jwt_keys) == ["b", "a"]
    assert "ssss" not in repr(found)


# Endpoints


@pytest.fixture
def api() -> Harness:
    made = Harness()
    made.services.tokens = Tokens({"new": NEW}, lambda: NOW)
    return made


def bearer(api: Harness, *roles: str) -> dict[str, str]:
    token = api.services.tokens.issue(replace(ANA, roles=frozenset(roles)))
    return {"Authorization": f"Bearer {token}"}


def send(api: Harness, method: str, target: str, body: object, headers: Mapping[str, str] = AUTH) -> Response:
    sent = {"Content-Type": "application/json", "Idempotency-Key": "k1", **headers}
    return request(api.app, method, target, headers=sent, chunks=(msgspec.json.encode(body),))


def test_a_token_names_its_tenant_and_asks_nobody(api: Harness) -> None:
    headers = bearer(api, "viewer") | {"X-Tenant-Id": "8"}
    response = request(api.app, "GET", "/api/v1/configuration", headers=headers)
    assert response.status == 200
    assert api.database.asked == [("configuration_page", (7, None, 201))]
    assert [line["tenant_id"] for line in api.lines()] == [7]


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        ("", "missing"),
        ("Basic eDp5", "missing"),
        ("Bearer wms_wrong", "unknown-credential"),
        ("Bearer nonsense", "unknown-credential"),
        (f"Bearer {forged({'alg': 'none'})}", "wrong-algorithm"),
        (f"Bearer {forged(exp=int(NOW) - 3600)}", "expired"),
        (f"Bearer {forged({'kid': 'gone'})}", "unknown-key"),
    ],
)
def test_a_refused_credential_says_why_and_is_counted(api: Harness, credential: str, reason: str) -> None:
    response = request(api.app, "GET", "/api/v1/configuration", headers={"Authorization": credential})
    assert response.status == 401
    assert response.json["errors"][0]["detail"] == reason
    assert ("invalid_token" in response.headers["www-authenticate"]) == (reason != "missing")
    assert (
        f'wms_authentication_failures_total{{reason="{reason}"}} 1.0'
        in api.services.metrics.render().decode()
    )
    assert not api.database.asked


def test_a_missing_permission_is_403_and_named(api: Harness) -> None:
    headers = bearer(api, "picker", "receiver")
    for method, target, permission in (
        ("GET", "/api/v1/users", "users:admin"),
        ("GET", "/api/v1/api-keys", "keys:admin"),
        ("POST", "/api/v1/api-keys", "keys:admin"),
        ("DELETE", "/api/v1/api-keys/1", "keys:admin"),
        ("PUT", "/api/v1/users/12/active", "users:admin"),
        ("PUT", "/api/v1/configuration/x", "configuration:write"),
        ("POST", "/api/v1/tokens", "sessions:write"),
    ):
        response = send(api, method, target, {}, headers)
        assert response.status == 403
        assert permission in response.json["detail"]
        assert f'scope="{permission}"' in response.headers["www-authenticate"]
    assert not api.database.asked


NEW_USER = {
    "username": "ana",
    "display_name": "Ana",
    "password": "correct horse battery",
    "roles": ["viewer"],
}


@pytest.mark.parametrize(
    ("changes", "field", "status"),
    [
        ({"username": "Ana"}, "username", 400),
        ({"username": "ana\n"}, "username", 400),
        ({"username": ""}, "username", 400),
        ({"password": "short"}, "password", 400),
        ({"password": "x" * 129}, "password", 400),
        ({"password": "my name is ANA"}, "password", 422),
        ({"roles": ["emperor"]}, "roles[0]", 400),
        ({"roles": ["frontend"]}, "roles[0]", 400),
        ({"display_name": "a\x00b"}, "display_name", 400),
        ({"tenant_id": 8}, "tenant_id", 400),
    ],
)
def test_a_wrong_user_is_refused_by_field(
    api: Harness, changes: dict[str, object], field: str, status: int
) -> None:
    response = send(api, "POST", "/api/v1/users", NEW_USER | changes)
    assert response.status == status
    assert response.json["errors"][0]["field"] == field
    assert b"correct horse" not in response.body
    assert not api.database.asked


def test_a_password_reaches_the_database_only_as_its_hash(api: Harness) -> None:
    api.database.row = ("username_taken", None)
    assert send(api, "POST", "/api/v1/users", NEW_USER).status == 409
    assert send(api, "POST", "/api/v1/users", NEW_USER | {"password": "another long one"}).status == 409
    (_, first), (_, second) = api.database.asked
    assert "correct horse" not in repr(first)
    assert str(first[5]).startswith("scrypt$") and first[5] != second[5]
    assert first[2] == second[2], "the kept hash of the request says nothing of the password"


def test_signing_in_without_a_key_is_503(api: Harness) -> None:
    api.services.tokens = Tokens()
    response = send(api, "POST", "/api/v1/tokens", {"username": "ana", "password": "x"})
    assert (response.status, response.json["type"]) == (503, "urn:wms:problem:tokens-unavailable")


def test_a_password_is_guessed_at_ten_times_a_minute(api: Harness) -> None:
    api.services.settings = replace(api.services.settings, rate_sign_in=2)
    body = {"username": "ana", "password": "x"}
    statuses = [send(api, "POST", "/api/v1/tokens", body).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert send(api, "POST", "/api/v1/tokens", body | {"username": "rui"}).status == 401


def test_settings_allow_ten_guesses_by_default(api: Harness) -> None:
    assert api.services.settings.rate_sign_in == 10


@pytest.mark.parametrize("token", ["", "wmsr_short", "wms_" + "x" * 44, "wmsr_" + "x" * 42 + "/"])
def test_what_is_no_refresh_token_is_not_asked_about(api: Harness, token: str) -> None:
    assert send(api, "POST", "/api/v1/tokens/refresh", {"refresh_token": token}, {}).status == 400
    assert not api.database.asked


@pytest.mark.parametrize("outcome", ["unknown", "reused", "ended"])
def test_a_refused_refresh_is_one_answer(api: Harness, outcome: str) -> None:
    api.database.row = (outcome, None)
    response = send(api, "POST", "/api/v1/tokens/refresh", {"refresh_token": "wmsr_" + "x" * 43}, {})
    assert (response.status, response.json["errors"][0]["detail"]) == (401, "unknown-refresh-token")


def test_a_change_names_the_version_it_is_meant_for() -> None:
    assert expected_version({b"if-match": b'"12"'}) == 12
    assert expected_version({b"if-none-match": b"*"}) == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 428),
        ({b"if-match": b'W/"12"'}, 400),
        ({b"if-match": b"12"}, 400),
        ({b"if-match": b'"0"'}, 400),
        ({b"if-match": b"*"}, 400),
        ({b"if-match": b'"99999999999999999999"'}, 400),
        ({b"if-none-match": b'"1"'}, 400),
        ({b"if-match": b'"1"', b"if-none-match": b"*"}, 400),
    ],
)
def test_a_change_for_no_version_is_refused(headers: Mapping[bytes, bytes], status: int) -> None:
    with pytest.raises(Problem) as caught:
        expected_version(headers)
    assert caught.value.status == status


@pytest.mark.parametrize("key", ["Upper", "1st", "a%0A", "x" * 65])
def test_a_wrong_configuration_key_is_named(api: Harness, key: str) -> None:
    response = send(api, "PUT", f"/api/v1/configuration/{key}", {"value": 1}, AUTH | {"If-Match": '"1"'})
    assert (response.status, response.json["errors"][0]["field"]) == (400, "key")
