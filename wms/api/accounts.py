"""Users of a tenant, and what their roles allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wms.api import cached, commands
from wms.api.authentication import forbidden
from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply, nothing_kept
from wms.api.pages import Page, PageParams, after, page
from wms.api.passwords import check_new, count_guess, hashed, matches
from wms.api.problem import Problem, wrong_field
from wms.api.rules import GivenPassword, Id, Name, NewPassword, Role, Username
from wms.cache import keys
from wms.cache.cache import Effect, Put
from wms.domain.roles import permissions_of
from wms.store import accounts

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
    password: NewPassword
    roles: Roles


class UserParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user."""

    user_id: Id


class RolesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All roles that a user has afterwards."""

    roles: Roles


class ActiveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the user may do anything."""

    active: bool


class PasswordRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password as it is, and as it shall be."""

    old_password: GivenPassword
    new_password: NewPassword


class PasswordChanged(msgspec.Struct, frozen=True):
    """How many sessions of the user were ended: all but the one that asked."""

    sessions_ended: int


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
    _check_roles(call, asked.roles)
    check_new("password", asked.password, asked.username)
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
    _check_roles(call, call.body.roles)
    changed = await accounts.set_roles(call.services.database, call.tenant_id, user_id, call.body.roles)
    if changed.outcome == "unknown_user":
        raise _unknown(user_id)
    return _changed(user_id, changed)


async def set_active(call: Call[UserParams, ActiveRequest]) -> Reply:
    """Let a user in again, or put it out; nobody locks himself out."""
    user_id, active = call.params.user_id, call.body.active
    if call.principal.user_id == user_id and not active:
        raise Problem(409, "own-account", "nobody can put himself out: another administrator can")
    changed = await accounts.set_active(call.services.database, call.tenant_id, user_id, active)
    if changed.outcome == "unknown_user":
        raise _unknown(user_id)
    return _changed(user_id, changed)


async def set_password(call: Call[UserParams, PasswordRequest]) -> Reply:
    """Change one's own password."""
    services, asked, user_id = call.services, call.body, call.params.user_id
    if call.principal.user_id != user_id:
        raise Problem(403, "forbidden", "a password is changed by its own user, with an access token")
    await count_guess(services, call.tenant_id, f"user:{user_id}")
    found = await accounts.password(services.database, call.tenant_id, user_id)
    if found is None:
        raise _unknown(user_id)
    username, stored = found
    check_new("new_password", asked.new_password, username)
    if asked.new_password == asked.old_password:
        raise wrong_field("new_password", "body", "the old one", "another password", status=422)
    if not await matches(asked.old_password, stored):
        services.metrics.refused_credentials.labels("wrong-credentials").inc()
        raise wrong_field("old_password", "body", "wrong", "the user's password", status=422)
    changed = await accounts.change_password(
        services.database,
        call.tenant_id,
        user_id,
        stored,
        await hashed(asked.new_password),
        call.principal.session_id,
    )
    if changed.outcome == "changed":
        raise Problem(409, "password-changed", "another request has changed it meanwhile: sign in again")
    answer = msgspec.json.decode(changed.answer, type=PasswordChanged)
    return Reply(answer, commit=changed.commit)


def _check_roles(call: Call[Any, Any], roles: Sequence[str]) -> None:
    """Raises Problem 403 when the roles allow more than the caller is allowed."""
    missing = call.principal.lacks(roles)
    if missing:
        raise forbidden(call.principal, missing[0])


def _changed(user_id: int, changed: accounts.Changed) -> Reply:
    """The answer to a change of what a user may do."""
    found = msgspec.json.decode(changed.answer, type=accounts.Access)
    return Reply(_permissions(user_id, found), commit=changed.commit)


def _changes(call: Call[Any, Any], user: User | Permissions) -> Iterable[Effect]:
    """Write-through of what getPermissions reads."""
    access = accounts.Access(user.username, user.active, list(user.roles))
    return [Put(keys.permissions(call.tenant_id, user.user_id), access)]


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
        changes=_changes,
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
        changes=_changes,
    ),
    Operation(
        method="PUT",
        path="/api/v1/users/{user_id}/active",
        name="setActive",
        summary="Put a user out, or let it in again",
        description=(
            "Putting out ends its sessions: no token of them is exchanged any more, and access tokens that are out are "
            "good for nothing a few seconds later. Nobody can put himself out."
        ),
        handler=set_active,
        params=UserParams,
        body=ActiveRequest,
        answers={200: Answer(Permissions, "What the user may do now.")},
        problems={404: "The tenant has no such user.", 409: "One's own account."},
        permission="users:admin",
        changes=_changes,
    ),
    Operation(
        method="PUT",
        path="/api/v1/users/{user_id}/password",
        name="setPassword",
        summary="Change one's own password",
        description=(
            "With an access token of this user. The user's other sessions end, as in setActive; this one goes on. Ten "
            "attempts a minute."
        ),
        handler=set_password,
        params=UserParams,
        body=PasswordRequest,
        answers={200: Answer(PasswordChanged, "Changed.")},
        problems={
            403: "Another user's, or with an API key.",
            404: "The user is not active any more.",
            409: "Another request has changed it meanwhile.",
            422: "The old password is wrong, or the new one is it, or contains the user name.",
        },
        changes=nothing_kept,
    ),
)
