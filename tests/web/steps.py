"""What people do with the application, for the tests."""

from __future__ import annotations

from tests.web.browser import Page
from tests.web.server import Server

CONTROLLED = "navigator.serviceWorker.controller !== null"
DATA_CACHES = "caches.keys().then((names) => names.filter((name) => name.startsWith('wms-data-')))"


def sign_in(page: Page, server: Server, key: str = "key-one", path: str = "/", user: str = "") -> None:
    """Open `path`, wait until the service worker has the page, and sign in by keyboard alone."""
    page.open(server.url + path)
    page.until("document.querySelector('input[name=key]')")
    page.until(CONTROLLED)
    page.run("document.querySelector('input[name=key]').focus()")
    page.type(key)
    if user:
        page.key("Tab")
        page.type(user)
        page.key("Tab")
        page.type("right")
    page.key("Enter")
    page.until("document.querySelector('nav.sections')")


def go(page: Page, name: str) -> None:
    """Click a section, and wait until its heading is there."""
    page.click("nav.sections a", name)
    heading(page, name)


def heading(page: Page, text: str) -> None:
    """Wait until the page's heading contains `text`."""
    page.until(f"(document.querySelector('h1')?.textContent ?? '').includes({text!r})")
