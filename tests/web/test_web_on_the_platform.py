"""The web application as people get it: through the edges of a whole platform, with the sample data, in Chromium.

The browser takes the edges' own keys for good instead of an authority in its store. Pictures of every page are left in
build/web for people to look at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.web.browser import Browser, Page
from tests.web.conftest import ROOT, SCREENSHOTS
from tests.web.steps import axe_script, go, heading, sign_in, violations
from wmsctl.deadline import Deadline

if TYPE_CHECKING:
    from tests.support.platform import Live

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

DESKTOP: dict[str, Any] = {"width": 1280, "height": 860}
HANDHELD: dict[str, Any] = {"width": 412, "height": 823, "touch": True}
CUT_OFF = """[...document.querySelectorAll('figure svg text')].filter((each) => {
    const [text, svg] = [each, each.ownerSVGElement].map((one) => one.getBoundingClientRect());
    return text.left < svg.left || text.right > svg.right;
}).map((each) => each.textContent)"""
STRETCHED = """[...document.querySelectorAll('.status')].filter((each) => {
    const words = document.createRange();
    words.selectNodeContents(each);
    return each.getBoundingClientRect().width - words.getBoundingClientRect().width > 25;
}).map((each) => each.textContent)"""


@dataclass(frozen=True)
class Site:
    """The platform's first edge, and a client of its API."""

    platform: Live
    url: str

    @property
    def key(self) -> str:
        return self.platform.tenants[0].api_key

    @property
    def warehouse(self) -> int:
        return self.platform.tenants[0].warehouses[0]

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A document of the API; a change when there is a body."""
        headers = {"Authorization": f"Bearer {self.key}"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        answer = self.platform.web().request(
            method,
            f"{self.url}/api/v1/{path}",
            headers=headers,
            body=None if body is None else json.dumps({"warehouse_id": self.warehouse, **body}),
        )
        assert answer.status < 300, answer.data
        found: dict[str, Any] = answer.json()
        return found

    def new_order(self) -> dict[str, Any]:
        """An order of two lines, as it comes from a shop."""
        lines = [{"sku": f"SKU-00000{n}", "quantity": 3 + n, "unit_price": "48.90"} for n in (3, 5)]
        number = f"WEB-{uuid.uuid4().hex[:8].upper()}"
        body = {"order_number": number, "customer": "CUST-000004", "priority": 2, "lines": lines}
        return self.api("POST", "orders", body)


@pytest.fixture(scope="module")
def site(shared_platform: Live) -> Site:
    """The platform with months of history."""
    shared_platform.restore()
    assert shared_platform.tenants
    loaded = shared_platform.ran(
        [sys.executable, "-m", "demo.data", str(shared_platform.home / "inventory.json"), "--scale", "small"],
        cwd=ROOT,
        timeout=180,
    )
    assert loaded.code == 0, loaded.text
    edge = shared_platform.inventory.web.edges[0]
    return Site(shared_platform, f"https://{edge.address}:{edge.port}")


@pytest.fixture(scope="module")
def chromium(built: str, site: Site) -> Iterator[Browser]:
    """A browser that trusts the edges."""
    trusted = ",".join(spki(edge.address, edge.port) for edge in site.platform.inventory.web.edges)
    with Browser(f"--ignore-certificate-errors-spki-list={trusted}") as started:
        yield started


def spki(address: str, port: int) -> str:
    """The digest of a server's public key as Chromium takes it: SHA-256 of the SubjectPublicKeyInfo, in base64."""
    certificate = x509.load_pem_x509_certificate(ssl.get_server_certificate((address, port)).encode())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@contextmanager
def opened(chromium: Browser, **screen: Any) -> Iterator[Page]:
    """A page with axe-core in it; nothing may have gone wrong in it by its end."""
    with chromium.page(**screen) as page:
        page.before(axe_script())
        yield page
        assert page.errors == []


def look(page: Page, name: str) -> None:
    """Take a picture of the page as it has settled, and hold it against WCAG 2.2."""
    page.until("[...document.images].every((each) => each.complete || each.loading === 'lazy')")
    page.run("new Promise((resolve) => setTimeout(resolve, 400))")
    page.screenshot(SCREENSHOTS / f"platform-{name}.png")
    assert violations(page) == [], name
    sideways = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert sideways <= 0, f"{name} is {sideways} pixels wider than the screen"
    assert page.run(CUT_OFF) == [], f"texts of a chart in {name} are cut off"
    assert page.run(STRETCHED) == [], f"states in {name} are wider than their words"


@pytest.mark.full
def test_a_day_at_the_desk(chromium: Browser, site: Site) -> None:
    """Sign in, see how it goes, look a part up, allocate an order."""
    order = site.new_order()
    with opened(chromium, **DESKTOP) as page:
        page.open(site.url)
        page.until("document.querySelector('input[name=key]')")
        look(page, "sign-in")
        sign_in(page, site, key=site.key)
        page.says("Pedidos por estado")
        summary = site.api("GET", f"analytics/summary?warehouse_id={site.warehouse}")
        shown = page.run("[...document.querySelectorAll('.figure')].map((each) => each.textContent)")
        assert int(shown[1].replace(".", "")) == summary["picks_open"]
        look(page, "dashboard")

        go(page, "Estoque")
        page.says("50 SKUs na lista")
        page.click("input[type=search]")
        page.type("parafuso inox")
        page.until(
            "[...document.querySelectorAll('.list strong')].every((e) => /parafuso/i.test(e.textContent))"
        )
        picture = "document.querySelector('.list img')"
        page.until(f"{picture}.complete && {picture}.naturalWidth > 0")
        assert page.run(f"{picture}.currentSrc").partition("?")[0].endswith("/images/parafuso")
        found = {sku["sku"] for sku in site.api("GET", "skus?q=parafuso+inox&limit=50")["data"]}
        listed = page.run("[...document.querySelectorAll('.list code')].map((each) => each.textContent)")
        assert set(listed) == found and found
        look(page, "inventory")
        page.click(".list a")
        page.says("Por armazém")
        look(page, "sku")

        go(page, "Pedidos")
        page.says(order["order_number"])
        look(page, "orders")
        page.click("a", order["order_number"])
        heading(page, order["order_number"])
        page.click("button.primary")
        page.says("Estoque reservado.")
        page.until(
            "[...document.querySelectorAll('tbody td:nth-child(4)')].map((e) => e.textContent).join() === '6,8'"
        )
        assert site.api("GET", f"orders/{order['id']}?warehouse_id={site.warehouse}")["status"] == "ALLOCATED"
        look(page, "order")
        go(page, "Análise")
        page.until("document.querySelector('svg, .bars')")
        look(page, "analytics")


def test_picking_on_a_handheld_by_scanner(chromium: Browser, site: Site) -> None:
    """What a scanner types into a small screen is what becomes of the order."""
    order = site.new_order()
    site.api("POST", f"orders/{order['id']}/allocate", {})
    site.api("POST", "waves", {"order_ids": [order["id"]]})
    with opened(chromium, **HANDHELD) as page:
        sign_in(page, site, key=site.key, path="/picking")
        page.says("Tarefa 1 de")
        look(page, "handheld-picking")
        task = site.api("GET", f"picks?warehouse_id={site.warehouse}&status=OPEN&limit=1")["data"][0]
        page.type("Z-9-9", enter=True)
        page.says(f"Z-9-9 não é o endereço. Procure {task['location']}.")
        look(page, "handheld-wrong")
        page.type(task["location"].lower(), enter=True)
        page.says("Endereço certo")
        page.type(f"]E0{task['barcode']}", enter=True)
        page.says("Produto certo")
        look(page, "handheld-quantity")
        page.key("Enter")
        page.says(f"Separado: {task['quantity']} × {task['sku']}.")
        look(page, "handheld-done")
        tasks = site.api("GET", f"waves/{task['wave_id']}?warehouse_id={site.warehouse}")["tasks"]
        done = next(each for each in tasks if each["id"] == task["id"])
        assert (done["status"], done["picked"]) == ("PICKED", task["quantity"])
        for name, text in (("Estoque", "50 SKUs na lista"), ("Pedidos", "WEB-")):
            go(page, name)
            page.says(text)
            look(page, f"handheld-{name.lower()}")


def test_f4_the_edges_are_lost_and_found_while_people_read(chromium: Browser, site: Site) -> None:
    """A service worker behind real TLS: what was read stays readable, marked as a copy, until the network is back."""
    platform, edges = site.platform, [edge.node for edge in site.platform.inventory.web.edges]
    with chromium.page(**HANDHELD) as page:
        sign_in(page, site, key=site.key)
        page.says("Pedidos por estado")
        go(page, "Pedidos")
        page.until("document.querySelectorAll('.list li, tbody tr').length > 10")
        for edge in edges:
            platform.power.kill(edge, reason="live test", deadline=Deadline.after(15))
        try:
            page.open(f"{site.url}/orders")
            page.until("document.querySelectorAll('.list li, tbody tr').length > 10")
            page.says("Cópia guardada")
            page.screenshot(SCREENSHOTS / "platform-handheld-offline.png")
        finally:
            for edge in edges:
                platform.power.power_on(edge, deadline=Deadline.after(60))
        page.run("window.dispatchEvent(new Event('online'))")
        page.until("!document.querySelector('.age.stale')", 20)
        order = site.new_order()
        page.open(f"{site.url}/orders")
        page.says(order["order_number"], 20)
