"""The Pulumi CLI as its vendor publishes it."""

from __future__ import annotations

import platform
import shutil
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import IO, cast

from toolchain.errors import ToolchainError
from toolchain.gotools import prove
from toolchain.store import published

ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
SILENCE = 8.0
"""Seconds without a connection or a byte after which the vendor counts as unreachable."""


def url(template: str, version: str, machine: str | None = None) -> str:
    """Where the vendor keeps a version for this machine. Raises ToolchainError when it serves no such."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise ToolchainError(f"the vendor of Pulumi has nothing for {machine}")
    return template.format(version=version, arch=ARCHITECTURES[machine])


def download(address: str, version: str, target: Path, *, deadline: float = 600.0) -> None:
    """Unpack the vendor's CLI and its language hosts into the new folder `target`. Under the cache's lock.

    Raises ToolchainError when the vendor is unreachable, slower than `deadline` seconds, or what came does
    not run.
    """
    until = time.monotonic() + deadline
    try:
        with published(target) as work:
            with urllib.request.urlopen(address, timeout=SILENCE) as answer:
                _unpack(answer, work, until)
            prove(work / "pulumi", version)
            if not (work / "pulumi-language-python").exists():
                raise ToolchainError(f"{address} holds no pulumi-language-python")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ToolchainError(f"{address}: {getattr(error, 'reason', None) or error}") from error


def _unpack(stream: IO[bytes], folder: Path, until: float) -> None:
    """Write the regular files of the archive's folder `pulumi/` flat into `folder`, and nothing else.

    Names are cut to their last part, so that an archive cannot write outside the folder.
    """
    with tarfile.open(fileobj=stream, mode="r|gz") as archive:
        for member in archive:
            if time.monotonic() > until:
                raise ToolchainError("the download takes too long")
            if not member.isfile() or not member.name.removeprefix("./").startswith("pulumi/"):
                continue
            target = folder / Path(member.name).name
            with cast(IO[bytes], archive.extractfile(member)) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            target.chmod(0o755)
