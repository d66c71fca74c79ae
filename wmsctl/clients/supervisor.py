"""supervisord's XML-RPC over its unix socket."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from typing import Any

from wmsctl.errors import Failed, Unreachable

ALREADY_STARTED, NOT_RUNNING, BAD_NAME = 60, 70, 10
"""supervisor.xmlrpc.Faults that callers tell apart."""


@dataclass(frozen=True)
class Program:
    """A supervised program `<node>.<process>`."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL…"""
    pid: int
    exit_status: int
    trouble: str = ""
    """Why the last start failed."""

    @property
    def node(self) -> str:
        return self.name.rpartition(".")[0]


class Supervisor:
    """The supervisor behind one socket. `timeout` in seconds bounds each call."""

    def __init__(self, path: str, *, timeout: float = 5.0) -> None:
        self.path = path
        # The URL is a form only: the transport below decides where the bytes go.
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path, timeout))

    def programs(self, node: str = "") -> tuple[Program, ...]:
        """The programs of `node` (all without one), by name."""
        found = tuple(
            Program(
                info["name"], info["statename"], info["pid"], info["exitstatus"], info.get("spawnerr", "")
            )
            for info in self._call("getAllProcessInfo")
        )
        return tuple(
            sorted((p for p in found if not node or p.node == node), key=lambda program: program.name)
        )

    def start(self, name: str) -> bool:
        """Begin to start a program without waiting; False when it runs already."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ALREADY_STARTED:
                return False
            raise Failed(f"supervisor cannot start {name}: {fault.faultString}") from fault
        return True

    def stop(self, name: str) -> bool:
        """Begin to stop a program without waiting; False when it does not run."""
        try:
            self._call("stopProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == NOT_RUNNING:
                return False
            raise Failed(f"supervisor cannot stop {name}: {fault.faultString}") from fault
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Unreachable(
                f"the supervisor at {self.path} does not answer: {reason or 'timed out'}",
                hint="it runs the platform's processes: start it again with make up",
            ) from error


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path, self._timeout)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
