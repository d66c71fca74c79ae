"""Who asks: `Authorization: Bearer` with an API key (wms_…) or an access token (a JWT), as RFC 6750 has it.

The tenant, the roles and the tier come from the credential and from nowhere else. An API key is looked up in the
database and believed for WMS_API_KEY_TTL_S; a token is verified in this process. Both are good for nothing moments
after the key was revoked or the session ended (wms/store/ended.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from wms.api.problem import FieldError, Problem
from wms.domain.roles import Principal
from wms.domain.tokens import MAX_LENGTH, InvalidToken, Tokens
from wms.store.ended import Ended
from wms.store.keys import KEY_PREFIX, ApiKeys

_MAX_KEY = 256


async def authenticate(
    headers: Mapping[bytes, bytes], keys: ApiKeys, tokens: Tokens, ended: Ended
) -> Principal:
    """The principal of a request's credential.

    Raises Problem 401 with the reason class as the detail of its one error (missing, unknown-credential, session-ended,
    or one of tokens.Reason), Unavailable when an API key must be looked up and cannot.
    """
    scheme, _, raw = headers.get(b"authorization", b"").partition(b" ")
    credential = raw.strip().decode("latin-1")
    if scheme.lower() != b"bearer" or not credential:
        raise unauthenticated("missing")
    if credential.startswith(KEY_PREFIX):
        principal = await keys.principal_of(credential) if len(credential) <= _MAX_KEY else None
        if principal is None:
            raise unauthenticated("unknown-credential")
        return principal
    if credential.count(".") != 2 or len(credential) > MAX_LENGTH:
        raise unauthenticated("unknown-credential")
    try:
        found = tokens.verify(credential)
    except InvalidToken as error:
        raise unauthenticated(error.reason) from None
    if ended.has(found):
        raise unauthenticated("session-ended")
    return found


_TEXTS = {
    "missing": "send Authorization: Bearer with an API key or an access token",
    "unknown-credential": "this API key is unknown or revoked",
    "expired": "the access token has expired: refresh it",
    "session-ended": "the session of this access token has ended: sign in again",
    "wrong-credentials": "user name or password is wrong",
    "unknown-refresh-token": "this refresh token is unknown, used or expired: sign in again",
}


def unauthenticated(reason: str) -> Problem:
    """401; `reason` is for programs, and says nothing of the credential itself."""
    challenge = 'Bearer realm="wms"'
    if reason != "missing":
        challenge += f', error="invalid_token", error_description="{reason}"'
    error = FieldError(
        field="Authorization",
        location="header",
        detail=reason,
        allowed="Bearer with an API key or an access token",
    )
    text = _TEXTS.get(reason, f"the access token is not good: {reason}")
    return Problem(401, "unauthenticated", text, errors=(error,), headers={"www-authenticate": challenge})


def forbidden(principal: Principal, permission: str) -> Problem:
    """403 that names the permission that is missing and where it could come from (RFC 6750 §3.1)."""
    having = sorted(principal.roles)
    return Problem(
        403,
        "forbidden",
        f"this needs the permission {permission}; the roles {', '.join(having) or '(none)'} do not have it",
        headers={"www-authenticate": f'Bearer realm="wms", error="insufficient_scope", scope="{permission}"'},
    )
