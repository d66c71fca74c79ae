"""What this machine has: observed once, changed by nothing here."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from toolchain import checkout, paths, venv
from toolchain.apt import installed_packages
from toolchain.pins import Pins
from toolchain.process import ask
from toolchain.users import SERVICE_USER
from toolchain.versions import at_least, within

LANGUAGE_HOST = "pulumi-language-python"


@dataclass(frozen=True)
class Program:
    """A program that was found, and the version it says it has."""

    path: Path
    version: str


@dataclass(frozen=True)
class Facts:
    """What a plan is made from. A tool's folder in `tools` exists complete."""

    root: bool
    cache: Path
    has_apt: bool
    packages: frozenset[str]
    """Installed Debian packages among the pinned ones."""
    sudo: bool
    """Whether `sudo -n` works; only asked when packages are missing and this is not root."""
    service_user: bool
    """Whether the system user of the servers exists."""
    python: venv.Interpreter | None
    """The interpreter of the virtual environments, or None when none will do."""
    venv: Path | None
    """Where the locked environment belongs, whether it is there or not; None without an interpreter."""
    venv_ready: bool
    linked: checkout.Links | None
    """What .venv of the checkout was last made for."""
    go: Program | None
    path_pulumi: Program | None
    """A recent enough Pulumi CLI on PATH, outside the cache, when a host for Python programs is there too."""
    path_language_host: Path | None
    """That host."""
    bundled_host: Path | None = None
    """The cache's Pulumi folder, when a host stands beside the CLI there: the vendor's, or a link to the
    pinned one."""
    tools: dict[str, Path] = field(default_factory=dict)
    """Complete tools of the pinned versions in the cache."""
    blocked: Path | None = None
    """As root: the folder that keeps the service user out of the cache."""


def observe(pins: Pins) -> Facts:
    """Look at this machine. Costs some tenths of a second and no network."""
    cache = paths.cache()
    root = paths.is_root()
    names = [package.name for package in pins.packages]
    has_apt = shutil.which("apt-get", path=_system_path()) is not None
    packages = installed_packages(names) if has_apt else frozenset[str]()
    python = venv.interpreter(pins.minimum.python, root)
    environment = None if python is None else venv.folder(cache, python)
    own_pulumi, own_host = _pulumi_on_path(pins, cache)
    return Facts(
        root=root,
        cache=cache,
        has_apt=has_apt,
        packages=packages,
        sudo=not root and has_apt and len(packages) < len(names) and ask(["sudo", "-n", "true"]) is not None,
        service_user=_user_exists(SERVICE_USER),
        python=python,
        venv=environment,
        venv_ready=environment is not None and venv.ready(environment),
        linked=checkout.read(),
        go=find_go(),
        path_pulumi=own_pulumi,
        path_language_host=own_host,
        bundled_host=_host_beside_cli(pins, cache),
        tools={
            tool.name: folder
            for tool in pins.go_tools.values()
            if os.access((folder := paths.tool_folder(cache, tool.name, tool.version)) / tool.name, os.X_OK)
        },
        blocked=paths.closed_to_others(cache) if root else None,
    )


def find_go() -> Program | None:
    """The Go on PATH, else the one in its usual place (sudo and cron have short PATHs)."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if found is None:
        return None
    version = ask([found, "env", "GOVERSION"])
    return None if not version else Program(Path(found), version.removeprefix("go"))


def _pulumi_on_path(pins: Pins, cache: Path) -> tuple[Program, Path] | tuple[None, None]:
    """The user's own Pulumi CLI, when it is recent enough and can run Python programs, and its host for them.

    Folders of our cache are left out: `eval "$(make -s env)"` puts them on PATH, and a tool must not vouch
    for itself.
    """
    folders = [
        folder
        for folder in os.environ.get("PATH", "").split(os.pathsep)
        if folder and not Path(folder).is_relative_to(cache)
    ]
    path = os.pathsep.join(folders)
    found, host = shutil.which("pulumi", path=path), shutil.which(LANGUAGE_HOST, path=path)
    if found is None or host is None:
        return None, None
    version = ask([found, "version"])
    try:
        recent = bool(version) and within(str(version), pins.pulumi_version, pins.pulumi_below)
    except ValueError:
        return None, None
    return (Program(Path(found), str(version).removeprefix("v")), Path(host)) if recent else (None, None)


def _host_beside_cli(pins: Pins, cache: Path) -> Path | None:
    folder = paths.tool_folder(cache, "pulumi", pins.pulumi_version)
    host = folder / LANGUAGE_HOST
    built = paths.tool_folder(cache, LANGUAGE_HOST, pins.go_tools[LANGUAGE_HOST].version) / LANGUAGE_HOST
    current = not host.is_symlink() or host.resolve() == built.resolve()
    return folder if current and os.access(host, os.X_OK) else None


def go_is_new_enough(go: Program | None, pins: Pins) -> bool:
    """Whether tools can be built with the Go that was found."""
    return go is not None and at_least(go.version, pins.minimum.go)


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _system_path() -> str:
    """PATH with the folders of administration programs, which Debian leaves out for ordinary users."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
