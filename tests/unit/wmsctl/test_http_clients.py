"""The HTTP clients against real little servers."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from wmsctl.clients.etcd import Etcd, EtcdMember
from wmsctl.clients.http import Http, StatusError
from wmsctl.clients.patroni import Patroni, PatroniMember, parse_cluster, parse_history, parse_status
from wmsctl.clients.prometheus import Alertmanager, Prometheus
from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Member
from wmsctl.secrets import Secret

Reply = tuple[int, Any]


class Server:
    """Answers with what `reply(method, path, body, headers)` says, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []
        self.reply: Callable[[str, str, Any, dict[str, str]], Reply] = lambda *_: (200, {})
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def answer(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(text) if text else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.command, self.path, body, headers))
                status, document = outer.reply(self.command, self.path, body, headers)
                data = document.encode() if isinstance(document, str) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def client(self, **options: Any) -> Http:
        return Http("Server", "127.0.0.1", self.port, timeout=2.0, **options)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def member(name: str, http: Http) -> PatroniMember:
    return PatroniMember(Member(node=name, address="127.0.0.1", port=1, api_port=http.port), http)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_a_connection_is_kept_and_a_login_is_sent(server: Server) -> None:
    http = server.client(auth=("patroni", Secret("pw")))
    for _ in range(3):
        assert http.get("/x").json() == {}
    assert server.connections == 1
    assert server.requests[0][3]["authorization"] == "Basic " + base64.b64encode(b"patroni:pw").decode()


def test_an_unexpected_status_is_an_error_that_tells_it(server: Server) -> None:
    server.reply = lambda *_: (503, "no leader")
    with pytest.raises(StatusError, match="answered 503 to GET /x: no leader") as caught:
        server.client().get("/x")
    assert caught.value.status == 503


def test_refused_silent_and_vanished_servers_are_unreachable() -> None:
    with pytest.raises(Unreachable, match="Connection refused"):
        Http("Gone", "127.0.0.1", closed_port()).get("/")
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(Unreachable, match=r"Mute at .* timed out"),
    ):
        Http("Mute", "127.0.0.1", mute.getsockname()[1]).get("/", timeout=0.1)


def test_a_get_survives_a_connection_that_the_server_closed(server: Server) -> None:
    http = server.client()
    http.get("/1")
    assert http._connection is not None
    http._connection.sock.shutdown(socket.SHUT_RDWR)
    http.get("/2")
    http._connection.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Unreachable):
        http.request("POST", "/3", body={})  # may have been done: never repeated
    assert [request[1] for request in server.requests] == ["/1", "/2"]


CLUSTER = {
    "members": [
        {
            "name": "pg-1",
            "role": "leader",
            "state": "running",
            "host": "127.40.2.1",
            "port": 5432,
            "timeline": 3,
            "tags": {"failover_priority": 99},
            "pending_restart": True,
        },
        {
            "name": "pg-2",
            "role": "quorum_standby",
            "state": "streaming",
            "host": "127.40.2.2",
            "port": 5432,
            "timeline": 3,
            "lag": 0,
            "receive_lag": 0,
            "receive_lsn": "0/4000060",
            "replay_lag": 16,
            "replay_lsn": "0/4000050",
            "lsn": "0/4000060",
        },
        {
            "name": "pg-3",
            "role": "replica",
            "state": "start failed",
            "lag": "unknown",
            "receive_lsn": "unknown",
            "replay_lag": "unknown",
            "tags": {"nofailover": True},
        },
    ],
    "scope": "wms",
    "pause": True,
    "scheduled_switchover": {"at": "2026-01-01T00:00:00+00:00", "from": "pg-1"},
}


def test_the_cluster_document() -> None:
    cluster = parse_cluster(CLUSTER, "pg-1")
    assert cluster.leader is not None
    assert (cluster.leader.name, cluster.leader.timeline, cluster.leader.pending_restart) == ("pg-1", 3, True)
    assert cluster.paused
    assert cluster.scheduled is not None
    assert (cluster.scheduled.leader, cluster.scheduled.candidate) == ("pg-1", "")
    second, third = cluster.replicas
    assert (second.is_synchronous, second.healthy, second.lag, second.replay_lag) == (True, True, 0, 16)
    assert (third.healthy, third.lag, third.receive_lsn, third.nofailover) == (False, None, "", True)
    assert cluster.get("pg-9") is None
    assert parse_cluster({"members": []}, "x").leader is None


def test_history_and_member_status_documents() -> None:
    rows = parse_history(
        [[1, 50331808, "no recovery target specified", "2026-01-01T00:00:00+00:00", "pg-2"], [2, 7, "x"]]
    )
    assert (rows[0].timeline, rows[0].lsn, rows[0].new_leader) == (1, 50331808, "pg-2")
    assert (rows[1].at, rows[1].new_leader) == ("", "")
    replica = parse_status(
        {
            "state": "running",
            "role": "replica",
            "xlog": {
                "received_location": 9,
                "replayed_location": 8,
                "paused": True,
                "replayed_timestamp": None,
            },
            "quorum_standby": True,
            "cluster_unlocked": True,
            "timeline": 2,
        },
        "pg-2",
    )
    assert (replica.received, replica.replayed, replica.replay_paused, replica.synchronous) == (
        9,
        8,
        True,
        True,
    )
    assert (replica.cluster_unlocked, replica.wal) == (True, None)
    primary = parse_status({"state": "running", "role": "master", "xlog": {"location": 5}}, "pg-1")
    assert (primary.role, primary.wal) == ("primary", 5)


def test_the_cluster_is_asked_through_whoever_answers(server: Server) -> None:
    server.reply = lambda *_: (200, CLUSTER)
    gone = member("pg-1", Http("Patroni on pg-1", "127.0.0.1", closed_port()))
    patroni = Patroni((gone, member("pg-2", server.client())))
    assert patroni.cluster().source == "pg-2"
    assert patroni.cluster().source == "pg-2"
    nobody = Patroni((gone,))
    with pytest.raises(Unreachable, match=r"no Patroni member answers .*pg-1"):
        nobody.cluster()


def test_a_switchover_reports_what_was_said(server: Server) -> None:
    server.reply = lambda *_: (412, "candidate is not sync")
    answer = member("pg-1", server.client()).switchover("pg-1", "pg-2", timeout=1)
    assert (answer.accepted, answer.status, answer.text) == (False, 412, "candidate is not sync")
    assert server.requests[0][:3] == ("POST", "/switchover", {"leader": "pg-1", "candidate": "pg-2"})
    server.reply = lambda *_: (401, "")
    with pytest.raises(Failed, match="refuses the login"):
        member("pg-1", server.client()).restart(timeout=1)


class Store:
    """etcd's JSON gateway as far as the client uses it."""

    def __init__(self, auth: bool = True) -> None:
        self.auth = auth
        self.token = "t1"
        self.revision = 7
        self.present = True

    def __call__(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
        if path == "/health":
            return 200, {"health": "true"}
        if path == "/v3/auth/authenticate":
            if not self.auth:
                return 400, {"error": "etcdserver: authentication is not enabled"}
            if body["password"] != "pw":
                return 400, {"error": "etcdserver: authentication failed, invalid user ID or password"}
            return 200, {"token": self.token}
        if self.auth and headers.get("authorization") != self.token:
            return 401, {"error": "etcdserver: invalid auth token"}
        if path == "/v3/kv/range":
            key = {
                "key": body["key"],
                "value": base64.b64encode(b"pg-1").decode(),
                "mod_revision": str(self.revision),
                "create_revision": "3",
                "lease": "42",
            }
            return 200, {"kvs": [key]} if self.present else {}
        if path == "/v3/kv/txn":
            wanted = {compare["target"]: compare for compare in body["compare"]}
            assert {compare["result"] for compare in wanted.values()} == {"EQUAL"}
            hit = self.present and wanted["MOD"]["mod_revision"] == str(self.revision)
            self.present = self.present and not hit
            return 200, {"succeeded": True} if hit else {"header": {}}
        return 200, {"header": {"member_id": "5"}, "leader": "5"}


def etcd(server: Server, password: str = "pw") -> Etcd:
    return Etcd((EtcdMember(server.client(), "etcd-1", "root", Secret(password)),), "/service/wms/")


def test_the_leader_key_is_deleted_only_as_it_was_seen(server: Server) -> None:
    store = server.reply = Store()
    client = etcd(server)
    seen = client.leader()
    assert seen is not None
    assert (seen.key, seen.value, seen.mod_revision, seen.lease) == ("/service/wms/leader", "pg-1", 7, 42)
    store.revision = 8  # somebody renewed or took it
    assert client.delete_leader(seen) is False
    assert store.present
    again = client.leader()
    assert again is not None
    assert client.delete_leader(again) is True
    assert client.leader() is None


def test_an_expired_token_is_renewed_and_a_wrong_password_is_said(server: Server) -> None:
    store = server.reply = Store()
    client = etcd(server)
    client.leader()
    store.token = "t2"
    assert client.leader() is not None
    with pytest.raises(Unreachable, match="refuses the login of root"):
        etcd(server, "wrong").leader()
    server.reply = Store(auth=False)
    assert etcd(server).leader() is not None


def test_a_member_without_quorum_is_unreachable_not_empty(server: Server) -> None:
    store = Store()
    server.reply = lambda m, p, b, h: (
        (503, {"error": "etcdserver: request timed out"}) if p == "/v3/kv/range" else store(m, p, b, h)
    )
    with pytest.raises(Unreachable, match="no etcd member answers"):
        etcd(server).leader()


def test_health_of_store_members(server: Server) -> None:
    server.reply = Store()
    good = etcd(server).members[0].health()
    assert (good.healthy, good.leader) == (True, True)
    server.reply = lambda *_: (503, {"health": "false", "reason": "RAFT NO LEADER"})
    assert etcd(server).members[0].health().trouble == "RAFT NO LEADER"
    away = EtcdMember(Http("etcd on etcd-2", "127.0.0.1", closed_port()), "etcd-2", "root", Secret("pw"))
    assert not away.health().healthy


def test_alerts_come_critical_first(server: Server) -> None:
    def alert(name: str, severity: str) -> dict[str, Any]:
        return {
            "labels": {"alertname": name, "severity": severity},
            "annotations": {"summary": f"{name}!", "runbook_url": "r"},
            "startsAt": "2026-01-01T00:00:00Z",
        }

    server.reply = lambda *_: (200, [alert("B", "info"), alert("A", "warning"), alert("C", "critical")])
    found = Alertmanager(server.client()).firing()
    assert (found[0].name, found[0].severity, found[0].summary) == ("C", "critical", "C!")
    assert [a.name for a in found] == ["C", "A", "B"]
    assert "silenced=false" in server.requests[0][1]


def test_instant_queries(server: Server) -> None:
    vector = {"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1, "2.5"]}]}
    server.reply = lambda *_: (200, {"status": "success", "data": vector})
    [sample] = Prometheus(server.client()).query('up{a="b"}')
    assert (sample.labels, sample.value) == ({"a": "b"}, 2.5)
    server.reply = lambda *_: (400, {"status": "error", "error": "parse error"})
    with pytest.raises(Failed, match="parse error"):
        Prometheus(server.client()).query("up{")
