"""A platform's folder with a real supervisord, for the tests of the provider's handlers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks.local.provider.accounts import Account, service
from stacks.local.provider.handlers.supervisor import SupervisorHandler
from stacks.local.provider.homes import claim
from stacks.local.provider.values import Values
from tests.support.sandbox import PYTHON


@pytest.fixture(scope="session")
def user() -> str:
    """The user servers run as, as an input: "" stands for the current one."""
    return "wms-platform" if os.geteuid() == 0 else ""


@pytest.fixture(scope="session")
def account(user: str) -> Account:
    return service(user)


@pytest.fixture
def empty() -> Iterator[Path]:
    """A folder that the service user can reach; pytest's own are closed to other users."""
    made = Path(tempfile.mkdtemp(prefix="wms-unit-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def home(empty: Path) -> str:
    """A platform's folder without servers."""
    made = str(empty / "home")
    claim(made)
    return made


@pytest.fixture(scope="module")
def platform(user: str) -> Iterator[Values]:
    """Inputs of a supervisor that runs."""
    folder = Path(tempfile.mkdtemp(prefix="wms-unit-", dir="/var/tmp"))
    folder.chmod(0o755)
    handler = SupervisorHandler()
    inputs, problems = handler.check({"home": str(folder / "home"), "python": PYTHON, "user": user})
    assert problems == []
    _, state = handler.create("supervisor", inputs)
    yield inputs
    handler.delete("supervisor", state)
    assert not (folder / "home").exists()
    shutil.rmtree(folder)
