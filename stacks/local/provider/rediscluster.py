"""Redis Cluster as its nodes describe it, and how one is laid out. Asking is I/O, everything else here is
pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stacks.local.provider.errors import Unreachable

SLOTS = 16384
"""Hash slots of a cluster (Redis Cluster specification)."""

Place = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True)
class Access:
    """How to log in to every node; TLS when `ca` is given."""

    user: str = ""
    password: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return f"Access({self.user})"

    def ask(self, place: Place, *command: Any, seconds: float = 5.0) -> Any:
        """One command to one node. Raises Unreachable when it does not answer, redis.ResponseError when it
        refuses.
        """
        import redis

        client = redis.Redis(
            host=place[0],
            port=place[1],
            username=self.user or None,
            password=self.password or None,
            ssl=bool(self.ca),
            ssl_ca_certs=self.ca or None,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            decode_responses=True,
            client_name="pulumi",
        )
        # redis-py parses some answers into its own shapes, which differ between versions: take them as they
        # come.
        client.response_callbacks.clear()
        try:
            with client:
                return client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if isinstance(error, redis.AuthenticationError) or str(error).startswith(
                ("WRONGPASS", "NOAUTH", "NOPERM")
            ):
                raise Unreachable(
                    f"Redis at {place[0]}:{place[1]} refuses the login of {self.user or 'default'}",
                    "Compare the stack's secret with the ACL file of that node",
                ) from None
            raise
        except redis.RedisError as error:
            raise Unreachable(
                f"Redis at {place[0]}:{place[1]} does not answer ({type(error).__name__})",
                "See its log in the folder supervisor/log",
            ) from None


@dataclass(frozen=True)
class Node:
    """One line of CLUSTER NODES."""

    id: str
    place: Place
    flags: frozenset[str]
    master: str
    """Id of its master; "" for a master."""
    slots: frozenset[int]

    @property
    def is_master(self) -> bool:
        """Whether it has the master role (also without slots)."""
        return "master" in self.flags

    @property
    def sound(self) -> bool:
        """Whether the node that was asked can reach it."""
        return not self.flags & {"fail", "fail?", "noaddr", "handshake"}


def parse(text: str, asked: Place) -> tuple[Node, ...]:
    """CLUSTER NODES as nodes; `asked` is the place of the node that answered, which may not know its own
    address.
    """
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 8:
            continue
        flags = frozenset(fields[2].split(","))
        host, _, port = fields[1].partition("@")[0].rpartition(":")
        place = asked if "myself" in flags or not host else (host, int(port))
        slots: set[int] = set()
        for part in fields[8:]:
            if not part.startswith("["):  # [slot->-node]: being moved
                first, _, last = part.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        master = "" if fields[3] == "-" else fields[3]
        found.append(Node(fields[0], place, flags, master, frozenset(slots)))
    return tuple(found)


def view(access: Access, place: Place) -> tuple[Node, ...]:
    """The cluster as the node at `place` sees it. Raises Unreachable."""
    return parse(str(access.ask(place, "CLUSTER", "NODES")), place)


def myself(nodes: Iterable[Node]) -> Node:
    """The node that answered."""
    return next(node for node in nodes if "myself" in node.flags)


def state_ok(access: Access, place: Place) -> bool:
    """Whether the node at `place` calls the cluster ok. Raises Unreachable."""
    return "cluster_state:ok" in str(access.ask(place, "CLUSTER", "INFO"))


def masters_wanted(nodes: int, replicas: int) -> int:
    """How many masters `nodes` nodes make with `replicas` replicas each."""
    return nodes // (1 + replicas)


def choose_masters(places: Sequence[Place], zones: Mapping[Place, str], count: int) -> list[Place]:
    """`count` masters, spread over the zones in turn, in the order given."""
    by_zone: dict[str, list[Place]] = {}
    for place in places:
        by_zone.setdefault(zones.get(place, ""), []).append(place)
    chosen: list[Place] = []
    while len(chosen) < count and any(by_zone.values()):
        for queue in by_zone.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=places.index)


def slot_ranges(count: int) -> list[range]:
    """All slots in `count` ranges of nearly the same size."""
    edges = [round(SLOTS * index / count) for index in range(count + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def runs(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Slots as (first, last) runs, the way CLUSTER ADDSLOTSRANGE takes them."""
    found: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found


def missing_slots(nodes: Iterable[Node], masters: Sequence[Place]) -> dict[Place, list[tuple[int, int]]]:
    """What each of `masters` must still be given, as runs: its range less what somebody has already."""
    nodes = list(nodes)
    taken = frozenset().union(*(node.slots for node in nodes))
    wanted = {}
    for place, part in zip(masters, slot_ranges(len(masters)), strict=True):
        left = runs(slot for slot in part if slot not in taken)
        if left:
            wanted[place] = left
    return wanted


def attachments(nodes: Iterable[Node], zones: Mapping[Place, str]) -> list[tuple[Place, str]]:
    """(place, id of its master) for each master without slots, so that replicas spread
    evenly and over zones.
    """
    nodes = list(nodes)
    owners = {node.id: node for node in nodes if node.is_master and node.slots}
    load = Counter(node.master for node in nodes if node.master in owners)
    if not owners:
        return []

    def together(place: Place, owner: str) -> bool:
        zone = zones.get(place, "")
        return bool(zone) and zones.get(owners[owner].place, "") == zone

    found: list[tuple[Place, str]] = []
    for node in sorted((n for n in nodes if n.is_master and not n.slots), key=lambda n: n.place):
        best = min(owners, key=lambda o: (load[o], together(node.place, o), owners[o].place))
        load[best] += 1
        found.append((node.place, best))
    # Who comes last may find only a master of its own zone left: then exchange with one for whom that is no
    # loss.
    for first, (place, owner) in enumerate(found):
        for second, (other, another) in enumerate(found):
            now = together(place, owner) + together(other, another)
            if (
                together(found[first][0], found[first][1])
                and together(place, another) + together(other, owner) < now
            ):
                found[first], found[second] = (place, another), (other, owner)
                break
    return found


def shortcomings(nodes: Iterable[Node], places: Sequence[Place], replicas: int) -> list[str]:
    """What is wrong with a cluster that should consist of `places`; [] for a sound one."""
    nodes = list(nodes)
    here = {node.place for node in nodes if node.sound}
    found = [f"{host}:{port} is missing" for host, port in places if (host, port) not in here]
    covered = frozenset().union(*(node.slots for node in nodes if node.sound))
    if len(covered) < SLOTS:
        found.append(f"{SLOTS - len(covered)} slots have no master")
    for owner in (node for node in nodes if node.is_master and node.slots):
        count = sum(1 for node in nodes if node.master == owner.id and node.sound)
        if count < replicas:
            found.append(f"{owner.place[0]}:{owner.place[1]} has {count} of {replicas} replicas")
    return found
