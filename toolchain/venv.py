"""The locked virtual environment in the cache, shared by all checkouts and readable by the servers' user."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.process import ask, run
from toolchain.versions import at_least

LOCK_FILE = paths.CHECKOUT / "requirements.lock"
STAMP = "complete"
"""A file in the environment, written last. Environments cannot be moved (the path is in every script), so
here a stamp does what a rename does for tools: without it the folder is rubbish of a killed run."""


@dataclass(frozen=True)
class Interpreter:
    """A Python for virtual environments: its real path and its version (3.11.2)."""

    path: Path
    version: str


def interpreter(minimum: str, root: bool) -> Interpreter | None:
    """Root takes Debian's python3, which the servers' user can execute; others take the one running this.

    Returns None when nothing at least `minimum` is there, or (as root) only one below a closed folder.
    """
    # The interpreter beneath a virtual environment, so that the new one does not hang on that environment.
    base = str(getattr(sys, "_base_executable", "") or sys.executable)
    own = Interpreter(Path(base).resolve(), platform.python_version())
    if not root:
        return own
    debian = Path("/usr/bin/python3")
    if own.path == debian.resolve():
        return own
    version = ask([str(debian), "-I", "-S", "-c", "import platform; print(platform.python_version())"])
    if version and at_least(version, minimum):
        return Interpreter(debian.resolve(), version)
    return own if paths.closed_to_others(own.path) is None else None


def folder(cache: Path, python: Interpreter, lock_file: Path = LOCK_FILE) -> Path:
    """Where the environment of this lock file and this interpreter belongs: another lock, another folder.

    Raises ToolchainError when the lock file is missing.
    """
    try:
        locked = lock_file.read_bytes()
    except OSError as error:
        raise ToolchainError(
            f"{lock_file}: {error.strerror}; restore it from git or make it with: make lock"
        ) from error
    minor = ".".join(python.version.split(".")[:2])
    key = hashlib.sha256(
        b"\0".join([locked, minor.encode(), str(python.path).encode(), platform.machine().encode()])
    )
    return cache / f"venv-{key.hexdigest()[:16]}"


def ready(environment: Path) -> bool:
    """Whether the environment is complete and its interpreter is still there."""
    return (environment / STAMP).is_file() and os.access(environment / "bin" / "python", os.X_OK)


def site_packages(environment: Path, python: Interpreter) -> Path:
    """The folder of the installed packages."""
    minor = ".".join(python.version.split(".")[:2])
    return environment / "lib" / f"python{minor}" / "site-packages"


def build(
    environment: Path, python: Interpreter, *, log: Path, seconds: int, lock_file: Path = LOCK_FILE
) -> None:
    """Make the environment with exactly what the lock file lists, checked by hash. Under the cache's lock.

    Raises ToolchainError when a step fails; the next run starts afresh.
    """
    if environment.exists():
        shutil.rmtree(environment)
    run(
        [str(python.path), "-m", "venv", str(environment)],
        what="virtual environment",
        log=log,
        seconds=5,
        deadline=120,
    )
    run(
        [
            str(environment / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--require-hashes",
            "--no-input",
            "--disable-pip-version-check",
            "--no-warn-script-location",
            "--requirement",
            str(lock_file),
        ],
        what="python packages",
        log=log,
        seconds=seconds,
        deadline=1200,
        # A PYTHONPATH or a user site of the operator must not count as "already satisfied".
        environment={
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER")
        }
        | {"PYTHONNOUSERSITE": "1"},
    )
    (environment / STAMP).touch()
