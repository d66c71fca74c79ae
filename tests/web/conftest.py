"""The built application, a browser and a server for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.browser import Browser, Page
from tests.web.server import Server

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "web"
ADDRESS, PORT = "127.43.26.1", 8090


@pytest.fixture(scope="session")
def built() -> str:
    """The application as `make web` builds it (from the cache when nothing has changed); what it printed."""
    run = subprocess.run(
        ["make", "web"], cwd=ROOT, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="session")
def browser(built: str) -> Iterator[Browser]:
    """One Chromium for all tests; each has a page in a context of its own."""
    with Browser() as started:
        yield started


@pytest.fixture
def server(built: str) -> Iterator[Server]:
    """A fresh server."""
    made = Server(ADDRESS, PORT)
    made.start()
    try:
        yield made
    finally:
        made.stop()
    assert made.drift == [], "the stand-in answers as the service does not"


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page that nobody has signed in on."""
    with browser.page() as opened:
        yield opened
