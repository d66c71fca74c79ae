"""The folder of one local platform (`home`): its marker, its parts, and writing inside it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from stacks.local.provider.accounts import Account, operator
from stacks.local.provider.errors import ProviderError, explained

MARKER = ".wms-platform"
"""The file that proves that a folder is ours to change and to delete."""

PARTS = ("nodes", "supervisor", "release", "pki")
"""Its standing folders."""

PLAIN = re.compile(r"/[A-Za-z0-9._/@+-]+\Z")
SOCKET_LIMIT = 107
"""Longest path of a unix socket on Linux (sockaddr_un, unix(7)), less the final zero."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


def supervisor_socket(home: str) -> str:
    """Path of the supervisor's socket."""
    return f"{home}/supervisor/supervisor.sock"


def node_folder(home: str, node: str) -> str:
    """The folder below which every process of `node` has its working directory."""
    return f"{home}/nodes/{node}"


def home_problem(home: str) -> str:
    """Why `home` cannot be a platform's folder, or ""."""
    if not PLAIN.match(home) or os.path.normpath(home) != home:
        return f"{home!r} must be a normalized absolute path of letters, digits and ._@+-"
    if len(home.strip("/").split("/")) < 2:
        return f"{home!r} is too close to the root of the file system: choose a folder of its own"
    # supervisord binds <socket>.<pid> first and links it to its name.
    if len(supervisor_socket(home)) + len(".4194304") > SOCKET_LIMIT:
        return f"{home!r} is too long: its supervisor's socket must fit into {SOCKET_LIMIT} bytes"
    return ""


def inside_problem(home: str, path: str) -> str:
    """Why `path` is not a path below `home`, or ""."""
    if os.path.normpath(path) != path or not path.startswith(f"{home}/"):
        return f"{path!r} is not below {home!r}"
    if os.path.basename(path) == MARKER:
        return f"{path!r} is the marker of the platform's folder"
    return ""


def is_ours(home: str) -> bool:
    """Whether `home` bears our marker."""
    return os.path.isfile(os.path.join(home, MARKER))


def require_ours(home: str) -> None:
    """Raise ProviderError unless `home` is a sane path that bears our marker."""
    problem = home_problem(home)
    if problem:
        raise ProviderError(problem)
    if not is_ours(home):
        raise ProviderError(
            f"{home} is not a platform's folder: it has no {MARKER}",
            "If it was removed by hand, run pulumi up --refresh: that makes the supervisor's folder again",
        )


def claim(home: str) -> None:
    """Make `home` and its marker. Raises ProviderError when something else lives there."""
    if is_ours(home):
        return
    for part in PARTS:
        if os.path.lexists(os.path.join(home, part)):
            raise ProviderError(
                f"{home} holds {part}/ but no {MARKER}: it is not a folder of this platform",
                "Choose another WMS_HOME, or move that folder away",
            )
    with explained(f"cannot make {home}"):
        os.makedirs(home, mode=0o755, exist_ok=True)
        os.chmod(home, 0o755)
    write(f"{home}/{MARKER}", json.dumps({"made_by": "wms-platform", "layout": 1}) + "\n", 0o644, operator())


def folder(path: str, owner: Account, mode: int) -> None:
    """Make `path` if need be, with owner and mode; its parent must exist."""
    with explained(f"cannot make the folder {path}"):
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if os.path.islink(path) or not os.path.isdir(path):
                raise NotADirectoryError(20, "not a folder") from None
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(handle)
            if (found.st_uid, found.st_gid) != (owner.uid, owner.gid):
                os.fchown(handle, owner.uid, owner.gid)
            if found.st_mode & 0o7777 != mode:
                os.fchmod(handle, mode)
        finally:
            os.close(handle)


def folders(home: str, path: str, owner: Account) -> None:
    """Make the missing folders from `home` down to `path`; existing ones stay as they are."""
    here = home
    for part in Path(path).relative_to(home).parts:
        here = f"{here}/{part}"
        if not os.path.isdir(here) or os.path.islink(here):
            folder(here, owner, 0o755 if owner.uid == operator().uid else 0o750)


def write(path: str, text: str, mode: int, owner: Account) -> None:
    """Put `text` at `path`, all or nothing, also across a crash: temporary file, fsync, rename, fsync of the
    folder.

    Raises ProviderError ("cannot write …: No space left on device").
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(4)}.new")
    with explained(f"cannot write {path}"):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                if owner.uid != os.geteuid() or owner.gid != os.getegid():
                    os.fchown(file.fileno(), owner.uid, owner.gid)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            remove_file(temporary)
            raise
        handle = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_file(path: str) -> None:
    """Unlink `path`; a missing one is fine."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Remove a folder with all it holds; a missing one is fine. A symbolic link is
    removed, never followed.
    """
    with explained(f"cannot remove {path}"):
        if os.path.islink(path) or os.path.isfile(path):
            remove_file(path)
        elif os.path.isdir(path):
            shutil.rmtree(path)


def remove_empty(path: str, home: str) -> None:
    """Remove `path` and the folders above it while they are empty, up to the standing folders of `home`."""
    while path.startswith(f"{home}/") and os.path.dirname(path) != home:
        try:
            os.rmdir(path)
        except OSError:
            return
        path = os.path.dirname(path)
