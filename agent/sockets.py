"""No Nagle delay on Patroni's sockets.

Patroni 4.1 sets keepalive options on its connections to etcd v3 and drops those that urllib3 brings, TCP_NODELAY among
them. A request is two writes (head and body), so the second waits for the receiver's delayed acknowledgement: 40 ms for
each request to the store, and a switchover makes a dozen of them in a row. Its REST server answers in two writes too.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def undelay() -> None:
    """Set TCP_NODELAY on every connection that the Patroni of this process makes or accepts from now on.

    Raises RuntimeError when this Patroni no longer has what is changed here (then the pin in requirements.lock has
    moved and this file must be looked at again).
    """
    from patroni.api import RestApiHandler
    from patroni.dcs.etcd3 import Etcd3

    keepalive = getattr(Etcd3, "set_socket_options", None)
    if keepalive is None or not hasattr(RestApiHandler, "disable_nagle_algorithm"):
        raise RuntimeError("this version of Patroni sets its socket options elsewhere; see agent/sockets.py")

    def set_socket_options(
        store: Any, sock: socket.socket, options: Collection[tuple[int, int, int]] | None
    ) -> None:
        keepalive(store, sock, options)
        sock.setsockopt(*NODELAY)

    Etcd3.set_socket_options = set_socket_options
    RestApiHandler.disable_nagle_algorithm = True
