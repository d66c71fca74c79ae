"""The edge: Varnish as CDN, and a HAProxy on each side of it for the TLS it does not speak.

client ─TLS→ edge-tls ─PROXY, unix socket→ varnish ─unix socket→ edge-tls ─TLS, verified→ gateways

HAProxy and not Varnish spreads the load over the gateways: it knows whether a request was sent before a
connection failed, so it can pass even a POST to the other one. While Varnish is away, it goes there itself.
"""

from __future__ import annotations

from stacks import topology
from stacks.engines import nginx
from stacks.render import Probe, Process, Site, nothing, template
from stacks.spec import Platform

HEALTH = "/-/edge"
"""Answered by Varnish itself."""

PURGE = "edge/purge"
"""Secret of whoever may purge."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """Varnish and its HAProxy on each edge node; HAProxy first, as Varnish looks for its socket."""
    return [
        process
        for node in topology.of_role(platform, "edge")
        for process in (_tls(platform, site, node), _varnish(platform, site, node))
    ]


def _varnish(platform: Platform, site: Site, node: topology.Node) -> Process:
    edge, folder = platform.edge, site.folder(node.name, "varnish")
    work = f"{folder}/work"
    return Process(
        node=node.name,
        name="varnish",
        command=(
            "/usr/sbin/varnishd",
            "-F",
            *("-j", "none"),
            *("-n", work),
            *("-f", f"{folder}/default.vcl"),
            *("-a", f"edge={_listener(site, node)},PROXY,mode=0600"),
            *("-T", f"{node.address}:{edge.management_port}"),
            *("-s", f"malloc,{edge.cache_mb}m"),
            *("-l", "16m"),
            # Only what the origin says may be kept is kept.
            *("-p", "default_ttl=0"),
            *("-p", f"default_grace={edge.healthy_grace_s}"),
            # Else it would ask for gzip whatever the client takes, and brotli would be lost.
            *("-p", "http_gzip_support=off"),
            *("-p", "thread_pools=1"),
            *("-p", f"thread_pool_min={edge.threads_min}"),
            *("-p", f"thread_pool_max={edge.threads_max}"),
            # Request headers carry credentials, which the shared log must not show.
            *("-p", "vsl_mask=-ReqHeader,-ReqUnset,-BereqHeader,-BereqUnset"),
        ),
        files={
            "default.vcl": template(
                "default.vcl.j2",
                spec=platform,
                edge=edge,
                gateway=_gateways(site, node),
                gateway_health=nginx.HEALTH,
                health=HEALTH,
                folder=folder,
            ),
            "purge.vcl": template("purge.vcl.j2", token=PURGE),
            "reload.sh": template("varnish-reload.sh.j2", folder=folder, work=work),
        },
        restart_only=nothing,
        reload_command=("/bin/sh", f"{folder}/reload.sh"),
        # The first start compiles the VCL, and varnishadm's port opens before that is done.
        probe=Probe("exec", command=("/usr/bin/varnishadm", "-n", work, "-t", "2", "ping"), timeout_s=60),
        rollout="varnish",
    )


def _tls(platform: Platform, site: Site, node: topology.Node) -> Process:
    folder = site.folder(node.name, "edge-tls")
    return Process(
        node=node.name,
        name="edge-tls",
        command=("/usr/sbin/haproxy", "-W", "-db", "-f", f"{folder}/haproxy.cfg"),
        files={
            "haproxy.cfg": template(
                "edge.cfg.j2",
                node=node,
                spec=platform,
                edge=platform.edge,
                gateways=topology.of_role(platform, "gateway"),
                gateway_health=nginx.HEALTH,
                health=HEALTH,
                folder=folder,
                inner=_gateways(site, node),
                varnish=_listener(site, node),
                certificate=site.certificate(node.name),
                ca=site.ca,
            )
        },
        restart_only=nothing,
        reload_signal="USR2",
        probe=Probe("http", node.address, platform.edge.stats_port, "/metrics"),
        stop_signal="USR1",
        rollout="edge-tls",
    )


def _listener(site: Site, node: topology.Node) -> str:
    """Socket that Varnish listens on."""
    return f"{site.folder(node.name, 'varnish')}/http.sock"


def _gateways(site: Site, node: topology.Node) -> str:
    """Socket behind which HAProxy speaks TLS to the gateways."""
    return f"{site.folder(node.name, 'edge-tls')}/gateways.sock"
