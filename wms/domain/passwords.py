"""Passwords of users, kept as scrypt hashes (RFC 7914). Pure but for the salt.

N = 2^14, r = 8, p = 5 is one of the settings of equal strength in OWASP's Password Storage Cheat Sheet, the one with 16
MiB of memory for each check: a process of the service checks one at a time. A stored hash carries its parameters, so
that they can be raised without anybody's password being changed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode

COST, BLOCK_SIZE, PARALLEL = 2**14, 8, 5
_SALT_BYTES, _KEY_BYTES = 16, 32
_MAX_MEMORY = 64 * 1024 * 1024
MIN_LENGTH, MAX_LENGTH = 12, 128


def hash_of(password: str, salt: bytes | None = None) -> str:
    """`scrypt$N$r$p$salt$key`, salt and key in base64; takes about a quarter of a second."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    key = _derive(password, salt, COST, BLOCK_SIZE, PARALLEL)
    return f"scrypt${COST}${BLOCK_SIZE}${PARALLEL}${b64encode(salt).decode()}${b64encode(key).decode()}"


def matches(password: str, stored: str) -> bool:
    """Whether `stored` was made from `password`, in constant time. Raises ValueError when it is no such hash."""
    name, cost, block_size, parallel, salt, key = stored.split("$")
    if name != "scrypt":
        raise ValueError("not a scrypt hash")
    found = _derive(password, b64decode(salt), int(cost), int(block_size), int(parallel))
    return hmac.compare_digest(found, b64decode(key))


def _derive(password: str, salt: bytes, cost: int, block_size: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=cost,
        r=block_size,
        p=parallel,
        maxmem=_MAX_MEMORY,
        dklen=_KEY_BYTES,
    )


NOBODYS = (
    f"scrypt${COST}${BLOCK_SIZE}${PARALLEL}${b64encode(bytes(16)).decode()}${b64encode(bytes(32)).decode()}"
)
"""A hash that no password has: checked when there is no user, so that the time does not tell who exists."""
