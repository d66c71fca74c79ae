"""Row F4: the service worker's three strategies, reading offline, and whose copies are whose."""

from __future__ import annotations

import pytest

from tests.web.browser import Browser, Page
from tests.web.server import Server
from tests.web.steps import DATA_CACHES, go, heading, sign_in

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
STALE = "document.querySelector('[data-copy]')?.dataset.copy"


def test_f4_assets_come_from_the_cache_first(page: Page, server: Server) -> None:
    sign_in(page, server)
    page.says("Pedidos por estado")
    page.until("caches.open('wms-assets').then((c) => c.keys()).then((all) => all.length >= 4)")
    server.seen.clear()
    page.call("Network.setCacheDisabled", cacheDisabled=True)
    page.open(server.url)
    page.says("Pedidos por estado")
    assert server.asked("/assets/") == [], "the network was asked for what never changes"
    page.call("Network.setCacheDisabled", cacheDisabled=False)


def test_f4_critical_data_are_asked_of_the_network_and_fall_back_to_a_marked_copy(
    page: Page, server: Server
) -> None:
    sign_in(page, server, path="/inventory/SKU-000003")
    page.says("C-4-21")
    server.warehouse.on_hand = 777
    page.open(server.url + "/inventory/SKU-000003")
    page.says("777")
    assert page.run(STALE) in (None, "checking"), "a fresh answer is marked as a copy"
    server.stop()
    page.open(server.url + "/inventory/SKU-000003")
    page.until(f"{STALE} !== undefined")
    page.says("777")
    page.says("Cópia guardada")
    page.says("sem rede")
    server.warehouse.on_hand = 888
    server.start()
    page.run("window.dispatchEvent(new Event('online'))")
    page.says("888")
    page.until("!document.querySelector('.age.stale')")


@pytest.mark.parametrize(("trouble", "reason"), [("failing", "failing"), ("slow", "slow")])
def test_f4_a_failing_or_slow_service_is_bridged_too(
    page: Page, server: Server, trouble: str, reason: str
) -> None:
    sign_in(page, server, path="/orders/120")
    page.says("PED-00120")
    server.failing = trouble == "failing"
    server.delay_s = 4.5 if trouble == "slow" else 0
    page.open(server.url + "/orders/120")
    page.until(f"{STALE} === '{reason}'")
    page.says("SKU-000121")
    server.failing = False
    if trouble == "slow":
        # The late answer is shown as soon as it is there.
        page.until("!document.querySelector('.age.stale')")


def test_f4_lists_are_shown_at_once_and_renewed_behind(page: Page, server: Server) -> None:
    sign_in(page, server, path="/inventory")
    page.says("SKU-000001")
    asked = len(server.asked("/api/v1/skus"))
    server.delay_s = 1.5
    page.open(server.url + "/inventory")
    page.until("document.querySelectorAll('.list li').length === 50", 1.4)
    assert page.run(STALE) == "checking"
    page.until(f"{STALE} === undefined")
    assert len(server.asked("/api/v1/skus")) == asked + 1


def test_f4_pages_that_were_opened_are_readable_offline(page: Page, server: Server) -> None:
    sign_in(page, server)
    page.says("Pedidos por estado")
    for name, text in (("Pedidos", "PED-00120"), ("Separação", "Tarefa 1 de 4"), ("Estoque", "SKU-000001")):
        go(page, name)
        page.says(text)
    server.stop()
    for path, text in (("/orders", "PED-00120"), ("/picking", "Tarefa 1 de 4"), ("/inventory", "SKU-000001")):
        page.open(server.url + path)
        page.says(text)
        page.says("Cópia guardada")
    page.open(server.url + "/analytics")
    page.says("não foi aberta neste aparelho")


def test_f4_copies_belong_to_a_sign_in_and_go_with_it(browser: Browser, page: Page, server: Server) -> None:
    sign_in(page, server, path="/inventory")
    page.says("Parafuso aço inox 40 mm")
    page.until(f"{DATA_CACHES}.then((names) => names.length === 1)")
    first = page.run(DATA_CACHES)
    page.click("button", "Sair")
    page.until("document.querySelector('input[name=key]')")
    page.until(f"{DATA_CACHES}.then((names) => names.length === 0)")
    sign_in(page, server, key="key-two", path="/inventory")
    page.says("Parafuso aço inox 40 mm (2)")
    page.until(f"{DATA_CACHES}.then((names) => names.length === 1)")
    assert page.run(DATA_CACHES) != first
    server.stop()
    page.open(server.url + "/inventory")
    heading(page, "Estoque")
    page.says("Parafuso aço inox 40 mm (2)")
    server.start()
    assert not [h for _, _, h in server.seen if "wms-cache-scope" in h], (
        "the mark of a sign-in left the device"
    )
