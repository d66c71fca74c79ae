"""Signing in: an access token for a quarter of an hour, and a refresh token to get the next one.

These POSTs take no Idempotency-Key: what they answer is a secret, and answers of idempotent requests are kept. Sent
twice, the first opens a second session and does no harm. A refresh token is good once; one that comes back after its
use has been copied, and the session ends for whoever holds it (RFC 9700 §4.14.2).
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from wms.api.authentication import unauthenticated
from wms.api.operation import Answer, Call, Nothing, Operation, Reply, Services
from wms.api.passwords import count_guess, matches
from wms.api.problem import Problem
from wms.api.rules import GivenPassword, Username
from wms.domain.passwords import NOBODYS
from wms.domain.roles import permissions_of
from wms.domain.tokens import LIFETIME_S
from wms.store import accounts
from wms.store.accounts import REFRESH_PREFIX, Session

_logger = logging.getLogger("wms.api")

RefreshToken = Annotated[
    str,
    Meta(
        # 32 bytes in base64. The length stands in the pattern, so that tools can make one from the description.
        pattern=rf"^{REFRESH_PREFIX}[A-Za-z0-9_-]{{43}}$(?!\n)",
        description="Good once.",
    ),
]


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user of the credential's tenant."""

    username: Username
    password: GivenPassword


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token that came with the last access token."""

    refresh_token: RefreshToken


class Signed(msgspec.Struct, frozen=True):
    """A pair of tokens; `expires_in` is in seconds. The session ends at `session_expires_at`."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    session_expires_at: datetime
    user_id: int
    roles: list[str]
    permissions: list[str]


class SignedOut(msgspec.Struct, frozen=True):
    """There is no such session any more."""

    status: str


async def sign_in(call: Call[Nothing, SignIn]) -> Reply:
    """Check a password and open a session."""
    services, asked = call.services, call.body
    _need_keys(services)
    await count_guess(services, call.tenant_id, asked.username)
    found = await accounts.credentials(services.database, call.tenant_id, asked.username)
    user_id, stored = found or (0, NOBODYS)
    if not await matches(asked.password, stored) or not user_id:
        raise _refused(services, "wrong-credentials")
    token = accounts.new_refresh_token()
    tier = call.principal.tier
    session = await accounts.open_session(services.database, call.tenant_id, user_id, stored, token, tier)
    if session is None:
        raise _refused(services, "wrong-credentials")
    return Reply(_signed(services, session, token), 201)


async def refresh(call: Call[Nothing, Refresh]) -> Reply:
    """Exchange a refresh token for a new pair."""
    services = call.services
    _need_keys(services)
    successor = accounts.new_refresh_token()
    session = await accounts.refresh_session(services.database, call.body.refresh_token, successor)
    if isinstance(session, str):
        if session == "reused":
            _logger.warning("a used refresh token came again: its session was ended")
        raise _refused(services, "unknown-refresh-token")
    return Reply(_signed(services, session, successor), 201)


async def sign_out(call: Call[Nothing, Refresh]) -> Reply:
    """End a session; of an unknown token nothing more is said (RFC 7009 §2.2)."""
    await accounts.end_session(call.services.database, call.body.refresh_token)
    return Reply(SignedOut("signed-out"))


def _need_keys(services: Services) -> None:
    if not services.tokens.available:
        raise Problem(
            503, "tokens-unavailable", "the service has no key to sign tokens with: set WMS_JWT_KEYS"
        )


def _refused(services: Services, reason: str) -> Problem:
    services.metrics.refused_credentials.labels(reason).inc()
    return unauthenticated(reason)


def _signed(services: Services, session: Session, refresh_token: str) -> Signed:
    return Signed(
        access_token=services.tokens.issue(session.principal()),
        token_type="Bearer",
        expires_in=LIFETIME_S,
        refresh_token=refresh_token,
        session_expires_at=session.expires_at,
        user_id=session.user_id,
        roles=session.roles,
        permissions=permissions_of(session.roles),
    )


_UNAVAILABLE = "No key to sign with, or the database did not answer in time."
OPERATIONS = (
    Operation(
        method="POST",
        path="/api/v1/tokens",
        name="signIn",
        summary="Sign a user in",
        description=(
            "With an API key of the tenant whose user it is; one with the role frontend can do nothing else. Ten "
            "attempts a minute for each user name."
        ),
        handler=sign_in,
        params=Nothing,
        body=SignIn,
        answers={201: Answer(Signed, "An access token and a refresh token.")},
        problems={503: _UNAVAILABLE},
        permission="sessions:write",
    ),
    Operation(
        method="POST",
        path="/api/v1/tokens/refresh",
        name="refreshToken",
        summary="Exchange a refresh token for a new pair",
        description="The roles are those that the user has now. A refresh token that comes twice ends its session.",
        handler=refresh,
        params=Nothing,
        body=Refresh,
        answers={201: Answer(Signed, "An access token and a refresh token.")},
        problems={401: "The refresh token is unknown, used, or its session is over.", 503: _UNAVAILABLE},
        public=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/tokens/revoke",
        name="signOut",
        summary="End a session",
        description="Its access tokens are good for nothing a few seconds later.",
        handler=sign_out,
        params=Nothing,
        body=Refresh,
        answers={200: Answer(SignedOut, "There is no such session any more.")},
        problems={503: "The database did not answer in time."},
        public=True,
    ),
)
