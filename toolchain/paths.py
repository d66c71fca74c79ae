"""Where things are. Nothing here creates anything."""

from __future__ import annotations

import os
from pathlib import Path

from toolchain.errors import ToolchainError

NAME = "wms-platform"
CHECKOUT = Path(__file__).resolve().parent.parent


def is_root() -> bool:
    """Whether this process may install packages and change users."""
    return os.geteuid() == 0


def cache() -> Path:
    """The folder of built tools and the locked virtual environment: WMS_CACHE, else by user.

    Raises ToolchainError when WMS_CACHE is not absolute.
    """
    default = Path("/var/cache") / NAME if is_root() else _user_folder("XDG_CACHE_HOME", ".cache")
    return _from_environment("WMS_CACHE", default)


def home() -> Path:
    """The folder of running platforms and of the Pulumi state: WMS_HOME, else by user.

    Raises ToolchainError when WMS_HOME is not absolute.
    """
    default = Path("/var/lib") / NAME if is_root() else _user_folder("XDG_DATA_HOME", ".local/share")
    return _from_environment("WMS_HOME", default)


def tool_folder(cache_folder: Path, name: str, version: str) -> Path:
    """Where one version of one tool is kept; the folder exists only when it is complete."""
    return cache_folder / "tools" / f"{name}-{version}"


def closed_to_others(path: Path) -> Path | None:
    """The first folder from / down to `path` that other users may not enter (no o+x), or None.

    The servers run as a user of their own, so what they read must not lie under such a folder. Parts that do
    not exist yet are not looked at: the toolchain creates them with mode 0755.
    """
    for folder in [*reversed(path.parents), path]:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            return None
        except PermissionError:
            return folder.parent
        if not mode & 0o001:
            return folder
    return None


def _user_folder(variable: str, below_home: str) -> Path:
    """The XDG base folder of this user; the specification says a relative value counts as unset."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / below_home) / NAME


def _from_environment(variable: str, default: Path) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        return default
    if not Path(value).is_absolute():
        raise ToolchainError(
            f"{variable}={value!r} is not an absolute path; set it to one, or unset it for {default}"
        )
    return Path(os.path.normpath(value))
