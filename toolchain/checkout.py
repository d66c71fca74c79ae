"""`.venv` of the checkout: an interpreter that sees the locked environment and this checkout, and a few commands.

It holds no packages, so it is made in a tenth of a second and never downloads. Beside them stands toolchain.json, which says
what the checkout was set up with; `environment()` reads it instead of searching again.
"""

from __future__ import annotations

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

ENTRY_POINTS = {
    "wmsctl": "wmsctl.main:main",
    "pulumi-resource-wms": "stacks.local.provider.main:main",
    "pytest": "pytest:console_main",
    "mypy": "mypy.__main__:console_entry",
    "patronictl": "patroni.ctl:ctl",
}
BINARIES = ("ruff",)


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
        needed = [self.python, f"{self.pulumi}/pulumi", f"{self.language_host}/pulumi-language-python", self.versitygw]
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
        run([str(python.path), "-m", "venv", "--without-pip", str(work / "new")], what=".venv", log=log, seconds=1, deadline=60)
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
    for name, entry in ENTRY_POINTS.items():
        script = new / "bin" / name
        script.write_text(script_text(final / "bin" / "python", entry))
        script.chmod(0o755)
    for name in BINARIES:
        (new / "bin" / name).symlink_to(locked / "bin" / name)
    (new / RECORD).write_text(json.dumps(asdict(links), indent=2) + "\n")


def script_text(python: Path, entry: str) -> str:
    """A console script for "module:function".

    The kernel reads no interpreter path with a space and none beyond 127 bytes (Linux < 5.1): for those sh starts it.
    """
    module, function = entry.split(":")
    first = f"#!{python}\n"
    if " " in first or len(first.encode()) > 127:
        first = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"
    return f"{first}import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
