"""Users of a tenant, and what their roles allow."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wms.api import cached, commands
from wms.api.authentication import forbidden
from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.passwords import hashed
from wms.api.problem import Problem, wrong_field
from wms.api.stock import Id
from wms.cache import keys
from wms.domain.passwords import MAX_LENGTH, MIN_LENGTH
from wms.domain.roles import permissions_of
from wms.store import accounts

# (?!\n): in Python, $ also matches before a last line feed.
Username = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9][a-z0-9._-]*$(?!\n)",
        description="In lower case, unique in the tenant.",
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
Password = Annotated[str, Meta(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
Role = Literal["viewer", "picker", "receiver", "supervisor", "administrator"]
Roles = Annotated[list[Role], Meta(max_length=5)]


class User(msgspec.Struct, frozen=True):
    """A user. Nothing of the password is ever shown."""

    user_id: int
    username: str
    display_name: str
    active: bool
    roles: list[Role]
    created_at: datetime
    updated_at: datetime


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user to be."""

    username: Username
    display_name: Name
    password: Password
    roles: Roles


class UserParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user."""

    user_id: Id


class RolesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All roles that a user has afterwards."""

    roles: Roles


class Permissions(msgspec.Struct, frozen=True):
    """What a user may do, by all roles together. A user who is not active may do nothing."""

    user_id: int
    username: str
    active: bool
    roles: list[Role]
    permissions: list[str]


class ListParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A page of users."""


async def list_users(call: Call[ListParams, Nothing]) -> Reply:
    """A page of users, by name."""
    (last,) = after(call, tuple[str]) or (None,)
    rows = await accounts.users(call.services.database, call.tenant_id, last, call.params.limit + 1)
    return Reply(page(call, rows, key=lambda row: (row[1],), item=lambda row: User(*row)))


async def create(call: Call[Nothing, NewUser]) -> Reply:
    """A new user, once per idempotency key."""
    asked = call.body
    commands.idempotency_key(call.headers)
    if asked.username in asked.password.lower():
        raise wrong_field("password", "body", "contains the user name", "a password without it", status=422)
    arguments = (asked.username, asked.display_name, await hashed(asked.password), list(asked.roles))
    # The hash of a request is kept, and it is a fast one: the password stays out of it.
    told = msgspec.structs.replace(call, body=msgspec.structs.replace(asked, password=""))
    return await commands.execute(
        told,
        accounts.CREATE_USER,
        arguments,
        User,
        {
            "username_taken": lambda _answer: Problem(
                409, "username-taken", f"there is a user {asked.username} already"
            )
        },
    )


async def show_permissions(call: Call[UserParams, Nothing]) -> Reply:
    """Roles and permissions of a user: one's own, or anybody's for an administrator."""
    user_id = call.params.user_id
    if call.principal.user_id != user_id and not call.principal.may("users:admin"):
        raise forbidden(call.principal, "users:admin")
    found = await cached.access(call.services, call.tenant_id, user_id)
    if found is None:
        raise _unknown(user_id)
    return Reply(_permissions(user_id, found))


async def set_roles(call: Call[UserParams, RolesRequest]) -> Reply:
    """Replace a user's roles."""
    user_id = call.params.user_id
    changed = await accounts.set_roles(call.services.database, call.tenant_id, user_id, call.body.roles)
    if changed.outcome == "unknown_user":
        raise _unknown(user_id)
    found = msgspec.json.decode(changed.answer, type=accounts.Access)
    reply = Reply(_permissions(user_id, found), headers=((b"wms-commit-lsn", changed.commit_lsn.encode()),))
    return await cached.changed(call, reply, keys.permissions(call.tenant_id, user_id))


def _permissions(user_id: int, found: accounts.Access) -> Permissions:
    allowed = permissions_of(found.roles) if found.active else []
    roles = msgspec.convert(found.roles, list[Role])
    return Permissions(user_id, found.username, found.active, roles, allowed)


def _unknown(user_id: int) -> Problem:
    return Problem(404, "unknown-user", f"there is no user {user_id}")


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/users",
        name="listUsers",
        summary="Users, by name",
        handler=list_users,
        params=ListParams,
        answers={200: Answer(Page[User], "A page of users.")},
        permission="users:admin",
        cache=CachePolicy(keys=("user",)),
    ),
    Operation(
        method="POST",
        path="/api/v1/users",
        name="createUser",
        summary="Create a user",
        description=f"{commands.ONCE} The password is not compared: of two requests with one key the first decides.",
        handler=create,
        params=Nothing,
        body=NewUser,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(User, "Created, now or by an earlier request with this key.")},
        problems={
            409: "The user name is taken, or a request with this key is still at work.",
            422: "The password contains the user name, or the key was used for another request.",
        },
        permission="users:admin",
    ),
    Operation(
        method="GET",
        path="/api/v1/users/{user_id}/permissions",
        name="getPermissions",
        summary="Roles and permissions of a user",
        description="A user may see its own; those of others need users:admin.",
        handler=show_permissions,
        params=UserParams,
        answers={200: Answer(Permissions, "The roles and what they allow.")},
        problems={403: "Another user's, without users:admin.", 404: "The tenant has no such user."},
        cache=CachePolicy(keys=("user:{user_id}",)),
    ),
    Operation(
        method="PUT",
        path="/api/v1/users/{user_id}/roles",
        name="setRoles",
        summary="Replace the roles of a user",
        description=(
            "Access tokens that are out keep their roles until they expire, at most 15 minutes; a refreshed one has "
            "the new ones."
        ),
        handler=set_roles,
        params=UserParams,
        body=RolesRequest,
        answers={200: Answer(Permissions, "The roles now.")},
        problems={404: "The tenant has no such user."},
        permission="users:admin",
    ),
)
