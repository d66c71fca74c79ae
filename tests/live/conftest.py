"""Fixtures of the tests that break a platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.platform import Live


@pytest.fixture
def platform(shared_platform: Live) -> Live:
    """The run's platform, whole, whatever the tests before did to it."""
    shared_platform.restore()
    return shared_platform
