"""`python -m stacks.docs` writes docs/topology.md from the local environment's spec; a test keeps it true."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from stacks import engines, rules, spec, topology
from stacks.render import Site
from stacks.spec import Platform

TARGET = Path(__file__).resolve().parents[1] / "docs" / "topology.md"


def topology_page(platform: Platform) -> str:
    """The page: nodes, Redis shards, the ladder of timeouts, and both connection budgets."""
    gateway, t = platform.gateway, platform.timeouts
    source = f"Generated from the spec of the `{platform.environment}` environment by `python -m stacks.docs`"
    return "\n".join(
        [
            "# Topology, timeouts and connection budgets",
            "",
            f"{source}; edit `stacks/spec.py` or `stacks/environments/`, not this file.",
            "",
            "## Nodes",
            "",
            *_table(("node", "zone", "address", "processes", "ports"), _nodes(platform)),
            "",
            "## Redis Cluster as first formed",
            "",
            "A replica is never in its master's zone. `wmsctl status` shows who is master now.",
            "",
            *_table(("slots", "master (zone)", "replicas (zone)"), _shards(platform)),
            "",
            "## Ladder of timeouts",
            "",
            "Each rung is shorter than the one above it, so that the innermost gives up first.",
            "",
            *_table(
                ("setting", "seconds", "who gives up"),
                [(f"`{key}`", f"{seconds:g}", who) for key, seconds, who in rules.timeout_ladder(platform)],
            ),
            "",
            f"A gateway passes a failed request to another service only within {gateway.retry_s:g} s, so",
            "that the second attempt ends before the edge gives up",
            f"({t.gateway_s:g} + {gateway.retry_s:g} ≤ {t.edge_s:g} s).",
            "",
            "## Connections to one PostgreSQL member",
            "",
            "Worst case: every pool is full and, all other members being lost, ends at this one.",
            "",
            *_budget(
                rules.connection_budget(platform),
                "postgres.max_connections",
                platform.postgres.max_connections,
            ),
            "",
            "## Connections to one PgBouncer",
            "",
            "Worst case: the other poolers are lost.",
            "",
            *_budget(
                rules.client_budget(platform),
                "pooler.max_client_connections",
                platform.pooler.max_client_connections,
            ),
            "",
        ]
    )


def _nodes(platform: Platform) -> Iterable[Sequence[str]]:
    # Where things are does not matter here: only names are shown.
    site = Site(home="", python="", service="", agent="", ca="")
    processes = engines.processes(platform, site)
    listeners = rules.listeners(platform)
    for node in topology.nodes(platform):
        names = ", ".join(p.name for p in processes if p.node == node.name)
        ports = ", ".join(str(port) for port in sorted(listeners[node.role].values()))
        yield node.name, node.zone, node.address, names, ports


def _shards(platform: Platform) -> Iterable[Sequence[str]]:
    for (master, replicas), slots in zip(
        topology.redis_shards(platform), topology.redis_slots(platform), strict=True
    ):
        others = ", ".join(f"{replica.name} ({replica.zone})" for replica in replicas)
        yield f"{slots.start}–{slots.stop - 1}", f"{master.name} ({master.zone})", others


def _budget(parts: Sequence[tuple[str, int]], key: str, limit: int) -> list[str]:
    total = sum(count for _, count in parts)
    rows = [(who, str(count)) for who, count in parts]
    share = math.ceil(100 * total / limit)
    return _table(
        ("who", "connections"), [*rows, ("**sum**", f"**{total}** of {limit} (`{key}`), {share} %")]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(topology_page(spec.load("local")))
