"""What people do with the application, for the tests."""

from __future__ import annotations

from typing import Protocol

from tests.web.browser import Page

CONTROLLED = "navigator.serviceWorker.controller !== null"
DATA_CACHES = "caches.keys().then((names) => names.filter((name) => name.startsWith('wms-data-')))"


class Site(Protocol):
    """Where the application is."""

    @property
    def url(self) -> str:
        """Without a slash at its end."""


def sign_in(page: Page, server: Site, key: str = "key-one", path: str = "/", user: str = "") -> None:
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


def axe_script() -> str:
    """axe-core as package-lock.json has it, from the packages that `make web` installed."""
    from toolchain import paths
    from wms.web import build

    return (build.packages(paths.cache()) / "axe-core" / "axe.min.js").read_text()


def violations(page: Page) -> list[str]:
    """What axe-core has against the page as it is now."""
    return list(
        page.run(
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']}).then((found) =>"
            "found.violations.map((each) => each.id + ': ' + each.nodes.map((node) =>"
            "node.html.slice(0, 120) + ' ' + (node.any[0]?.message ?? '')).slice(0, 3).join(' | ')))"
        )
    )
