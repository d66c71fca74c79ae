"""The import direction: clients <- slices <- main; wmsctl, stacks and wms know each other only through the
inventory.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WMSCTL = ROOT / "wmsctl"
SLICES = {path.parent.name for path in WMSCTL.glob("*/command.py")}
CONDUCTORS = {"drill"}
"""Slices that call the operations of others, as an operator would."""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every module below a top-level package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(name: str, text: str) -> Iterator[str]:
    """Every module that the source `text` of module `name` imports, also inside functions and TYPE_CHECKING
    blocks.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")[: -node.level]
                base = ".".join([*parts, base] if base else parts)
            yield base
            # `from wmsctl import hosts` names a module by its second half.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def under(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def slice_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "wmsctl" and parts[1] in SLICES else ""


def complaint(name: str, imported: str) -> str:
    """Why `name` may not import `imported`; empty when it may."""
    if under(name, "wmsctl"):
        if any(under(imported, other) for other in ("stacks", "pulumi", "wms", "agent")):
            return "wmsctl knows a platform only by its inventory"
        if under(name, "wmsctl.clients"):
            core = (
                "wmsctl.clients",
                "wmsctl.errors",
                "wmsctl.secrets",
                "wmsctl.inventory",
                "wmsctl.deadline",
            )
            if (
                under(imported, "wmsctl")
                and imported != "wmsctl"
                and not any(under(imported, c) for c in core)
            ):
                return "a client knows no operation"
        elif not slice_of(name) and name not in ("wmsctl.main", "wmsctl.__main__") and slice_of(imported):
            return "only main knows the slices"
        mine, other = slice_of(name), slice_of(imported)
        foreign = mine and other and mine != other and imported.split(".")[2] in ("run", "command")
        if foreign and mine not in CONDUCTORS:
            return "a slice does not run another one"
    elif under(name, "stacks"):
        if under(imported, "wmsctl") and not under(imported, "wmsctl.inventory") and imported != "wmsctl":
            return "a stack knows only the inventory of wmsctl"
        if under(imported, "wms"):
            return "a stack knows nothing of the service's code"
    elif under(name, "wms") and any(under(imported, other) for other in ("wmsctl", "stacks", "pulumi")):
        return "the service knows neither who made it nor who operates it"
    return ""


@pytest.mark.parametrize("package", ["wmsctl", "stacks", "wms"])
def test_direction(package: str) -> None:
    wrong = [
        f"{name} imports {imported}: {why}"
        for name, path in modules(package)
        for imported in imports(name, path.read_text())
        if (why := complaint(name, imported))
    ]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_slices_are_found() -> None:
    assert {"status", "replicas", "node", "contexts"} <= SLICES


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wmsctl.status.view", "import pulumi"),
        ("wmsctl.errors", "from stacks import spec"),
        ("wmsctl.clients.http", "from wmsctl import hosts"),
        ("wmsctl.clients.http", "from wmsctl.status import verdict"),
        ("wmsctl.hosts", "def f():\n    from wmsctl.status.verdict import verdict"),
        ("wmsctl.status.observe", "from wmsctl.replicas.command import app"),
        ("wmsctl.status.observe", "from ..replicas import command"),
        ("stacks.render", "from wmsctl import hosts"),
        ("stacks.render", "import wms.api"),
        ("wms.api", "from wmsctl.inventory import load"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert [imported for imported in imports(name, source) if complaint(name, imported)]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("stacks.inventory", "from wmsctl import inventory"),
        ("stacks.inventory", "from wmsctl.inventory import Inventory"),
        ("wmsctl.main", "from wmsctl.status.command import app"),
        ("wmsctl.status.observe", "from wmsctl.clients.http import Http"),
        ("wms.api", "from wms import store"),
    ],
)
def test_a_right_import_passes(name: str, source: str) -> None:
    assert not [imported for imported in imports(name, source) if complaint(name, imported)]
