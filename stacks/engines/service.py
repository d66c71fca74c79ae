"""The WMS service: stateless processes behind the gateways, told everything by environment variables."""

from __future__ import annotations

import math

from stacks import topology
from stacks.engines import redis
from stacks.render import Probe, Process, Site, secret
from stacks.spec import Platform

LIVE = "/health/live"
"""Answers while the process works, whatever the database does: a failover must not restart the services."""

READY = "/health/ready"
"""Whether it can do its work now."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """One process per app node; any change restarts, one after another."""
    service = platform.service
    poolers = ",".join(f"{n.address}:{platform.pooler.port}" for n in topology.of_role(platform, "proxy"))
    gateways = ",".join(n.address for n in topology.of_role(platform, "gateway"))
    redis_nodes = ",".join(f"{n.address}:{platform.redis.port}" for n in topology.of_role(platform, "redis"))
    return [
        Process(
            node=node.name,
            name="wms",
            command=(site.python, "-m", "wms.serve"),
            environment={
                "PYTHONPATH": site.service,
                "WMS_INSTANCE": node.name,
                "WMS_ZONE": node.zone,
                "WMS_BIND_ADDRESS": node.address,
                "WMS_BIND_PORT": str(service.port),
                "WMS_TLS_CERT": site.certificate(node.name),
                "WMS_TLS_KEY": site.certificate(node.name),
                "WMS_DB_HOSTS": poolers,
                "WMS_DB_WRITE_NAME": platform.postgres.database,
                "WMS_DB_READ_NAME": f"{platform.postgres.database}_read",
                "WMS_DB_USER": "wms_app",
                "WMS_DB_PASSWORD": secret("postgres/app"),
                "WMS_DB_SSLMODE": "verify-ca",
                "WMS_DB_CA": site.ca,
                "WMS_DB_WRITE_POOL": str(service.write_pool),
                "WMS_DB_READ_POOL": str(service.read_pool),
                "WMS_WORKER_USER": "wms_worker",
                "WMS_WORKER_PASSWORD": secret("postgres/worker"),
                "WMS_WORKER_WRITE_NAME": f"{platform.postgres.database}_worker",
                "WMS_WORKER_READ_NAME": f"{platform.postgres.database}_worker_read",
                "WMS_WORKER_POOL": str(service.worker_pool),
                # Long enough for a write to ride out a failover; reads have replicas and stay short.
                "WMS_WRITE_DEADLINE_MS": str(round(platform.timeouts.service_s * 1000)),
                "WMS_MAX_BODY_BYTES": str(platform.gateway.max_body_kb * 1024),
                "WMS_CURSOR_KEY": secret("service/cursor"),
                "WMS_JWT_KEYS": _jwt_keys(service.jwt_generation),
                "WMS_RATE_ANONYMOUS": str(service.rate_limits.anonymous),
                "WMS_RATE_AUTHENTICATED": str(service.rate_limits.authenticated),
                "WMS_RATE_PREMIUM": str(service.rate_limits.premium),
                "WMS_RATE_PROCESSES": str(service.count),
                "WMS_TRUSTED_PROXIES": gateways,
                "WMS_REDIS_NODES": redis_nodes,
                "WMS_REDIS_USER": redis.APP,
                "WMS_REDIS_PASSWORD": secret(f"redis/{redis.APP}"),
                "WMS_REDIS_CA": site.ca,
                "WMS_DRAIN_MS": str(round(service.drain_s * 1000)),
                "WMS_SHUTDOWN_MS": str(round(service.shutdown_s * 1000)),
                # The gateway keeps the access log.
                "WMS_ACCESS_LOG": "errors",
            },
            probe=Probe("http", node.address, service.port, LIVE, tls=True),
            stop_s=math.ceil(service.drain_s + service.shutdown_s) + 2,
            rollout="wms",
        )
        for node in topology.of_role(platform, "app")
    ]


def _jwt_keys(generation: int) -> str:
    """The keys of access tokens: the one that signs, the one before it, whose tokens are still out, and the one after
    it, so that a process which is not restarted yet knows what the restarted ones sign with.
    """
    wanted = [generation, generation - 1, generation + 1]
    return ",".join(f"g{number}:{secret(f'service/jwt_{number}')}" for number in wanted if number > 0)
