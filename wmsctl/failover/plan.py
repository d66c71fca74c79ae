"""Decides whether and how to fail over: pure, from a snapshot to a plan or a refusal with its reason.

The rules of promotion follow from quorum commit: with `ANY k OF n` an acknowledged commit is on the primary
and on at least k of the n listed standbys. So it is on one of any n - k + 1 of them, and the most advanced of
those has it. Patroni keeps n - k as `quorum` in its /sync key and orders its changes so that the key is true
at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from wmsctl.failover.snapshot import MemberView, Snapshot, SyncView
from wmsctl.output import size

LAG_LIMIT = 1024 * 1024
"""Bytes that a candidate may be behind: Patroni's own limit for an election (maximum_lag_on_failover)."""

RECENT_S = 900.0
"""A promotion younger than this (row R2: 15 minutes) is the answer to the incident that `promote` was called
for.
"""


@dataclass(frozen=True)
class Refusal:
    """It is not safe or not possible; nothing was changed."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class AlreadySo:
    """There is nothing to do."""

    message: str
    leader: str = ""


@dataclass(frozen=True)
class SwitchoverPlan:
    leader: str
    candidate: str
    timeline: int
    poolers: dict[str, tuple[str, ...]]
    """Pooler → its databases, the write database last: its pause is the stall that writers see."""
    write_database: str
    proxies: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Loss:
    """What a promotion may lose at most, as far as it can be seen."""

    bytes: int | None
    """From the last position that a leader reported to the candidate's."""
    seconds: float | None
    """Age of the newest heartbeat on the candidate."""

    def __str__(self) -> str:
        bytes_text = (
            "an unknown amount of WAL" if self.bytes is None else f"{size(self.bytes)} of WAL or more"
        )
        seconds_text = (
            "of unknown age"
            if self.seconds is None
            else f"the newest heartbeat there is {self.seconds:.1f} s old"
        )
        return f"{bytes_text}; {seconds_text}"


@dataclass(frozen=True)
class PromotePlan:
    dead: str
    """The node whose loss this is, empty when it is not known."""
    expected: str
    """The member that will win Patroni's race."""
    timeline: int
    fence: bool
    revision: int | None
    """Modification of the leader key to delete after fencing, None when there is no key."""
    lease_left: float | None
    manual: bool
    """Patroni's own race cannot or must not decide: ask for this candidate by name. Only with
    --allow-data-loss.
    """
    loss: Loss | None
    proxies: tuple[str, ...]
    poolers: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class RejoinPlan:
    node: str
    leader: str
    timeline: int
    power_on: bool
    rebuild: bool
    power_control: bool
    steps: tuple[str, ...]


def switchover(snapshot: Snapshot, to: str = "") -> SwitchoverPlan | AlreadySo | Refusal:
    """Plan handing the leadership from a healthy primary to `to` (by default the best synchronous
    standby).
    """
    refusal = _unfinished(snapshot) or _common(snapshot) or _unknown_member(snapshot, to)
    if refusal:
        return refusal
    key = snapshot.store.leader
    if key is None:
        return Refusal(
            "there is no leader to hand over from", "if the primary is lost: wmsctl failover promote"
        )
    if to == key.holder:
        return AlreadySo(f"{to} is the leader already", to)
    leader = snapshot.member(key.holder)
    if leader is None or not leader.running or leader.role != "primary" or leader.sql is False:
        return Refusal(
            f"the leader {key.holder} is not well ({_trouble(leader)}); a switchover needs its cooperation",
            "if it is lost: wmsctl failover promote",
        )
    if snapshot.store.failover_pending:
        return Refusal(
            "Patroni has another switchover under way or scheduled",
            "wait for it; one that is scheduled is cancelled with DELETE /switchover on a member's REST API",
        )
    healthy = [m for m in snapshot.members if m.running and (m is leader or m.streaming)]
    needed = snapshot.synchronous_nodes + 1
    if len(healthy) < needed:
        away = ", ".join(m.name for m in snapshot.members if m not in healthy)
        return Refusal(
            f"only {len(healthy)} members are healthy and synchronous commit needs {needed} (not"
            f" healthy: {away})",
            "bring them back first: wmsctl failover rejoin NODE",
        )
    candidate = _choose(snapshot, leader, to)
    if isinstance(candidate, Refusal):
        return candidate
    poolers = _poolers(snapshot)
    if isinstance(poolers, Refusal):
        return poolers
    return SwitchoverPlan(
        leader=leader.name,
        candidate=candidate.name,
        timeline=leader.timeline or 0,
        poolers=poolers,
        write_database=snapshot.write_database,
        proxies=snapshot.proxies,
        steps=(
            f"checkpoint on {leader.name}, so that it stops quickly",
            "start the guard that resumes the poolers if this process dies",
            f"pause the poolers ({', '.join(poolers)})",
            f"switch over from {leader.name} to {candidate.name}",
            f"prove a write through every proxy ({', '.join(snapshot.proxies)})",
            "resume the poolers and prove a write through each",
            f"wait until {leader.name} streams again",
        ),
    )


def promote(
    snapshot: Snapshot, to: str = "", *, fence: bool = False, allow_data_loss: bool = False
) -> PromotePlan | AlreadySo | Refusal:
    """Plan a promotion after the loss of the primary.

    An unfinished operation does not stand in its way when the primary is lost: it cannot end any more, and the
    promotion supersedes it.

    Refuses when there is a healthy primary, when an acknowledged commit could be lost (unless
    `allow_data_loss`), and when the store gives no certain answer. With `fence` the lost node is proven dead
    first, and its lease ended at once.
    """
    refusal = _common(snapshot) or _unknown_member(snapshot, to)
    if refusal:
        return refusal
    key, sync = snapshot.store.leader, snapshot.store.sync
    holder = snapshot.member(key.holder) if key else None
    if key and holder and holder.running and holder.role == "primary" and holder.sql is not False:
        return _healthy_primary(snapshot, holder, to)
    dead = key.holder if key else (sync.leader if sync else "")
    if key and holder and holder.answers and not fence:
        return Refusal(
            f"the agent on {key.holder} answers and holds the lease ({_trouble(holder)}): Patroni"
            " decides there",
            "wait for Patroni, or take the node out for certain: wmsctl failover promote --fence"
            f" (fences {key.holder})",
        )
    rogue = next((m for m in snapshot.members if m.answers and m.role == "primary" and m.name != dead), None)
    if rogue is not None:
        return Refusal(
            f"{rogue.name} runs as primary without holding the lease",
            "Patroni is about to settle it: wmsctl status --watch",
        )
    if fence and not snapshot.power_control:
        return Refusal(
            "nodes of this platform cannot be powered by wmsctl", "leave out --fence and wait for the lease"
        )
    if fence and not dead:
        return Refusal(
            "nobody holds the lease and no last primary is known: there is nothing to fence",
            "leave out --fence",
        )

    reachable = [m for m in snapshot.members if m.running and m.role != "primary" and m.name != dead]
    able = [m for m in reachable if not m.nofailover and m.timeline is not None and m.position >= 0]
    newest = max((m.timeline or 0 for m in able), default=0)
    racers = [m for m in able if m.timeline == newest]
    if not racers:
        return Refusal(
            "no reachable member can be promoted", "bring one back: wmsctl status, wmsctl node power-on NODE"
        )
    best = max(racers, key=lambda m: (m.position, m.priority, m.name))
    doubt = uncertainty(sync, dead, racers)
    if doubt and not allow_data_loss:
        return Refusal(
            f"an acknowledged commit could be lost: {doubt}",
            "bring one of the missing members back (wmsctl node power-on NODE); or accept the loss:"
            " --allow-data-loss",
        )
    if to and to != best.name and not allow_data_loss:
        wanted = snapshot.member(to)
        why = "it does not answer" if wanted not in racers else _behind(wanted, best)
        return Refusal(
            f"{to} will not be promoted: {why}", f"leave out --to {to}; switch over to it afterwards"
        )
    if to and not any(m.name == to for m in racers):
        return Refusal(
            f"{to} cannot be promoted: it does not answer, is behind in its timeline or tagged nofailover"
        )
    expected = to or best.name
    manual = bool(doubt) or (bool(to) and to != best.name)
    chosen = snapshot.member(expected)
    assert chosen is not None
    return PromotePlan(
        dead=dead,
        expected=expected,
        timeline=newest,
        fence=fence,
        revision=key.revision if key else None,
        lease_left=key.lease_left if key else None,
        manual=manual,
        loss=_loss(snapshot, chosen) if manual else None,
        proxies=snapshot.proxies,
        poolers=tuple(p.name for p in snapshot.poolers),
        steps=_promotion_steps(snapshot, dead, expected, fence=fence, key=key is not None, manual=manual),
    )


def rejoin(snapshot: Snapshot, node: str, *, rebuild: bool = False) -> RejoinPlan | AlreadySo | Refusal:
    """Plan bringing `node` back as a streaming replica of the present leader."""
    refusal = _unfinished(snapshot) or _common(snapshot) or _unknown_member(snapshot, node)
    if refusal:
        return refusal
    key = snapshot.store.leader
    if key is None:
        return Refusal("there is no leader to follow", "promote one first: wmsctl failover promote")
    leader, member = snapshot.member(key.holder), snapshot.member(node)
    assert member is not None
    if leader is None or not leader.running or leader.role != "primary" or leader.timeline is None:
        return Refusal(
            f"the leader {key.holder} is not well ({_trouble(leader)})",
            "see: wmsctl status, wmsctl failover promote",
        )
    if leader.name == node:
        return Refusal(f"{node} is the leader", "there is nothing to rejoin")
    off = node in snapshot.powered_off
    if off and not snapshot.power_control:
        return Refusal(
            f"{node} is powered off and wmsctl cannot power it on", "start the node, then run this again"
        )
    if member.running and member.streaming and member.timeline == leader.timeline and not rebuild:
        return AlreadySo(
            f"{node} streams from {leader.name} on timeline {leader.timeline} already", leader.name
        )
    steps = []
    if off:
        steps.append(f"power on {node} (removes its fence)")
    if rebuild:
        steps.append(f"rebuild {node} from {leader.name}: its data is discarded")
    steps.append(
        f"wait until {node} streams from {leader.name} on timeline {leader.timeline} and counts for"
        " commits again"
    )
    return RejoinPlan(node, leader.name, leader.timeline, off, rebuild, snapshot.power_control, tuple(steps))


def uncertainty(sync: SyncView | None, dead: str, reachable: list[MemberView]) -> str:
    """Why the `reachable` members might lack an acknowledged commit of `dead`; empty when they have all of
    them.

    They have if more than `quorum` of them are voters of the /sync key (or its leader): see the module's
    text.
    """
    if sync is None or not sync.leader:
        return "synchronous commit is not in force, so nobody confirmed the last commits"
    if dead and sync.leader.lower() != dead.lower():
        return f"the synchronous state is of {sync.leader}, and not of {dead}, which held the lease"
    listed = {
        name.lower() for name in sync.voters | {sync.leader}
    }  # PostgreSQL compares these names without case
    counted = [m.name for m in reachable if m.name.lower() in listed]
    if len(counted) <= sync.quorum:
        missing = sorted(name for name in sync.voters if name.lower() not in {m.lower() for m in counted})
        who = ", ".join(counted) if counted else "none"
        if not sync.voters:
            return f"only {sync.leader} itself is known to have every commit"
        return (
            f"{sync.quorum + 1} of the synchronous standbys have to answer on the newest timeline, and only"
            f" {len(counted)} do ({who}; missing: {', '.join(missing)})"
        )
    return ""


def _unfinished(snapshot: Snapshot) -> Refusal | None:
    """An interrupted operation has to be settled first; a rejoin leaves nothing behind that would need it."""
    for operation in snapshot.unfinished:
        if operation.kind != "rejoin":
            return Refusal(
                f"{operation.kind} of {operation.started} is unfinished ({operation.id})",
                "finish or undo it: wmsctl failover resume",
            )
    return None


def _common(snapshot: Snapshot) -> Refusal | None:
    """What stands in the way of every operation."""
    if not snapshot.store.answers:
        return Refusal(
            f"the store gives no certain answer, so nobody knows who leads: {snapshot.store.trouble}",
            "bring etcd back to a quorum first: wmsctl status",
        )
    if snapshot.paused:
        return Refusal(
            "Patroni is paused (maintenance mode)", "end it first: wmsctl failover maintenance off"
        )
    return None


def _unknown_member(snapshot: Snapshot, name: str) -> Refusal | None:
    if name and snapshot.member(name) is None:
        return Refusal(f"no PostgreSQL member {name!r}", f"there are: {snapshot.names}")
    return None


def _trouble(member: MemberView | None) -> str:
    if member is None:
        return "it is no member of this inventory"
    if not member.answers:
        return member.trouble or "its agent does not answer"
    if not member.running:
        return f"PostgreSQL is {member.state or 'in an unknown state'}"
    if member.sql is False:
        return "PostgreSQL does not answer a query"
    return f"it runs as {member.role}"


def _choose(snapshot: Snapshot, leader: MemberView, to: str) -> MemberView | Refusal:
    """The candidate: `to`, or the standby of the highest priority and least lag."""
    others = [m for m in snapshot.members if m is not leader and (not to or m.name == to)]
    flaws = {m.name: flaw(snapshot, leader, m) for m in others}
    fit = [m for m in others if not flaws[m.name]]
    if not fit:
        told = "; ".join(f"{name}: {text}" for name, text in flaws.items())
        return Refusal(
            f"no candidate is fit to take over ({told})", "see: wmsctl replicas, wmsctl failover rejoin NODE"
        )
    return max(fit, key=lambda m: (m.priority, -(m.replay_lag or 0), m.name))


def flaw(snapshot: Snapshot, leader: MemberView, member: MemberView) -> str:
    """Why `member` must not take over in a planned switchover; empty when it may."""
    sync = snapshot.store.sync
    if not member.running:
        return _trouble(member)
    if member.nofailover or member.priority <= 0:
        return "tagged nofailover"
    if not member.streaming:
        return "it does not stream from the leader"
    if member.timeline != leader.timeline:
        return f"on timeline {member.timeline}, the leader is on {leader.timeline}"
    if member.sync_state not in ("quorum", "sync") or sync is None or member.name not in sync.voters:
        return "not a synchronous standby"
    if member.replay_paused:
        return "its replay is paused (wmsctl replicas resume)"
    lag = max(member.flush_lag or 0, member.replay_lag or 0)
    if lag > LAG_LIMIT:
        return f"lags {size(lag)}, allowed are {size(LAG_LIMIT)}"
    return ""


def _poolers(snapshot: Snapshot) -> dict[str, tuple[str, ...]] | Refusal:
    found: dict[str, tuple[str, ...]] = {}
    for pooler in snapshot.poolers:
        if not pooler.answers:
            return Refusal(
                f"the pooler on {pooler.name} does not answer ({pooler.trouble}): its clients would"
                " see errors",
                "bring it back first: wmsctl status",
            )
        if pooler.paused:
            return Refusal(
                f"{', '.join(pooler.paused)} on {pooler.name} is paused by someone else",
                "resume it there first, if nobody needs the pause",
            )
        if snapshot.write_database not in pooler.databases:
            return Refusal(
                f"the pooler on {pooler.name} has no database {snapshot.write_database!r}",
                "see its pgbouncer.ini",
            )
        rest = tuple(name for name in pooler.databases if name != snapshot.write_database)
        found[pooler.name] = (*rest, snapshot.write_database)
    return found


def _healthy_primary(snapshot: Snapshot, leader: MemberView, to: str) -> AlreadySo | Refusal:
    """`promote` was called and somebody leads: Patroni was faster, or there is nothing to promote for."""
    unfinished = _unfinished(snapshot)
    if unfinished:
        return unfinished
    if to and to != leader.name:
        return Refusal(f"the primary {leader.name} is healthy", f"wmsctl failover switchover --to {to}")
    away = [m.name for m in snapshot.members if not m.running]
    recent = snapshot.last_promotion_age is not None and snapshot.last_promotion_age <= RECENT_S
    if to == leader.name or away or recent:
        since = (
            f" since {snapshot.last_promotion_age:.0f} s" if snapshot.last_promotion_age is not None else ""
        )
        return AlreadySo(f"{leader.name} leads on timeline {leader.timeline}{since}", leader.name)
    return Refusal(
        f"the primary {leader.name} is healthy: nothing is lost", "to move it: wmsctl failover switchover"
    )


def _behind(member: MemberView | None, best: MemberView) -> str:
    assert member is not None
    if member.position < best.position:
        return f"it is {size(best.position - member.position)} behind {best.name}"
    return f"{best.name} is as advanced and has the higher failover_priority"


def _loss(snapshot: Snapshot, chosen: MemberView) -> Loss:
    known = [m.position for m in snapshot.members if m.answers] + [snapshot.store.optime or 0]
    behind = max(known) - chosen.position if snapshot.store.optime is not None else None
    return Loss(None if behind is None else max(0, behind), chosen.heartbeat_age)


def _promotion_steps(
    snapshot: Snapshot, dead: str, expected: str, *, fence: bool, key: bool, manual: bool
) -> tuple[str, ...]:
    steps = []
    if fence:
        steps.append(f"fence {dead}: kill every process of the node, keep it off, prove both")
        if key:
            steps.append(f"end the lease of {dead} in the store (only if it is unchanged)")
    elif key:
        steps.append(f"wait for the lease of {dead} to run out")
    if manual:
        steps.append(f"ask Patroni for {expected} by name, past its checks: commits may be lost")
    else:
        steps.append(f"wait for Patroni's quorum race ({expected} is the most advanced)")
    poolers = ", ".join(pooler.name for pooler in snapshot.poolers)
    steps.append(f"prove a write through every proxy ({', '.join(snapshot.proxies)}) and pooler ({poolers})")
    return tuple(steps)
