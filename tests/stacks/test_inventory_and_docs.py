"""The inventory describes what the engines run; the committed page is the spec's."""

from __future__ import annotations

from stacks import docs, engines, inventory, render, spec, topology
from tests.stacks.golden import SITE
from wmsctl import inventory as contract

PLATFORM = spec.load("local")


def test_the_inventory_survives_its_own_format() -> None:
    made = inventory.inventory(PLATFORM, SITE, "/srv/wms/local/secrets.json")
    assert contract.decode(contract.encode(made), "test") == made


def test_every_process_stands_at_its_node() -> None:
    made = inventory.inventory(PLATFORM, SITE, "/srv/wms/local/secrets.json")
    listed = {f"{node.name}/{name}" for node in made.nodes for name in node.processes}
    assert listed == {process.key for process in engines.processes(PLATFORM, SITE)}
    assert all(node.processes for node in made.nodes)


def test_every_login_of_the_inventory_is_a_secret_that_some_server_knows() -> None:
    made = inventory.inventory(PLATFORM, SITE, "/srv/wms/local/secrets.json")
    assert made.redis and made.store
    known = {
        name
        for process in engines.processes(PLATFORM, SITE)
        for text in (*process.files.values(), *process.environment.values())
        for name in render.secrets_in(text)
    }
    # The store's users and the operator's role are made in the running servers, not by files.
    named = {made.redis.admin.secret, made.store.access_key, made.store.secret_key, made.pools.admin.secret}
    assert named | {made.postgres.superuser.secret, made.postgres.api.secret} <= known


def test_replica_roles_follow_row_d3() -> None:
    members = inventory.inventory(PLATFORM, SITE, "/s").postgres.members
    assert [member.replica_role for member in members] == ["", "analytics", "reporting", "reads"]


def test_d4_the_ledger_is_partitioned_by_month_and_archived() -> None:
    found = inventory.inventory(PLATFORM, SITE, "/s").partitions
    assert found is not None and found.login.user != found.owner == "wms_owner"
    (ledger,) = found.tables
    assert (ledger.table, ledger.interval, ledger.carry) == (
        "inventory_transactions",
        "month",
        "carry_forward",
    )
    assert ledger.archive and ledger.premake >= 1 and ledger.archive_months > ledger.online_months


def test_the_topology_page_is_current() -> None:
    assert docs.topology_page(PLATFORM) == docs.TARGET.read_text(), "run: python -m stacks.docs"


def test_the_topology_page_names_every_node_and_every_rung() -> None:
    page = docs.topology_page(PLATFORM)
    for node in topology.nodes(PLATFORM):
        assert f"| {node.name} | {node.zone} | {node.address} |" in page
    assert page.index("timeouts.client_s") < page.index("timeouts.gateway_s") < page.index("timeouts.lock_s")
