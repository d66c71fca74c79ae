"""One module per server: spec + nodes → the processes that make it up, with their files rendered."""

from __future__ import annotations

from stacks.engines import (
    alertmanager,
    etcd,
    exporters,
    haproxy,
    nginx,
    patroni,
    pgbackrest,
    pgbouncer,
    prometheus,
    redis,
    service,
    varnish,
    versitygw,
)
from stacks.render import Process, Site
from stacks.spec import Platform

ENGINES = (
    etcd,
    patroni,
    pgbackrest,
    haproxy,
    pgbouncer,
    redis,
    versitygw,
    service,
    nginx,
    varnish,
    exporters,
    alertmanager,
    prometheus,
)
"""In the order in which they start: each needs only those before it."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """Every process of the platform, in the order in which they start."""
    return [process for engine in ENGINES for process in engine.processes(platform, site)]
