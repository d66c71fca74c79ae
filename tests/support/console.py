"""A pooler's admin console that speaks enough of PostgreSQL's protocol for the real client: SHOW, PAUSE, RESUME.

It accepts any login (what is tested is what is done there), over TLS with a throw-away authority.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.pki import Authority

DATABASE_COLUMNS = ("name", "host", "port", "pool_size", "current_connections", "paused", "disabled")


class FakeConsole:
    """One pooler on a port of its own; `commands` are those that changed something, in order."""

    def __init__(
        self, folder: Path, databases: tuple[str, ...] = ("wms", "wms_read"), name: str = "proxy-1"
    ) -> None:
        self.name = name
        self.paused = dict.fromkeys(databases, False)
        self.commands: list[str] = []
        self.busy: set[str] = set()
        """Databases with a transaction that does not end: PAUSE there gives no answer."""
        self.ca = folder / "ca.crt"
        authority = Authority()
        authority.write_bundle(self.ca)
        certificate = folder / f"{name}.pem"
        authority.write_node(certificate, (name,), "127.0.0.1")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sessions: list[socket.socket] = []
        self._accepting = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def order(self) -> dict[str, object]:
        """What the guard is told of this pooler."""
        return {
            "name": self.name,
            "address": "127.0.0.1",
            "port": self.port,
            "user": "pooler_admin",
            "password": "hunter2-in-the-pipe",
            "ca": str(self.ca),
        }

    def cut(self) -> None:
        """Break every open session, as the restart of a proxy in between would."""
        for session in self._sessions:
            with suppress(OSError):
                session.shutdown(socket.SHUT_RDWR)
        self._sessions.clear()

    def close(self) -> None:
        if not self._accepting:
            return
        self._accepting = False
        # A blocked accept() is woken by a connection, not by close().
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._thread.join(5)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if not self._accepting:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError, EOFError):
            _read(plain, struct.unpack("!I", _read(plain, 4))[0] - 4)  # SSLRequest
            plain.sendall(b"S")
            session = self._tls.wrap_socket(plain, server_side=True)
            self._sessions.append(session)
            _read(session, struct.unpack("!I", _read(session, 4))[0] - 4)  # the startup message
            session.sendall(_message(b"R", struct.pack("!I", 0)) + READY)
            while True:
                kind = _read(session, 1)
                body = _read(session, struct.unpack("!I", _read(session, 4))[0] - 4)
                if kind == b"X":
                    return
                if kind == b"Q":
                    session.sendall(self._answer(body.rstrip(b"\0").decode()))

    def _answer(self, sql: str) -> bytes:
        verb, _, argument = sql.partition(" ")
        if verb == "SHOW" and argument == "DATABASES":
            known = [(name, "h", "1", "5", "0", str(int(on)), "0") for name, on in self.paused.items()]
            return _table(DATABASE_COLUMNS, known)
        if verb == "SHOW" and argument == "SERVERS":
            rows = [("active", name, "99") for name in sorted(self.busy)]
            return _table(("state", "database", "remote_pid"), rows)
        self.commands.append(sql)
        if verb == "PAUSE":
            self.paused[argument] = True
            return b"" if argument in self.busy else _message(b"C", b"PAUSE\0") + READY
        if verb == "RESUME" and self.paused.get(argument):
            self.paused[argument] = False
            return _message(b"C", b"RESUME\0") + READY
        return _message(b"E", b"SERROR\0C08P01\0Mno\0\0") + READY


READY = b"Z" + struct.pack("!I", 5) + b"I"


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bytes:
    described = b"".join(
        c.encode() + b"\0" + struct.pack("!IHIHIH", 0, 0, 25, 0xFFFF, 0xFFFFFFFF, 0) for c in columns
    )
    answer = _message(b"T", struct.pack("!H", len(columns)) + described)
    for row in rows:
        values = b"".join(struct.pack("!I", len(value)) + value.encode() for value in row)
        answer += _message(b"D", struct.pack("!H", len(row)) + values)
    return answer + _message(b"C", f"SELECT {len(rows)}\0".encode()) + READY


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = source.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
