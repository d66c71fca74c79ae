"""No password of the platform is where others can read it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.platform import Live, command_lines

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]
SHORTEST = 12
"""Anything shorter would be found by chance."""


def secrets(platform: Live) -> dict[str, str]:
    """Name → value of every password of the platform."""
    path = Path(platform.inventory.secrets.removeprefix("file:"))
    found: dict[str, str] = json.loads(path.read_text())
    assert len(found) > 15
    assert all(len(value) >= SHORTEST for value in found.values())
    assert len(set(found.values())) == len(found), "two logins share a password"
    return found


def leaked(text: str, known: dict[str, str]) -> list[str]:
    """Names of the secrets that `text` holds; values are never shown."""
    return sorted(name for name, value in known.items() if value in text)


def test_the_search_finds_what_it_looks_for(platform: Live) -> None:
    """The control: in the file of the secrets all of them are found, in another text none."""
    known = secrets(platform)
    text = Path(platform.inventory.secrets.removeprefix("file:")).read_text()
    assert leaked(text, known) == sorted(known)
    assert leaked("nothing", known) == []


def test_no_secret_is_in_the_process_list(platform: Live) -> None:
    known = secrets(platform)
    lines = command_lines()
    assert any(str(platform.home) in line for line in lines.values()), "the platform does not run here"
    found = {pid: names for pid, line in lines.items() if (names := leaked(line, known))}
    assert found == {}


def test_no_secret_is_in_a_log(platform: Live) -> None:
    known = secrets(platform)
    logs = [path for path in (platform.home / "supervisor" / "log").iterdir() if path.is_file()]
    logs += (platform.home / "nodes").glob("pg-*/patroni/log/*")
    assert len(logs) > 40
    found = {path.name: names for path in logs if (names := leaked(path.read_text(errors="replace"), known))}
    assert found == {}


def test_no_secret_is_in_the_plain_state_of_the_stack(platform: Live) -> None:
    known = secrets(platform)
    folder = platform.home.parent / "pulumi" / ".pulumi"
    states = [
        path for path in folder.rglob("*") if path.is_file() and path.name.startswith(f"{platform.name}.")
    ]
    states += [
        path for path in (folder / "history").rglob("*") if path.is_file() and platform.name in str(path)
    ]
    assert folder / "stacks" / "wms" / f"{platform.name}.json" in states
    found = {
        path.name: names for path in states if (names := leaked(path.read_text(errors="replace"), known))
    }
    assert found == {}
    assert '"ciphertext"' in (folder / "stacks" / "wms" / f"{platform.name}.json").read_text()


def test_no_secret_is_in_the_inventory_or_the_stacks_configuration(platform: Live) -> None:
    known = secrets(platform)
    assert leaked((platform.home / "inventory.json").read_text(), known) == []
    configuration = platform.project / f"Pulumi.{platform.name}.yaml"
    if configuration.exists():
        assert leaked(configuration.read_text(), known) == []
    exported = platform.pulumi("stack", "output", "--json")
    assert exported.code == 0 and leaked(exported.out, known) == []


def test_files_with_secrets_are_for_their_owner_only(platform: Live) -> None:
    """Configuration of servers, environments, pgpass: whatever holds a password or a private key."""
    known = secrets(platform)
    open_ones, closed = {}, 0
    for root, folders, names in os.walk(platform.home):
        # Data of the servers is closed by its folder, and PostgreSQL keeps verifiers only.
        folders[:] = [name for name in folders if name not in ("data", "release", "cache", "work")]
        for name in names:
            path = Path(root, name)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > 10_000_000:
                continue
            text = path.read_text(errors="replace")
            found = leaked(text, known) + (["a private key"] if "PRIVATE KEY-----" in text else [])
            if not found:
                continue
            if status.st_mode & 0o077:
                open_ones[str(path)] = (oct(status.st_mode & 0o777), found)
            else:
                closed += 1
    assert open_ones == {}
    assert closed > 30


def test_the_output_of_wmsctl_shows_no_secret(platform: Live) -> None:
    known = secrets(platform)
    for line in (
        ["status", "-o", "json"],
        ["context", "show", "-o", "json"],
        ["failover", "history", "-o", "json"],
        ["failover", "switchover", "--dry-run", "-o", "json", "--debug"],
        ["replicas", "--debug"],
    ):
        assert leaked(platform.cli(*line).text, known) == [], line
    kept = [path for path in platform.scratch.rglob("*") if path.is_file() and path != platform.patroni_file]
    found = {str(path): names for path in kept if (names := leaked(path.read_text(errors="replace"), known))}
    assert found == {}, "journal, audit log or records hold a password"
