"""Who asks and what that allows: principals, roles and their permissions. Pure.

A permission is "<what>:<read|write|admin>". A role is a fixed set of them; a principal has the permissions of all its
roles. An operation names the one permission that it needs (wms/api/operation.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Tier = Literal["anonymous", "authenticated", "premium"]
"""How many requests a minute a principal may send (row A3)."""

_READ = frozenset(
    {
        "stock:read",
        "orders:read",
        "picking:read",
        "receiving:read",
        "shipping:read",
        "analytics:read",
        "configuration:read",
    }
)
_SUPERVISOR = _READ | {"stock:write", "orders:write", "picking:write", "receiving:write", "shipping:write"}

ROLES: dict[str, frozenset[str]] = {
    "viewer": _READ,
    "picker": frozenset({"stock:read", "orders:read", "picking:read", "picking:write", "configuration:read"}),
    "receiver": frozenset(
        {"stock:read", "stock:write", "receiving:read", "receiving:write", "configuration:read"}
    ),
    "supervisor": _SUPERVISOR,
    "administrator": _SUPERVISOR | {"configuration:write", "users:admin", "keys:admin", "sessions:write"},
}
"""What users may be given. Only an administrator changes users and configuration."""

FRONTEND = "frontend"
KEY_ROLES: dict[str, frozenset[str]] = ROLES | {FRONTEND: frozenset({"sessions:write"})}
"""What API keys may be given. `frontend` can sign users in and nothing else: a key that ships with a web page or a
handheld opens no door by itself."""

PERMISSIONS: frozenset[str] = frozenset().union(*KEY_ROLES.values())


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: everything here comes from the credential.

    `subject` is `key:<id>` for an API key, `user:<id>` for a user with a token, empty without a credential.
    `session_id` is the session that the token belongs to, 0 without one.
    """

    tenant_id: int
    subject: str
    roles: frozenset[str]
    tier: Tier
    session_id: int = 0

    def may(self, permission: str) -> bool:
        """Whether one of the roles has `permission`. An unknown role has none."""
        return permission in _allowed(self.roles)

    def lacks(self, roles: Iterable[str]) -> list[str]:
        """The permissions of `roles` that it has not itself, in order: nobody gives away more than he has.

        Raises KeyError for an unknown role.
        """
        return [permission for permission in permissions_of(roles) if not self.may(permission)]

    @property
    def user_id(self) -> int | None:
        """The user behind a token; None for an API key."""
        kind, _, number = self.subject.partition(":")
        return int(number) if kind == "user" else None


NOBODY = Principal(0, "", frozenset(), "anonymous")
"""The principal of a request to a public operation."""


@lru_cache(maxsize=1024)
def _allowed(roles: frozenset[str]) -> frozenset[str]:
    """The permissions of roles; asked for with every request."""
    return frozenset().union(*(KEY_ROLES.get(role, ()) for role in roles))


def permissions_of(roles: Iterable[str]) -> list[str]:
    """All permissions of `roles`, in order. Raises KeyError for an unknown role."""
    return sorted(frozenset().union(*(KEY_ROLES[role] for role in roles)))
