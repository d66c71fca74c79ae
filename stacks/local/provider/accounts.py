"""Which system user servers run as, and whether that user can reach a path."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass

from stacks.local.provider.errors import ProviderError


@dataclass(frozen=True)
class Account:
    """A system user."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]

    @property
    def is_current(self) -> bool:
        """Whether this process runs as that user."""
        return self.uid == os.geteuid()


def operator() -> Account:
    """The user that runs Pulumi."""
    entry = pwd.getpwuid(os.geteuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, frozenset(os.getgroups()))


def service(user: str) -> Account:
    """The user servers run as: `user`, or the current one for "".

    Raises ProviderError when there is no such user, when it cannot be assumed, or when it would be root.
    """
    if user:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ProviderError(
                f"there is no system user {user!r}",
                f"Make it: useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin {user}",
            ) from None
        groups = frozenset(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)
        account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)
    else:
        account = operator()
    if account.uid == 0:
        raise ProviderError("servers do not run as root", "Set the input user to an unprivileged system user")
    if not account.is_current and os.geteuid() != 0:
        raise ProviderError(
            f"only root can start servers as {account.name!r}; this is {operator().name!r}",
            "Leave the input user empty, or run as root",
        )
    return account


def require_reachable(path: str, account: Account) -> None:
    """Raise ProviderError naming the first folder above `path` that `account` may not pass through."""
    parts = os.path.abspath(path).split("/")[1:-1]
    for depth in range(len(parts) + 1):
        folder = "/" + "/".join(parts[:depth])
        try:
            found = os.stat(folder)
        except FileNotFoundError:
            return
        if found.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif found.st_gid == account.gid or found.st_gid in account.groups:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            raise ProviderError(
                f"user {account.name} cannot reach {path}: {folder} does not let it pass",
                f"Choose another place, or chmod o+x {folder}",
            )
