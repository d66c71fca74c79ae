"""The status for a person at three in the morning: the verdict first, then what it rests on, within 100
columns.
"""

from __future__ import annotations

from wmsctl.output import WIDTH, Cell, Printer, Styled, size
from wmsctl.status.snapshot import Snapshot
from wmsctl.status.verdict import Severity, Verdict, short

STYLE = {"healthy": "good", "degraded": "warn", "down": "bad", "unreachable": "bad"}
MARK: dict[Severity, tuple[str, str]] = {
    "down": ("DOWN", "bad"),
    "degraded": ("WARN", "warn"),
    "note": ("note", "dim"),
}
MOST_REASONS = 12


def draw(printer: Printer, snapshot: Snapshot, judged: Verdict) -> None:
    """Print the status."""
    where = f"{snapshot.platform} ({snapshot.context}) at {snapshot.at}, looked for {snapshot.took_ms} ms"
    printer.text(f"{judged.state.upper()}  {where}", STYLE[judged.state])
    for reason in judged.reasons[:MOST_REASONS]:
        mark, style = MARK[reason.severity]
        printer.text(cut(f"  {mark}  {reason.part}: {reason.message}"), style)
    if len(judged.reasons) > MOST_REASONS:
        printer.text(f"  … and {len(judged.reasons) - MOST_REASONS} more (-o json shows all)", "dim")
    _cluster(printer, snapshot)
    _pools(printer, snapshot)
    _lines(printer, snapshot)


def cut(text: str, width: int = WIDTH) -> str:
    """At most `width` columns, the end marked when something was lost."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _cluster(printer: Printer, snapshot: Snapshot) -> None:
    cluster, limits = snapshot.cluster, snapshot.limits
    printer.text()
    printer.text(
        f"PostgreSQL {cluster.scope}: primary {cluster.primary or 'none'}, timeline {cluster.timeline or '-'}"
        + (", PATRONI PAUSED" if cluster.paused else ""),
        "bold",
    )
    rows: list[list[Cell]] = []
    for member in cluster.members:
        late = member.lag_ms is not None and member.lag_ms > limits.lag_ms
        milliseconds = "-" if member.lag_ms is None else str(member.lag_ms)
        state = Styled(member.state, "" if member.state in ("running", "streaming") else "warn")
        note = "replay paused" if member.replay_paused else ""
        if member.trouble:
            state, note = Styled("away" if not member.api else member.state, "bad"), short(member.trouble)
        elif not member.api:
            note = "its Patroni is away"
        rows.append(
            [
                member.node,
                Styled(member.role, "bold") if member.role == "primary" else member.role,
                state,
                member.timeline,
                member.sync or "-",
                size(member.lag_bytes),
                Styled(milliseconds, "bad" if late else ""),
                member.replica_role or "-",
                cut(note, 30),
            ]
        )
    printer.table(["NODE", "ROLE", "STATE", "TL", "SYNC", "LAG", "LAG MS", "FOR", ""], rows, indent=2)


def _pools(printer: Printer, snapshot: Snapshot) -> None:
    if not snapshot.poolers:
        return
    printer.text()
    printer.text("PgBouncer", "bold")
    rows: list[list[Cell]] = []
    for pooler in snapshot.poolers:
        if not pooler.reachable:
            rows.append(
                [pooler.node, Styled("away", "bad"), None, None, None, None, None, short(pooler.trouble)]
            )
        for pool in pooler.pools:
            late = pool.max_wait_ms > snapshot.limits.pool_wait_ms
            rows.append(
                [
                    pooler.node,
                    pool.database,
                    pool.clients_active,
                    Styled(str(pool.clients_waiting), "warn" if pool.clients_waiting else ""),
                    Styled(str(pool.max_wait_ms), "bad" if late else ""),
                    pool.servers_active,
                    pool.servers_idle,
                    Styled("PAUSED", "bad") if pool.paused else "",
                ]
            )
    printer.table(["NODE", "DATABASE", "CLIENTS", "WAIT", "MAX MS", "BUSY", "IDLE", ""], rows, indent=2)


def _lines(printer: Printer, snapshot: Snapshot) -> None:
    """One line for each of the other parts; only what is away is named."""
    printer.text()
    rows: list[list[Cell]] = []

    def line(part: str, good: int, total: int, detail: str) -> None:
        style = "good" if good == total else "bad" if good == 0 else "warn"
        rows.append([Styled(part, "bold"), Styled(f"{good}/{total}", style), cut(detail, 78)])

    if snapshot.store:
        leader = next((member.node for member in snapshot.store if member.leader), "none")
        sick = [member.node for member in snapshot.store if not member.healthy]
        line("etcd", len(snapshot.store) - len(sick), len(snapshot.store), f"leader {leader}" + _away(sick))
    if snapshot.proxies:
        away = [proxy.node for proxy in snapshot.proxies if not proxy.reachable]
        first = next((proxy for proxy in snapshot.proxies if proxy.reachable), None)
        ways = ", ".join(f"{backend.name} {backend.up} up" for backend in (first.backends if first else ()))
        line("HAProxy", len(snapshot.proxies) - len(away), len(snapshot.proxies), ways + _away(away))
    if snapshot.redis:
        redis = snapshot.redis
        away = [node.node for node in redis.nodes if not node.reachable]
        detail = f"{redis.state}, {redis.slots_served}/16384 slots on {redis.masters} masters"
        line("Redis", len(redis.nodes) - len(away), len(redis.nodes), detail + _away(away))
    for kind, title in (("edge", "edges"), ("gateway", "gateways"), ("service", "services"), ("store", "S3")):
        checks = [check for check in snapshot.web if check.kind == kind]
        if checks:
            times = [check.ms for check in checks if check.ok]
            detail = f"slowest {max(times)} ms" if times else ""
            away = [f"{check.node} ({check.status or 'no answer'})" for check in checks if not check.ok]
            line(title, len(times), len(checks), detail + _away(away))
    if snapshot.alerts:
        if snapshot.alerts.reachable:
            names = [alert.name for alert in snapshot.alerts.firing]
            shown = ", ".join(dict.fromkeys(names)) or "none"
            rows.append(
                [
                    Styled("alerts", "bold"),
                    Styled(str(len(names)), "warn" if names else "good"),
                    cut(shown, 78),
                ]
            )
        else:
            rows.append(
                [Styled("alerts", "bold"), Styled("?", "bad"), cut(short(snapshot.alerts.trouble), 78)]
            )
    if rows:
        printer.table(["PART", "UP", ""], rows, indent=2)


def _away(names: list[str]) -> str:
    return f"; away: {', '.join(names)}" if names else ""
