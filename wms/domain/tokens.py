"""Access tokens: JWTs signed with HMAC-SHA256, made and verified here and nowhere else. Pure but for the clock.

Verification asks nobody. There is one algorithm: a token that names another one is refused before any key is looked
at, so no token can choose how it is checked (RFC 8725 §3.1). Keys rotate by overlap: every key given verifies, the
first one signs (docs/adr/0019-signing-keys.md).
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from time import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wms.domain.roles import Principal

LIFETIME_S = 900
"""How long a token is good, unless its session ends (wms/store/ended.py); what its user may do is decided when it is
issued, so this bounds how long a taken role lasts."""
LEEWAY_S = 30
"""Difference between the clocks of two processes that is forgiven (RFC 7519 §4.1.4: a few minutes at most)."""
ISSUER = "wms"
AUDIENCE = "wms"
MAX_LENGTH = 2048

Reason = Literal[
    "malformed",
    "wrong-algorithm",
    "unknown-key",
    "wrong-signature",
    "wrong-issuer",
    "wrong-audience",
    "not-yet-valid",
    "expired",
]


class InvalidToken(Exception):
    """The token is not good; nothing of it is in the text."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str = ""
    typ: str = "JWT"


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    sub: Annotated[str, Meta(pattern=r"^user:[1-9][0-9]{0,18}$")]
    tid: Annotated[int, Meta(ge=1)]
    roles: list[str]
    tier: Literal["authenticated", "premium"]
    sid: Annotated[int, Meta(ge=1)]
    iat: int
    exp: int
    jti: str


class Tokens:
    """Makes and verifies access tokens with `keys`: key id → secret of at least 32 bytes (RFC 7518 §3.2), of which the
    first one signs. Without keys it makes none and accepts none.
    """

    def __init__(self, keys: Mapping[str, bytes] | None = None, clock: Callable[[], float] = time) -> None:
        self._keys = dict(keys or {})
        self._clock = clock
        self._headers = {
            kid: _base64(msgspec.json.encode(_Header("HS256", kid))) + b"." for kid in self._keys
        }

    @property
    def available(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._keys)

    def issue(self, principal: Principal) -> str:
        """A token for a user in a session. Raises RuntimeError without a key."""
        kid = next(iter(self._keys), None)
        if kid is None or principal.tier == "anonymous" or not principal.session_id:
            raise RuntimeError("no key to sign with, or nobody to sign for")
        now = int(self._clock())
        claims = _Claims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=principal.subject,
            tid=principal.tenant_id,
            roles=sorted(principal.roles),
            tier=principal.tier,
            sid=principal.session_id,
            iat=now,
            exp=now + LIFETIME_S,
            jti=secrets.token_hex(8),
        )
        signed = self._headers[kid] + _base64(msgspec.json.encode(claims))
        return (signed + b"." + _base64(self._sign(kid, signed))).decode()

    def verify(self, token: str) -> Principal:
        """Who the token was issued to. Raises InvalidToken."""
        if len(token) > MAX_LENGTH or not token.isascii():
            raise InvalidToken("malformed")
        signed, _, signature = token.encode().rpartition(b".")
        first, dot, second = signed.partition(b".")
        if not dot or b"." in second:
            raise InvalidToken("malformed")
        # A header that we wrote is known by its bytes; only a foreign one is parsed, to say what is wrong with it.
        kid = next((kid for kid, header in self._headers.items() if header[:-1] == first), None)
        if kid is None:
            kid = self._key_of(first)
        if not hmac.compare_digest(_bytes(signature), self._sign(kid, signed)):
            raise InvalidToken("wrong-signature")
        return self._principal(second)

    def _key_of(self, raw: bytes) -> str:
        try:
            header = msgspec.json.decode(_bytes(raw), type=_Header)
        except msgspec.MsgspecError:
            raise InvalidToken("malformed") from None
        if header.alg != "HS256" or header.typ.upper() != "JWT":
            raise InvalidToken("wrong-algorithm")
        if header.kid not in self._keys:
            raise InvalidToken("unknown-key")
        return header.kid

    def _principal(self, raw: bytes) -> Principal:
        try:
            claims = msgspec.json.decode(_bytes(raw), type=_Claims)
        except msgspec.MsgspecError:
            raise InvalidToken("malformed") from None
        if claims.iss != ISSUER:
            raise InvalidToken("wrong-issuer")
        if claims.aud != AUDIENCE:
            raise InvalidToken("wrong-audience")
        now = self._clock()
        if now < claims.iat - LEEWAY_S:
            raise InvalidToken("not-yet-valid")
        if now >= claims.exp + LEEWAY_S:
            raise InvalidToken("expired")
        return Principal(claims.tid, claims.sub, frozenset(claims.roles), claims.tier, claims.sid)

    def _sign(self, kid: str, text: bytes) -> bytes:
        return hmac.digest(self._keys[kid], text, "sha256")


def _base64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def _bytes(text: bytes) -> bytes:
    """Raises InvalidToken. Two spellings of one value would be two tokens: only the canonical one is taken."""
    try:
        raw = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        raise InvalidToken("malformed") from None
    if _base64(raw) != text:
        raise InvalidToken("malformed")
    return raw
