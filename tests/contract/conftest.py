"""Fixtures of the tests that look at a running platform and change nothing on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.platform import Live


@pytest.fixture
def platform(shared_platform: Live) -> Live:
    """The run's platform."""
    return shared_platform
