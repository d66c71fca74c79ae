"""`.venv` of the checkout: a Python that sees the locked environment and this checkout, and commands.

It holds no packages, so it is made in a tenth of a second and never downloads. Its toolchain.json says what
the checkout was set up with; `environment()` reads it instead of searching again.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from toolchain import paths, venv
from toolchain.errors import ToolchainError
from toolchain.process import run

FOLDER = paths.CHECKOUT / ".venv"
RECORD = "toolchain.json"
FORMAT = 1
"""To be raised when this module changes what it writes: older folders are then made again."""

OWN = {"wmsctl": "wmsctl.main:main", "pulumi-resource-wms": "stacks.local.provider.main:main"}
"""Commands of the checkout, and where they begin."""
LOCKED = ("pytest", "mypy", "patronictl")
"""Commands of the locked packages; where they begin is read from the packages."""
BINARIES = ("ruff",)
"""Commands that are no Python."""


@dataclass(frozen=True)
class Links:
    """What a checkout was set up with."""

    checkout: str
    cache: str
    python: str
    """The interpreter of the locked environment: what servers run with."""
    interpreter: str
    pulumi: str
    """Folder of the Pulumi CLI."""
    language_host: str
    """Folder of its host for Python programs."""
    versitygw: str
    """The S3 gateway's executable."""
    format: int = FORMAT

    def complete(self) -> bool:
        """Whether everything that is named here still exists."""
        needed = [
            self.python,
            f"{self.pulumi}/pulumi",
            f"{self.language_host}/pulumi-language-python",
            self.versitygw,
        ]
        return all(os.access(path, os.X_OK) for path in needed)


def read(folder: Path = FOLDER) -> Links | None:
    """What `.venv` was made for, or None when it is absent, damaged or of an older format."""
    try:
        links = Links(**json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return links if links.format == FORMAT and os.access(folder / "bin" / "python", os.X_OK) else None


def build(links: Links, python: venv.Interpreter, *, log: Path, folder: Path = FOLDER) -> None:
    """Make `.venv` anew. Raises ToolchainError when the checkout cannot be written.

    Killed between its two renames it leaves no `.venv`; the next run makes it.
    """
    checkout = folder.parent
    try:
        for left in checkout.glob(".venv.*"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=".venv.", dir=checkout))
    except OSError as error:
        raise ToolchainError(
            f"{checkout}: cannot write ({error.strerror}); use a checkout that belongs to this user"
        ) from error
    try:
        run(
            [str(python.path), "-m", "venv", "--without-pip", str(work / "new")],
            what=".venv",
            log=log,
            seconds=1,
            deadline=60,
        )
        _fill(work / "new", folder, links, python)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            folder.rename(work / "old")
        (work / "new").rename(folder)
    except PermissionError as error:
        raise ToolchainError(
            f"{folder}: {error.strerror}, it was probably made by another user; remove it as that user"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(new: Path, final: Path, links: Links, python: venv.Interpreter) -> None:
    """Everything in the new folder, written for the place where it is going to be."""
    for script in (new / "bin").iterdir():
        if script.is_file() and not script.is_symlink():
            script.write_text(script.read_text().replace(str(new), str(final)))
    config = new / "pyvenv.cfg"
    config.write_text(config.read_text().replace(str(new), str(final)))
    locked = Path(links.python).parent.parent
    # The checkout first, so that no package of a careless name (`tests`, `bench`) hides ours.
    search = f"{links.checkout}\n{venv.site_packages(locked, python)}\n"
    (venv.site_packages(new, python) / "wms-platform.pth").write_text(search)
    for name, entry in (OWN | locked_entries(venv.site_packages(locked, python))).items():
        script = new / "bin" / name
        script.write_text(script_text(final / "bin" / "python", entry))
        script.chmod(0o755)
    for name in BINARIES:
        (new / "bin" / name).symlink_to(locked / "bin" / name)
    (new / RECORD).write_text(json.dumps(asdict(links), indent=2) + "\n")


def locked_entries(packages: Path) -> dict[str, str]:
    """Where the LOCKED commands begin ("module:function"), as their packages declare it.

    Raises ToolchainError when one is missing.
    """
    found: dict[str, str] = {}
    for file in packages.glob("*.dist-info/entry_points.txt"):
        declared = configparser.ConfigParser(delimiters=("=",))
        declared.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
        declared.read(file)
        if declared.has_section("console_scripts"):
            found.update(declared["console_scripts"])
    if absent := [name for name in LOCKED if name not in found]:
        raise ToolchainError(f"{packages} declares no {', '.join(absent)}; is it still in requirements.lock?")
    return {name: found[name] for name in LOCKED}


def script_text(python: Path, entry: str) -> str:
    """A console script for "module:function".

    The kernel reads no interpreter path with a space and none beyond 127 bytes (Linux < 5.1): sh does those.
    """
    module, function = entry.split(":")
    first = f"#!{python}\n"
    if " " in first or len(first.encode()) > 127:
        first = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"
    return f"{first}import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
