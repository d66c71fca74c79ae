"""Redis Cluster: what each node says of itself and of the others.

A few commands over RESP and TLS, parsed by hiredis: the full client takes longer to load than `wmsctl status`
to run, and its cluster mode hides the very disagreement between nodes that an operator has to see.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wmsctl.clients.http import tls
from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Endpoint, Inventory
from wmsctl.secrets import Secret, Secrets

SLOTS = 16384


@dataclass(frozen=True)
class RedisPeer:
    """One line of CLUSTER NODES: a node as another one sees it."""

    id: str
    address: str
    port: int
    flags: tuple[str, ...]
    master_id: str
    """Empty for a master."""
    link: str
    slots: int
    """Number of hash slots served."""
    epoch: int

    @property
    def is_master(self) -> bool:
        return "master" in self.flags

    @property
    def failing(self) -> bool:
        """This node believes it failed (fail) or suspects so (fail?)."""
        return "fail" in self.flags or "fail?" in self.flags


@dataclass(frozen=True)
class RedisView:
    """The cluster as one node sees it."""

    node: str
    state: str
    """ok or fail."""
    slots_ok: int
    epoch: int
    peers: tuple[RedisPeer, ...]
    myself: str
    """This node's id."""

    @property
    def me(self) -> RedisPeer | None:
        return next((peer for peer in self.peers if peer.id == self.myself), None)


class RedisConnection:
    """One connection, logged in."""

    def __init__(self, what: str, sock: socket.socket) -> None:
        import hiredis

        self._what = what
        self._socket = sock
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")

    def call(self, *words: str) -> Any:
        """Send one command and return its reply. Raises Failed for an error reply."""
        import hiredis

        encoded = [word.encode() for word in words]
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
        self._socket.sendall(b"*%d\r\n" % len(encoded) + packed)
        while (reply := self._reader.gets()) is False:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("closed by the server")
            self._reader.feed(chunk)
        if isinstance(reply, hiredis.ReplyError):
            # Only the verb: an AUTH carries a password.
            raise Failed(f"{self._what} refuses {words[0]}: {reply}")
        return reply


class RedisNode:
    """One node of the cluster."""

    def __init__(self, endpoint: Endpoint, user: str, password: Secret, ca: str) -> None:
        self.endpoint = endpoint
        self.name = endpoint.node
        self._user = user
        self._password = password
        self._ca = ca

    @contextmanager
    def connect(self, *, timeout: float = 2.0) -> Iterator[RedisConnection]:
        """A logged-in connection; `timeout` seconds bound each read and write. Raises Unreachable, Failed."""
        what = f"Redis on {self.name}"
        try:
            with socket.create_connection((self.endpoint.address, self.endpoint.port), timeout) as raw:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock = (
                    tls(self._ca).wrap_socket(raw, server_hostname=self.endpoint.address)
                    if self.endpoint.tls
                    else raw
                )
                with sock:
                    connection = RedisConnection(what, sock)
                    connection.call("AUTH", self._user, self._password.reveal())
                    yield connection
        except OSError as error:
            where = f"{what} at {self.endpoint.address}:{self.endpoint.port}"
            reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise Unreachable(f"{where} does not answer: {reason}", hint="see: wmsctl status") from error

    def view(self, *, timeout: float = 2.0) -> RedisView:
        """The cluster as this node sees it."""
        with self.connect(timeout=timeout) as connection:
            info = dict(
                line.split(":", 1) for line in connection.call("CLUSTER", "INFO").splitlines() if ":" in line
            )
            peers, myself = parse_nodes(connection.call("CLUSTER", "NODES"))
        return RedisView(
            node=self.name,
            state=info.get("cluster_state", ""),
            slots_ok=int(info.get("cluster_slots_ok", 0)),
            epoch=int(info.get("cluster_current_epoch", 0)),
            peers=peers,
            myself=myself,
        )


def redis_nodes(inventory: Inventory, secrets: Secrets) -> tuple[RedisNode, ...]:
    """A client for each node of the inventory; empty without Redis."""
    if inventory.redis is None:
        return ()
    login, password = inventory.redis.admin, secrets.of(inventory.redis.admin)
    return tuple(
        RedisNode(endpoint, login.user, password, inventory.ca) for endpoint in inventory.redis.nodes
    )


def parse_nodes(text: str) -> tuple[tuple[RedisPeer, ...], str]:
    """CLUSTER NODES → (peers, own id). A line: id host:port@bus[,name] flags master ping pong epoch link
    slot…
    """
    peers, myself = [], ""
    for line in text.splitlines():
        if not line.strip():
            continue
        identifier, where, flags, master, _, _, epoch, link, *ranges = line.split()
        address, _, port = where.split(",")[0].split("@")[0].rpartition(":")
        words = tuple(flags.split(","))
        if "myself" in words:
            myself = identifier
        # [slot->-node] and [slot-<-node] are migrations under way, no ranges.
        slots = sum(_width(part) for part in ranges if not part.startswith("["))
        peers.append(
            RedisPeer(
                identifier,
                address,
                int(port),
                words,
                "" if master == "-" else master,
                link,
                slots,
                int(epoch),
            )
        )
    return tuple(peers), myself


def _width(part: str) -> int:
    first, _, last = part.partition("-")
    return int(last or first) - int(first) + 1
