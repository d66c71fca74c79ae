"""The Pulumi program of the local target: the spec's processes as resources of this machine.

Order of creation: the supervisor, the authority, the code; then each node with its certificate, files and processes;
then what the servers hold (users of the store, shared configuration, database roles, schemas).
"""

from __future__ import annotations

import os
from pathlib import Path

import pulumi

from stacks import engines, inventory, spec, topology
from stacks.engines import pgbackrest
from stacks.local import contents, resources
from stacks.local.node import NodeComponent
from stacks.local.vault import Vault
from stacks.render import Site
from wmsctl import inventory as contract

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {name: str(ROOT / name) for name in ("wms", "agent")}
"""Packages of this repository that the servers run, each released by itself."""
WEB = ROOT / "wms" / "web" / "dist"
"""The built frontend, which gateways serve; it may be missing."""


def main() -> None:
    """Declare every resource. Raises SpecError before the first of them when the configuration is wrong."""
    config = pulumi.Config("wms")
    platform = spec.load(config.get("environment") or "local", config.get_object("overrides"))
    home, user, python = _machine()
    supervisor = resources.Supervisor("supervisor", home=home, user=user, python=python)
    contents.goes_with(supervisor)
    below = pulumi.ResourceOptions(depends_on=[supervisor])
    releases = [
        resources.Release(
            f"release/{name}",
            home=home,
            user=user,
            name=name,
            sources=[source],
            digest=resources.digest([source]),
            opts=below,
        )
        for name, source in sources().items()
    ]
    site = site_of(home, python)
    vault = Vault()
    authority = resources.Authority(
        "authority",
        common_name=f"{platform.name} {platform.environment} authority",
        days=platform.pki.authority_days,
        renew_before_days=platform.pki.renew_before_days,
        generation=platform.pki.generation,
    )
    bundle = resources.File(
        "ca.crt", home=home, user=user, path=site.ca, content=authority.bundle_pem, mode="0644", opts=below
    )

    nodes = {
        node.name: NodeComponent(
            node, platform, site, user, vault, authority, [supervisor, *releases, bundle]
        )
        for node in topology.nodes(platform)
    }
    processes = engines.processes(platform, site)

    def start(*names: str, needs: list[pulumi.Resource] | None = None) -> list[pulumi.Resource]:
        return [nodes[p.node].add(p, needs) for p in processes if p.name in names]

    store = contents.store_users(platform, site, vault, start("etcd"))
    # The store first, and so removed last: a PostgreSQL that stops sends its last segment there, and waits for it.
    archive = start("versitygw")
    members = start("patroni", needs=[store, *archive])
    proxies = start("haproxy", "pgbouncer")
    shared = contents.shared_configuration(platform, site, vault, members)
    database = contents.Database(platform, site, vault, [shared, *proxies])
    schema = contents.service_schema(platform, site, vault, user, database.ready)
    contents.cache_cluster(platform, site, vault, start("redis"))
    buckets = contents.backup_buckets(platform, site, vault, archive)
    contents.backup_stanza(platform, site, user, [shared, *buckets, *start(pgbackrest.NAME)])
    service = start("wms", needs=[schema])
    started = {"etcd", "patroni", "haproxy", "pgbouncer", "redis", "versitygw", "wms", pgbackrest.NAME}
    # The rest answers by itself: a gateway without a service, an exporter without its server say so and go on.
    start(*{p.name for p in processes} - started, needs=service)

    secrets_path = f"{home}/secrets.json"
    document = contract.encode(inventory.inventory(platform, site, secrets_path))
    for name, content in (("inventory.json", document), ("secrets.json", vault.document())):
        resources.File(
            name,
            home=home,
            user=user,
            path=f"{home}/{name}",
            content=content,
            owner="operator",
            mode="0600",
            opts=below,
        )
    pulumi.export("inventory", document)
    pulumi.export("processes", len(processes))


def site_of(home: str, python: str) -> Site:
    """Where things are on this machine for the stack whose folder is `home`."""
    return Site(
        home=home,
        python=python,
        service=_release(home, "wms"),
        agent=_release(home, "agent"),
        ca=f"{home}/pki/ca.crt",
        web=f"{_release(home, 'web')}/{WEB.name}" if "web" in sources() else "",
        versitygw=os.environ.get("WMS_VERSITYGW", "/usr/bin/versitygw"),
    )


def sources() -> dict[str, str]:
    """What is released, by name; the frontend only if it is built."""
    return {**SOURCES, "web": str(WEB)} if (WEB / "index.html").is_file() else SOURCES


def _release(home: str, name: str) -> str:
    return f"{home}/release/{name}/{resources.digest([sources()[name]])}"


def _machine() -> tuple[str, str, str]:
    """(home of this stack, user that servers run as, python that they run with), from the environment.

    Raises RuntimeError when the shell was not prepared.
    """
    missing = [name for name in ("WMS_HOME", "WMS_PYTHON") if not os.environ.get(name)]
    if missing:
        raise RuntimeError(f'{", ".join(missing)} not set; prepare the shell first: eval "$(make -s env)"')
    user = os.environ.get("WMS_USER", "wms-platform") if os.geteuid() == 0 else ""
    return f"{os.environ['WMS_HOME']}/{pulumi.get_stack()}", user, os.environ["WMS_PYTHON"]
