"""Fixtures of the tests that break a platform."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.platform import Live


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Pulumi and its language host are found whatever PATH the tests were started with."""
    from toolchain.env import process_environment

    os.environ["PATH"] = process_environment()["PATH"]


@pytest.fixture
def platform(shared_platform: Live) -> Live:
    """The run's platform, whole, whatever the tests before did to it."""
    shared_platform.restore()
    return shared_platform
