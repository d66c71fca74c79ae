"""What is looked at before anything is started: programs, ports, disk."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tomllib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from stacks import engines, spec
from stacks.local import preflight
from stacks.local.program import ROOT, site_of

NETWORK = "127.77"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "stack"


def found(home: Path, **overrides: object) -> list[str]:
    platform = spec.load("local", {"network": NETWORK, **overrides})
    # The interpreter stands for the one server that setup builds; the others are Debian packages.
    processes = [
        replace(process, command=("/bin/sh", *process.command[1:]))
        for process in engines.processes(platform, site_of(str(home), "/bin/sh"))
    ]
    return preflight.problems(platform, processes, home)


def test_a_free_machine_has_no_problem(home: Path) -> None:
    assert found(home) == []


def test_a_busy_port_is_named_with_its_holder_and_the_way_out(home: Path) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((f"{NETWORK}.2.1", 5432))
        holder.listen()
        (problem,) = found(home)
    assert f"{NETWORK}.2.1:5432" in problem
    assert f"{os.getpid()}" in problem
    assert "pulumi config set --path wms:overrides.network" in problem


def test_a_missing_program_names_the_setup(home: Path) -> None:
    platform = spec.load("local", {"network": NETWORK})
    processes = engines.processes(platform, site_of(str(home), "/nowhere/python"))
    problems = preflight.problems(platform, processes, home)
    assert "/nowhere/python is not installed; run: make setup" in problems


def test_a_full_disk_is_told_in_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 100 * 2**20))
    (problem,) = found(home)
    assert "100 MiB free, 2048 MiB needed" in problem
    assert "WMS_HOME" in problem


def test_every_program_of_the_stack_comes_with_a_pinned_package() -> None:
    """A fresh machine has nothing but what setup installs: what a pinned package holds, or one that it depends on."""
    pins = tomllib.loads((ROOT / "toolchain/pins.toml").read_text())["apt"]["packages"]
    depends = dpkg_query("--show", "--showformat", "${Depends}, ${Pre-Depends}, ", *pins)
    known = set(pins) | set(re.findall(r"[a-z0-9][a-z0-9.+-]+", depends))
    site = site_of("/h", "/python")
    programs = {process.command[0] for process in engines.processes(spec.load("local"), site)}
    for program in sorted(programs - {"/python", site.versitygw, "/bin/sh"}):
        package = dpkg_query("--search", program).partition(":")[0]
        assert package in known, f"{program} is of {package}, which is not pinned"


def dpkg_query(*arguments: str) -> str:
    done = subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout
