"""`wmsctl edge purge`: what it asks of each edge, and what it makes of the answers."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.pki import Authority
from wmsctl import inventory as inv
from wmsctl import main
from wmsctl.edge.purge import Purge, wanted
from wmsctl.errors import Usage

TOKEN = "the-purge-token"


class Edges:
    """Two edges that answer as they are told: `answers` is node → (status, X-Edge-Purged or "")."""

    def __init__(self, folder: Path) -> None:
        self.answers = {"edge-1": (200, "yes"), "edge-2": (200, "yes")}
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        self.servers: dict[str, ThreadingHTTPServer] = {}
        authority = Authority()
        self.ca = folder / "ca.crt"
        authority.write_bundle(self.ca)
        for node in self.answers:
            certificate = folder / f"{node}.pem"
            authority.write_node(certificate, (node,), "127.0.0.1")
            server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(node))
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self.servers[node] = server

    def _handler(self, node: str) -> type[BaseHTTPRequestHandler]:
        edges = self

        class Handler(BaseHTTPRequestHandler):
            def do_PURGE(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                edges.asked.append((node, self.command, self.path, headers))
                status, mark = edges.answers[node]
                if headers.get("x-purge-token") != TOKEN:
                    status, mark = 403, ""
                self.send_response(status)
                if mark:
                    self.send_header("X-Edge-Purged", mark)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        return Handler

    def inventory(self, secrets: Path) -> inv.Inventory:
        endpoints = tuple(
            inv.Endpoint(node=node, address="127.0.0.1", port=server.server_address[1], tls=True)
            for node, server in self.servers.items()
        )
        web = inv.Web(edges=endpoints, purge="edge/purge")
        return builders.inventory(web=web, ca=str(self.ca), secrets=f"file:{secrets}")

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()


@pytest.fixture
def edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edges]:
    """Two edges, and wmsctl's context set to them."""
    monkeypatch.setenv("WMSCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("WMSCTL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("WMSCTL_CONTEXT", raising=False)
    made = Edges(tmp_path)
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"edge/purge": TOKEN}))
    secrets.chmod(0o600)
    (tmp_path / "inventory.json").write_text(inv.encode(made.inventory(secrets)))
    assert main.run(["context", "import", str(tmp_path / "inventory.json")]) == 0
    yield made
    made.close()


@pytest.mark.parametrize(
    ("options", "path", "headers"),
    [
        (["--key", "web"], "/", {"xkey-purge": "web"}),
        (["--key", "t1:sku:A%2FB", "--key", "t1"], "/", {"xkey-purge": "t1:sku:A%2FB t1"}),
        (["--url", "/images/a.png"], "/images/a.png", {}),
        (["--url", "https://wms.example/api/v1/x?b=1#c"], "/api/v1/x?b=1", {}),
        (["--all", "--yes"], "/", {"x-purge-all": "yes"}),
    ],
    ids=str,
)
def test_k1_every_edge_is_asked_for_what_was_meant(
    edges: Edges, capsys: pytest.CaptureFixture[str], options: list[str], path: str, headers: dict[str, str]
) -> None:
    edges.answers["edge-2"] = (200, "3")
    capsys.readouterr()
    assert main.run(["edge", "purge", *options, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["purged"]) == ("wmsctl.purge/v1", True)
    assert [(n["node"], n["purged"], n["objects"]) for n in document["nodes"]] == [
        ("edge-1", True, None),
        ("edge-2", True, 3),
    ]
    assert [(node, method, where) for node, method, where, _ in edges.asked] == [
        ("edge-1", "PURGE", path),
        ("edge-2", "PURGE", path),
    ]
    for _, _, _, sent in edges.asked:
        assert {n: v for n, v in sent.items() if n in ("xkey-purge", "x-purge-all")} == headers


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        ((405, ""), 4, "Varnish does not answer there (status 405)"),
        ((200, ""), 4, "Varnish does not answer there (status 200)"),
        ((403, ""), 1, "it refuses the token"),
    ],
)
def test_k1_an_edge_that_did_not_is_named_and_keeps_no_other_from_it(
    edges: Edges, capsys: pytest.CaptureFixture[str], answer: tuple[int, str], code: int, why: str
) -> None:
    edges.answers["edge-1"] = answer
    assert main.run(["edge", "purge", "--key", "web"]) == code
    shown = capsys.readouterr()
    assert why in shown.out and "edge-2  yes" in shown.out
    assert "not purged: edge-1" in shown.err and "purge again" in shown.err


def test_k1_an_edge_that_is_away_is_unreachable(edges: Edges, capsys: pytest.CaptureFixture[str]) -> None:
    edges.servers["edge-2"].shutdown()
    edges.servers["edge-2"].server_close()
    assert main.run(["edge", "purge", "--key", "web", "--timeout", "5"]) == 4
    assert "not purged: edge-2" in capsys.readouterr().err
    del edges.servers["edge-2"]


def test_a_dry_run_asks_nobody_and_all_wants_a_yes(
    edges: Edges, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main.run(["edge", "purge", "--all", "--dry-run"]) == 0
    assert "would purge everything on edge-1, edge-2" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    assert main.run(["edge", "purge", "--all"]) == 3
    assert edges.asked == []


def test_the_audit_log_has_the_purge_and_no_token(edges: Edges, tmp_path: Path) -> None:
    assert main.run(["edge", "purge", "--url", "/a"]) == 0
    (log,) = (tmp_path / "state").rglob("audit.jsonl")
    line = json.loads(log.read_text().splitlines()[-1])
    assert (line["action"], line["result"]) == ("edge purge", "done")
    assert line["facts"] == {"purged": ["edge-1", "edge-2"]}
    assert TOKEN not in log.read_text()


def test_a_platform_without_edges_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WMSCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("WMSCTL_STATE", str(tmp_path / "state"))
    path = tmp_path / "inventory.json"
    path.write_text(inv.encode(builders.inventory(web=inv.Web())))
    assert main.run(["context", "import", str(path)]) == 0
    assert main.run(["-c", "local", "edge", "purge", "--key", "web"]) == 3


@pytest.mark.parametrize(
    ("keys", "url", "everything"),
    [
        ((), "", False),
        (("a",), "/b", False),
        (("a",), "", True),
        (("a b",), "", False),
        (("a\r\nX-Purge-All: yes",), "", False),
        ((), "images/a.png", False),
        ((), "/a b", False),
        ((), "/a\r\nb", False),
    ],
    ids=str,
)
def test_anything_else_is_a_mistake(keys: tuple[str, ...], url: str, everything: bool) -> None:
    with pytest.raises(Usage):
        wanted(keys, url, everything)


def test_a_key_given_twice_is_sent_once() -> None:
    assert wanted(("a", "b", "a"), "", False) == Purge(keys=("a", "b"))
