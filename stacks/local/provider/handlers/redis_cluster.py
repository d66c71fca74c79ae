"""RedisCluster: the cluster that running Redis nodes form. It changes no configuration and holds no data
itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from stacks.local.provider import rediscluster
from stacks.local.provider.errors import DeadlineExceeded, ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.rediscluster import Access, Node, Place
from stacks.local.provider.values import Values
from stacks.local.provider.waiting import until

READY_SECONDS = 60.0
AGREE_SECONDS = 90.0
GOSSIP_SECONDS = 15.0


class RedisNode(Inputs, frozen=True, kw_only=True):
    """A node that runs already. `zone`: a replica goes to another zone than its master where that is
    possible.
    """

    address: str
    port: int = 6379
    zone: str = ""


class RedisClusterInputs(Inputs, frozen=True, kw_only=True):
    nodes: list[RedisNode]
    replicas: int = 1
    """Per master."""
    user: str = ""
    password: str = ""
    ca: str = ""


class RedisClusterHandler(Handler[RedisClusterInputs]):
    """Outputs: state (ok, unreachable, or what is wrong). Who is master may change at any time, so it is no
    output.
    """

    inputs_type = RedisClusterInputs
    outputs = ("state",)
    healthy = "ok"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        nodes, replicas = inputs.get("nodes"), inputs.get("replicas", 1)
        if replicas < 0:
            yield Problem("replicas", "must not be negative")
        elif nodes is not None:
            if len({(node.get("address"), node.get("port", 6379)) for node in nodes}) != len(nodes):
                yield Problem("nodes", "names one address and port twice")
            if rediscluster.masters_wanted(len(nodes), replicas) < 3:
                yield Problem(
                    "nodes", f"{len(nodes)} make fewer than 3 masters with {replicas} replicas each"
                )
            elif len(nodes) % (1 + replicas):
                yield Problem(
                    "nodes", f"{len(nodes)} cannot be divided into masters with {replicas} replicas each"
                )

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "ok"}

    def make(self, name: str, inputs: RedisClusterInputs) -> Made:
        return Made(name, self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: RedisClusterInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: RedisClusterInputs, state: Values) -> Values | None:
        access, places = reach(inputs)
        last: Unreachable | None = None
        nodes, troubled = [], []
        for place in places:
            try:
                # A node's own line is the truth about it; what others believe of it lags behind.
                nodes.append(rediscluster.myself(rediscluster.view(access, place)))
                if not rediscluster.state_ok(access, place):
                    troubled.append(f"{place[0]}:{place[1]} does not call the cluster ok")
            except Unreachable as error:
                last = error
        if last and not nodes:
            raise last
        return {
            "state": "; ".join(rediscluster.shortcomings(nodes, places, inputs.replicas) + troubled) or "ok"
        }

    @staticmethod
    def put(inputs: RedisClusterInputs) -> Values:
        """Form the cluster, or finish and mend one: each step is skipped where it is done already."""
        access, places = reach(inputs)
        views = until(
            lambda: all_views(access, places),
            seconds=READY_SECONDS,
            interval=0.3,
            what="all nodes of the Redis cluster answering",
            do="See their logs in the folder supervisor/log",
        )
        refuse_strangers(views, places)
        zones = {(node.address, node.port): node.zone for node in inputs.nodes}
        forget_ghosts(access, views)
        meet(access, places)
        count = rediscluster.masters_wanted(len(places), inputs.replicas)
        assign(access, places, zones, count)
        attach(access, places, zones)

        def sound() -> bool:
            found = all_views(access, places)
            return found is not None and all(
                not rediscluster.shortcomings(nodes, places, inputs.replicas)
                and rediscluster.state_ok(access, place)
                for place, nodes in found.items()
            )

        until(
            sound,
            seconds=AGREE_SECONDS,
            interval=0.3,
            what="every Redis node calling the cluster ok",
            do="See wmsctl status; then run pulumi up again",
        )
        return {"state": "ok"}


def reach(inputs: RedisClusterInputs) -> tuple[Access, list[Place]]:
    """How to log in, and where the nodes are."""
    return (
        Access(inputs.user, inputs.password, inputs.ca),
        [(node.address, node.port) for node in inputs.nodes],
    )


def all_views(access: Access, places: list[Place]) -> dict[Place, tuple[Node, ...]] | None:
    """Every node's view, or None while one does not answer."""
    try:
        return {place: rediscluster.view(access, place) for place in places}
    except Unreachable:
        return None


def refuse_strangers(views: dict[Place, tuple[Node, ...]], places: list[Place]) -> None:
    """Raise ProviderError when a node belongs to a cluster with living nodes that are not ours."""
    for place, nodes in views.items():
        strangers = [node.place for node in nodes if node.sound and node.place not in places]
        if strangers:
            host, port = strangers[0]
            raise ProviderError(
                f"Redis at {place[0]}:{place[1]} belongs to a cluster with {host}:{port},"
                " which is not in the spec",
                "Take that node out (CLUSTER FORGET on every node), or CLUSTER RESET the one that is to join",
            )


def forget_ghosts(access: Access, views: dict[Place, tuple[Node, ...]]) -> None:
    """Make nodes forget those that came back empty under a new id: the old id will never return."""
    import redis

    alive = {rediscluster.myself(nodes).id for nodes in views.values()}
    for place, nodes in views.items():
        for node in nodes:
            if node.id not in alive and not node.sound and not node.slots and node.place in views:
                try:
                    access.ask(place, "CLUSTER", "FORGET", node.id)
                except redis.ResponseError:
                    # A replica does not forget its own master; it learns by gossip once it has another.
                    continue


def meet(access: Access, places: list[Place]) -> None:
    """Introduce the nodes to each other and wait until each knows all.

    Raises DeadlineExceeded naming who does not know whom.
    """
    first, started = places[0], time.monotonic()
    strangers: list[tuple[Place, Place]] = []

    def acquainted() -> bool:
        views = all_views(access, places)
        if views is None:
            return False
        ids = {place: rediscluster.myself(nodes).id for place, nodes in views.items()}
        known = {place: {node.id for node in nodes if node.sound} for place, nodes in views.items()}
        strangers[:] = [
            (one, other) for one in places for other, name in ids.items() if name not in known[one]
        ]
        # One node introduces all, and they hear of each other by gossip; if that comes to a stop, each does.
        patient = time.monotonic() - started < GOSSIP_SECONDS
        for one, other in strangers:
            if one == first or not patient:
                access.ask(one, "CLUSTER", "MEET", other[0], other[1])
        return not strangers

    try:
        until(
            acquainted,
            seconds=AGREE_SECONDS,
            interval=0.5,
            what="the Redis nodes meeting each other",
            do="Their bus port (client port + 10000) must be free and reachable",
        )
    except DeadlineExceeded as error:
        who = ", ".join(f"{one[0]} does not know {other[0]}" for one, other in strangers)
        raise DeadlineExceeded(f"{error.what}: {who or 'some did not answer'}", error.do) from None


def assign(access: Access, places: list[Place], zones: dict[Place, str], count: int) -> None:
    """Give the slots that nobody has to masters."""
    import redis

    nodes = rediscluster.view(access, places[0])
    owners = [node.place for node in nodes if node.is_master and node.slots]
    replicas = {node.place for node in nodes if not node.is_master}
    # Keep those that are masters already; add others, never one that replicates.
    spare = [place for place in places if place not in owners and place not in replicas]
    wanted = rediscluster.choose_masters(places, zones, count) if not owners and not replicas else []
    masters = wanted or (owners + spare)[:count]
    for place, ranges in rediscluster.missing_slots(nodes, sorted(masters, key=places.index)).items():
        for first, last in ranges:
            try:
                access.ask(place, "CLUSTER", "ADDSLOTSRANGE", first, last)
            except redis.ResponseError as error:
                raise ProviderError(
                    f"Redis at {place[0]}:{place[1]} refuses slots {first}-{last}: {error}",
                    "Run pulumi up again",
                ) from None


def attach(access: Access, places: list[Place], zones: dict[Place, str]) -> None:
    """Make every master without slots a replica, once all agree on who owns what."""
    import redis

    def attached() -> bool:
        views = all_views(access, places)
        if views is None:
            return False
        # A node's own line is the truth about itself; views of others lag behind.
        nodes = [rediscluster.myself(each) for each in views.values()]
        todo = rediscluster.attachments(nodes, zones)
        for place, master in todo:
            try:
                access.ask(place, "CLUSTER", "REPLICATE", master)
            except redis.ResponseError:
                # It does not know that master yet: gossip takes a moment.
                continue
        return not todo

    until(attached, seconds=AGREE_SECONDS, interval=0.5, what="the Redis replicas following their masters")
