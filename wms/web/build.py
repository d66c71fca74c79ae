"""`make web`: the web application, built from its lock file into wms/web/dist.

Packages and results are kept in the cache, by the hash of what they are made from, as the other built tools are: a
second run copies, and nothing is downloaded for the same lock file twice. The build is done in the cache too, so that
no packages lie in the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from toolchain import paths, store, versions
from toolchain.errors import ToolchainError

FOLDER = Path(__file__).resolve().parent
DIST = FOLDER / "dist"
MADE = ("node_modules", "dist", "dist.new", "dist.old", "__pycache__")
"""What does not belong to the sources."""
PACKAGES_NEEDED = ("package.json", "package-lock.json", ".npmrc")
KEPT = 3
"""Results that stay in the cache, the newest."""
INSTALL_S, BUILD_S = 600, 300


def sources(folder: Path = FOLDER) -> list[Path]:
    """Every file that a build reads, in order."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in MADE)
        found += [Path(place) / name for name in files]
    return sorted(found)


def digest(files: Iterable[Path], folder: Path, *more: str) -> str:
    """16 hex digits over names and contents, and over `more`."""
    summed = hashlib.sha256("\0".join(more).encode())
    for file in files:
        content = hashlib.sha256(file.read_bytes()).digest()
        summed.update(str(file.relative_to(folder)).encode() + b"\0" + content)
    return summed.hexdigest()[:16]


def node() -> str:
    """The version of the Node.js on PATH, 20.19.0. Raises ToolchainError when it is missing or too old."""
    wanted = json.loads((FOLDER / "package.json").read_text())["engines"]["node"].removeprefix(">=")
    hint = f"Node.js >= {wanted} with npm is needed to build the web application: https://nodejs.org"
    if not shutil.which("node") or not shutil.which("npm"):
        raise ToolchainError(f"{hint}; there is none on PATH")
    asked = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30)
    found = asked.stdout.strip().removeprefix("v")
    if asked.returncode or not versions.at_least(found, wanted):
        raise ToolchainError(f"{hint}; the one on PATH is {found or asked.stderr.strip()}")
    return found


def run(command: list[str], folder: Path, log: Path, deadline: float, *, show: bool = False) -> None:
    """Run a command; its output goes to `log`, and with `show` to the terminal too.

    Raises ToolchainError with the end of the output when it fails or takes longer than `deadline` seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CI": "1", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"}
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=deadline,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    text = log.read_text(errors="replace")
    if status:
        why = f"took over {deadline:.0f} s" if status == -1 else f"ended with {status}"
        raise ToolchainError(f"{' '.join(command)} {why}; {log}:\n{text[-3000:]}")
    if show:
        print(text.rstrip())


def packages(cache: Path) -> Path:
    """The installed packages of the lock file (their node_modules), installed when they are not there yet."""
    key = digest([FOLDER / name for name in PACKAGES_NEEDED], FOLDER, platform.machine())
    target = paths.tool_folder(cache, "web-packages", key)
    if not target.exists():
        print(f"Installing the packages of package-lock.json -> {target}", flush=True)
        with store.published(target) as work:
            for name in PACKAGES_NEEDED:
                shutil.copy(FOLDER / name, work)
            run(["npm", "ci"], work, cache / "log" / "web-packages.log", INSTALL_S)
    return target / "node_modules"


def build(cache: Path) -> Path:
    """The finished application in the cache, built when it is not there yet."""
    files = sources()
    target = paths.tool_folder(cache, "web", digest(files, FOLDER))
    if target.exists():
        print(f"Nothing has changed since {target} was built.")
        return target
    modules = packages(cache)
    print(f"Building the web application -> {target}", flush=True)
    with store.published(target) as finished, tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch) / "web"
        for file in files:
            copy = work / file.relative_to(FOLDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        (work / "node_modules").symlink_to(modules)
        run(["npm", "run", "build"], work, cache / "log" / "web.log", BUILD_S, show=True)
        shutil.copytree(work / "dist", finished, dirs_exist_ok=True)
    results = sorted(target.parent.glob("web-" + "[0-9a-f]" * 16), key=lambda path: path.stat().st_mtime)
    for old in results[:-KEPT]:
        shutil.rmtree(old)
    return target


def publish(built: Path, target: Path = DIST) -> None:
    """Put a copy of a build into the checkout: readable by every user, whole or not at all but for an instant."""
    fresh, old = target.with_name("dist.new"), target.with_name("dist.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(built, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Build, and put the result into the checkout. Returns 0, or 1 when it cannot be built."""
    parser = argparse.ArgumentParser(
        prog="make web", description="Build the web application into wms/web/dist."
    )
    parser.parse_args()
    os.umask(0o022)
    try:
        node()
        cache = paths.cache()
        with store.locked(cache):
            publish(build(cache))
    except ToolchainError as error:
        print(f"web: {error}", file=sys.stderr)
        return 1
    print(f"The web application is in {DIST}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
