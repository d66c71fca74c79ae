"""Debian packages: which are missing, and installing them without any of their services starting."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolchain.errors import ToolchainError
from toolchain.pins import Package
from toolchain.process import ask, run

POLICY = Path("/usr/sbin/policy-rc.d")
MARK = "wms-platform: temporary"
CLUSTER_CONFIG = Path("/etc/postgresql-common/createcluster.conf")
CLUSTER_DROP_IN = Path("/etc/postgresql-common/createcluster.d/wms-platform.conf")
LISTS = Path("/var/lib/apt/lists")
LISTS_STALE_AFTER = 7 * 86400.0
"""Seconds. Older package lists name versions that the mirrors may have dropped."""


def installed_packages(names: Sequence[str]) -> frozenset[str]:
    """Those of `names` that dpkg has fully installed. Raises ToolchainError when dpkg cannot say."""
    result = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\\n", *names],
        capture_output=True,
        text=True,
        timeout=20,
    )
    # dpkg-query: 0 all known, 1 some never heard of (fine), 2 its database is in trouble.
    if result.returncode not in (0, 1):
        raise ToolchainError(f"dpkg-query failed: {result.stderr.strip()}; try: dpkg --configure -a")
    pairs = (line.split(" ", 1) for line in result.stdout.splitlines())
    return frozenset(name for status, name in pairs if status == "installed")


def install_command(names: Sequence[str]) -> list[str]:
    """The apt-get command that installs `names` (also shown to whoever has to run it by hand)."""
    return ["apt-get", "install", "--yes", "--no-install-recommends", *names]


def by_hand(names: Sequence[str]) -> str:
    """What to ask an administrator to run, when we may not."""
    return "sudo apt-get update && sudo " + shlex.join(install_command(names))


def install(packages: Sequence[Package], *, log: Path, seconds: int) -> None:
    """Install packages as root, with no service started or left enabled and no default database cluster.

    Raises ToolchainError when apt-get fails, with the end of its output.
    """
    names = [package.name for package in packages]
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    command = [
        *install_command(names),
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Options::=--force-confold",
    ]

    def apt(what: str, arguments: list[str], estimate: int) -> None:
        run(arguments, what=what, log=log, seconds=estimate, deadline=1800, environment=environment)

    def update() -> None:
        apt("apt-get update", ["apt-get", "update", "-o", "DPkg::Lock::Timeout=300"], 15)

    fresh = not lists_are_stale(names)
    if not fresh:
        update()
    forbid_default_cluster()
    with services_forbidden():
        try:
            apt("apt-get install", command, seconds)
        except ToolchainError:
            if not fresh:
                raise
            # The lists looked good, but the mirror may have moved on since: once more with new ones.
            update()
            apt("apt-get install", command, seconds)
    disable([unit for package in packages for unit in package.units], log)


def lists_are_stale(names: Sequence[str]) -> bool:
    """Whether `apt-get update` has to come first: lists older than a week, or a package they do not know."""
    try:
        age = time.time() - max(file.stat().st_mtime for file in LISTS.glob("*_Packages*"))
    except ValueError:
        return True
    known = ask(["apt-cache", "policy", *names], timeout=60) or ""
    candidates = [
        line for line in known.splitlines() if line.startswith("  Candidate:") and "(none)" not in line
    ]
    return age > LISTS_STALE_AFTER or len(candidates) < len(set(names))


def forbid_default_cluster() -> None:
    """Keep postgresql-15 from creating a cluster `main` at installation; a decision that stands is kept."""
    try:
        lines = CLUSTER_CONFIG.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    if any(line.split("=")[0].strip() == "create_main_cluster" for line in lines) or CLUSTER_DROP_IN.exists():
        return
    # A file in the folder that Debian's configuration includes: the package may still bring that one.
    CLUSTER_DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    CLUSTER_DROP_IN.write_text("# wms-platform makes its own clusters.\ncreate_main_cluster = false\n")


@contextmanager
def services_forbidden(policy: Path = POLICY) -> Iterator[None]:
    """Within the block no maintainer script starts a service (invoke-rc.d obeys policy-rc.d, 101 =
    forbidden).

    A policy that was there comes back afterwards. After a kill -9 the next run puts it back, see
    `restore_policy`.
    """
    restore_policy(policy)
    saved = _saved(policy)
    ours = policy.with_name(policy.name + ".wms-new")
    ours.write_text(f"#!/bin/sh\n# {MARK}, removed when the installation ends.\nexit 101\n")
    ours.chmod(0o755)
    if policy.exists():
        os.link(policy, saved)
    ours.rename(policy)
    try:
        yield
    finally:
        restore_policy(policy)


def restore_policy(policy: Path = POLICY) -> bool:
    """Undo `services_forbidden`, also that of a killed run. Returns whether there was anything to undo."""
    saved = _saved(policy)
    if not forbids_for_us(policy):
        # Killed between saving and replacing: the original still stands, the second name of it goes.
        saved.unlink(missing_ok=True)
        return False
    if saved.exists():
        saved.rename(policy)
    else:
        policy.unlink()
    return True


def forbids_for_us(policy: Path = POLICY) -> bool:
    """Whether the policy in place is our temporary one."""
    try:
        return MARK in policy.read_text(errors="replace")
    except OSError:
        return False


def disable(units: Sequence[str], log: Path) -> None:
    """Keep Debian's own instances of freshly installed servers from starting at the next boot.

    Without systemd nothing would start them, so there is nothing to do.
    """
    if units and shutil.which("systemctl"):
        run(
            ["systemctl", "--no-reload", "disable", *units],
            what="disable services",
            log=log,
            seconds=2,
            deadline=120,
        )


def _saved(policy: Path) -> Path:
    return policy.with_name(policy.name + ".wms-saved")
