"""What tests of more than one folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.platform import Live


@pytest.fixture(scope="session")
def shared_platform() -> Iterator[Live]:
    """The one platform of this run, made when the first test asks for it."""
    from tests.support import platform  # only here: unit tests need none of what it loads

    with platform.shared() as made:
        yield made
