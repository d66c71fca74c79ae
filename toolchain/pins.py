"""pins.toml, typed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolchainError

FILE = Path(__file__).with_name("pins.toml")


@dataclass(frozen=True)
class Package:
    """A Debian package, what it is for, and the services it would start at boot."""

    name: str
    purpose: str
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoTool:
    """A program built from Go modules pinned in toolchain/<name>/go.mod and go.sum."""

    name: str
    version: str
    package: str
    ldflags: str
    purpose: str
    seconds: int


@dataclass(frozen=True)
class Minimum:
    """The least this machine must offer."""

    debian: int
    python: str
    go: str
    disk_gib: int
    memory_gib: int
    shm_mib: int
    nofile: int


@dataclass(frozen=True)
class Pins:
    """All of pins.toml. `*_seconds` are estimates for the texts of a plan."""

    minimum: Minimum
    packages: tuple[Package, ...]
    apt_update_seconds: int
    apt_each_seconds: int
    python_seconds: int
    pulumi_version: str
    pulumi_below: str
    pulumi_vendor_url: str
    pulumi_seconds: int
    go_tools: dict[str, GoTool]
    network: str
    ports: tuple[int, ...]


def load(file: Path = FILE) -> Pins:
    """Read the pins. Raises ToolchainError naming the file when it is damaged."""
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
        return Pins(
            minimum=Minimum(**table["minimum"]),
            packages=tuple(
                Package(name, entry["for"], tuple(entry.get("units", ())))
                for name, entry in table["apt"]["packages"].items()
            ),
            apt_update_seconds=table["apt"]["seconds_update"],
            apt_each_seconds=table["apt"]["seconds_each"],
            python_seconds=table["python"]["seconds"],
            pulumi_version=table["pulumi"]["version"],
            pulumi_below=table["pulumi"]["below"],
            pulumi_vendor_url=table["pulumi"]["vendor_url"],
            pulumi_seconds=table["pulumi"]["seconds"],
            go_tools={
                name: GoTool(
                    name=name,
                    version=entry["version"],
                    package=entry["package"],
                    ldflags=entry["ldflags"],
                    purpose=entry["for"],
                    seconds=entry["seconds"],
                )
                for name, entry in table["go"].items()
            },
            network=table["network"]["block"],
            ports=tuple(table["network"]["ports"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ToolchainError(f"{file}: cannot read the pins ({error!r}); restore it from git") from error
