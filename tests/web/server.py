"""What stands in for the platform in the tests of the web application: its files, and an API that takes and answers
what the service's declaration says (tests/web/contract.py).

Real sockets, so that a browser finds a real network; stopped, it is a real loss of it.
"""

from __future__ import annotations

import gzip
import json
import mimetypes
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tests.web import contract
from wms.api.problem import Problem

DIST = Path(__file__).resolve().parents[2] / "wms" / "web" / "dist"
KEYS = {"key-one": 1, "key-two": 2}
START = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
# fmt: off
NAMES = (
    ("Parafuso aço inox 40 mm", "parafuso"), ("Rolamento industrial 62 mm", "rolamento"),
    ("Correia reforçada 120 mm", "correia"), ("Tinta acrílica leve 3,6 L", "tinta-acrilica"),
    ("Lâmpada econômica 9 W", "lampada"), ("Luva de proteção resistente à água", "luva-de-protecao"),
    ("Chave de fenda profissional 200 mm", "chave-de-fenda"), ("Caixa de papelão 60 mm", "caixa-de-papelao"),
)
# fmt: on
STATES = ("NEW", "ALLOCATED", "PICKING", "PICKED", "SHIPPED", "CANCELLED")
CUSTOMERS = ("Ferragens Aurora", "Oficina São João", "Construtora Vale Verde", "Mercado Central")


def sku(number: int, tenant: int) -> dict[str, Any]:
    """The SKU number 1, 2, …"""
    name, image = NAMES[-1] if number > 90 else NAMES[(number - 1) % (len(NAMES) - 1)]
    return {
        "sku": f"SKU-{number:06d}",
        "name": name if tenant == 1 else f"{name} ({tenant})",
        "barcode": f"789{number:010d}",
        "unit": "un",
        "weight_g": 120 * number,
        "abc_class": "ABBCCC"[number % 6],
        "image": image,
        "updated_at": stamp(hours=number),
    }


def stamp(**ago: float) -> str:
    """A time before START as the API writes it."""
    return (START - timedelta(**ago)).isoformat().replace("+00:00", "Z")


class Warehouse:
    """The state behind the API; all of it may be changed by a test."""

    def __init__(self) -> None:
        self.orders = {number: self._order(number) for number in range(1, 121)}
        self.picks = [self._pick(number) for number in range(1, 5)]
        self.picks_confirmed: list[dict[str, Any]] = []
        self.on_hand = 40

    @staticmethod
    def _order(number: int) -> dict[str, Any]:
        lines = [
            {
                "line_number": line,
                "sku": sku(number + line, 1)["sku"],
                "quantity": 2 * line + 1,
                "unit_price": "12.50",
                "allocated": 0,
                "picked": 0,
            }
            for line in range(1, 4)
        ]
        return {
            "id": number,
            "order_number": f"PED-{number:05d}",
            "warehouse_id": 1,
            "status": STATES[number % 6],
            "priority": 1 + number % 9,
            "total_value": f"{number * 137.5:.2f}",
            "customer_id": number % 4 + 1,
            "created_at": stamp(hours=120 - number),
            "updated_at": stamp(hours=120 - number),
            "order_lines": lines,
            "customer": {
                "id": number % 4 + 1,
                "code": f"C{number % 4}",
                "name": CUSTOMERS[number % 4],
                "city": "Recife",
            },
        }

    @staticmethod
    def _pick(number: int) -> dict[str, Any]:
        found = sku(number, 1)
        return {
            "id": 100 + number,
            "wave_id": 7,
            "sequence": number,
            "order_id": number,
            "line_number": 1,
            "sku": found["sku"],
            "sku_name": found["name"],
            "barcode": found["barcode"],
            "location": f"A-1-{number * 3}",
            "quantity": 4 + number,
            "picked": 0,
            "status": "OPEN",
            "updated_at": stamp(hours=1),
        }

    def summary(self) -> dict[str, Any]:
        """/api/v1/analytics/summary"""
        counts = dict.fromkeys(STATES, 0)
        for order in self.orders.values():
            counts[order["status"]] += 1
        hours = [
            {
                "hour": stamp(hours=23 - n, minutes=20),
                "count": (n * 37 + 11) % 90,
                "units": (n * 53) % 400 + n * 9,
            }
            for n in range(24)
        ]
        return {
            "orders": counts,
            "picks_open": sum(task["status"] == "OPEN" for task in self.picks),
            "receipts_open": 6,
            "movements_per_hour": hours,
            "abc": {"A": 61, "B": 124, "C": 315},
        }

    def get(self, tenant: int, path: str, query: dict[str, str]) -> tuple[int, Any]:
        """(status, content) of a GET below /api/v1."""
        match path.strip("/").split("/"):
            case ["warehouses"]:
                names = (("REC", "Recife"), ("CWB", "Curitiba"))
                data = [{"id": n, "code": code, "name": name} for n, (code, name) in enumerate(names, 1)]
                return 200, _page(data, query)
            case ["skus"]:
                found = [sku(number, tenant) for number in range(1, 131)]
                words = query.get("q", "").casefold()
                abc = query.get("abc_class")
                found = [s for s in found if words in s["name"].casefold() and abc in (None, s["abc_class"])]
                return 200, _page(found, query)
            case ["skus", code] if code.startswith("SKU-"):
                return 200, sku(int(code[4:]), tenant)
            case ["stock"]:
                balances = [
                    {
                        "warehouse_id": 1,
                        "sku": query["sku"],
                        "location": location,
                        "on_hand": self.on_hand + extra,
                        "reserved": 5,
                        "available": self.on_hand + extra - 5,
                        "updated_at": stamp(hours=3),
                    }
                    for location, extra in (("A-1-3", 0), ("C-4-21", 12))
                ]
                return 200, {"data": balances}
            case ["stock", code]:
                warehouses = [
                    {
                        "warehouse_id": 1,
                        "warehouse": "Recife",
                        "on_hand": 2 * self.on_hand + 12,
                        "reserved": 10,
                        "available": 2 * self.on_hand + 2,
                        "locations": 2,
                    }
                ]
                return 200, {
                    "sku": code,
                    "name": "",
                    "on_hand": 2 * self.on_hand + 12,
                    "reserved": 10,
                    "available": 2 * self.on_hand + 2,
                    "warehouses": warehouses,
                }
            case ["orders"]:
                wanted = query.get("status")
                orders = [o for o in reversed(self.orders.values()) if wanted in (None, o["status"])]
                return 200, _page(orders, query)
            case ["orders", number] if int(number) in self.orders:
                return 200, self.orders[int(number)]
            case ["picks"]:
                return 200, _page([task for task in self.picks if task["status"] == "OPEN"], query)
            case ["movements"]:
                kinds = ("receipt", "issue", "adjustment", "transfer")
                rows = [
                    {
                        "id": n,
                        "type": kinds[n % 4],
                        "warehouse_id": int(query["warehouse_id"]),
                        "sku": query.get("sku", f"SKU-{n:06d}"),
                        "quantity": n,
                        "from_location": None if n % 4 == 0 else "A-1-3",
                        "to_location": None if n % 4 == 1 else "B-2-7",
                        "reference": f"PED-{n:05d}" if n % 4 == 1 else None,
                        "posted_at": stamp(minutes=60 - n),
                    }
                    for n in range(60, 0, -1)
                ]
                return 200, _page(rows, query)
            case ["analytics", "summary"]:
                return 200, self.summary()
        return 404, _problem(404, "not-found", "no such resource")

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, content) of a POST below /api/v1."""
        match path.strip("/").split("/"):
            case ["tokens"] if body.get("password") == "right":
                return 201, _signed("access-1")
            case ["tokens"]:
                return 401, _problem(401, "unauthenticated", "wrong user name or password")
            case ["tokens", "refresh"]:
                return 201, _signed("access-2")
            case ["tokens", "revoke"]:
                return 200, {"status": "signed-out"}
            case ["orders", number, "allocate"]:
                order = self.orders[int(number)]
                if order["status"] != "NEW":
                    return 409, _problem(409, "illegal-move", f"order {number} is {order['status']}")
                order["status"] = "ALLOCATED"
                for line in order["order_lines"]:
                    line["allocated"] = line["quantity"]
                return 200, order | {"allocations": _held(order)}
            case ["orders", number, "cancel"]:
                order = self.orders[int(number)]
                order["status"] = "CANCELLED"
                return 200, order | {"released": _held(order)}
            case ["picks", number, "confirm"]:
                task = next(each for each in self.picks if each["id"] == int(number))
                task["picked"] = body["quantity"]
                task["status"] = "PICKED" if body["quantity"] == task["quantity"] else "SHORT"
                self.picks_confirmed.append({"task": task["id"], **body})
                shown = {key: task[key] for key in ("id", "sku", "status", "quantity", "picked", "order_id")}
                return 200, shown | {"order_status": "PICKING", "transaction_id": 9, "on_hand": self.on_hand}
        return 404, _problem(404, "not-found", "no such resource")


class Server:
    """The server on one address; `stop` and `start` are the loss and the return of the network.

    `seen` holds every request as (method, path with query, headers). `delay_s` and `failing` are for /api.
    """

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.url = f"http://{address}:{port}"
        self.warehouse = Warehouse()
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.drift: list[str] = []
        """Answers of this one that are none of the service's."""
        self.delay_s = 0.0
        self.failing = False
        self._http: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen; does nothing when it does already."""
        if self._http is not None:
            return
        self._http = _Http((self.address, self.port), _handler(self))
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """From now on connections are refused."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def asked(self, part: str, method: str = "GET") -> list[str]:
        """The paths of the requests that contain `part`."""
        return [path for each, path, _ in self.seen if each == method and part in path]

    def accepted(self, part: str) -> str:
        """The Accept of the first request whose path contains `part`."""
        return next(headers.get("accept", "") for _, path, headers in self.seen if part in path)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # Without kept connections: a stopped server must not go on answering through one.
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _answer(self, raw: bytes | None) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.seen.append((self.command, self.path, headers))
            url = urlsplit(self.path)
            if url.path.startswith("/images/"):
                self._image(url.path.removeprefix("/images/"), headers.get("accept", ""))
                return
            if not url.path.startswith("/api/"):
                self._file(unquote(url.path))
                return
            time.sleep(server.delay_s)
            path = unquote(url.path.removeprefix("/api/v1"))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            credential = headers.get("authorization", "").removeprefix("Bearer ")
            tenant = KEYS.get(credential) or (1 if credential.startswith("access-") else 0)
            public = path in ("/tokens/refresh", "/tokens/revoke")
            if server.failing:
                status, content = 503, _problem(503, "unavailable", "the database is away")
            elif not tenant and not public:
                status, content = 401, _problem(401, "unauthenticated", "this API key is unknown or revoked")
            else:
                try:
                    meant = contract.asked(self.command, unquote(url.path), url.query, headers, raw or b"")
                    status, content = (
                        server.warehouse.get(tenant, path, query)
                        if raw is None
                        else server.warehouse.post(path, json.loads(raw or b"{}"))
                    )
                    if status < 300:
                        assert meant is not None, f"the service has no {self.command} {url.path}"
                        content = meant.answer(status, content)
                except Problem as problem:
                    status, content = contract.refusal(problem)
                except (AssertionError, msgspec.ValidationError) as error:
                    server.drift.append(f"{self.command} {self.path}: {error}")
                    status, content = 500, _problem(500, "drift", str(error))
            kind = "application/json" if status < 400 else "application/problem+json"
            self._send(status, json.dumps(content).encode(), kind, "private, no-cache")

        def _image(self, name: str, accept: str) -> None:
            """As the gateway does, but in the original's width."""
            ending = "webp" if "image/webp" in accept else "png"
            file = DIST / "images" / f"{name}.{ending}"
            if not re.fullmatch("[a-z-]+", name) or not file.is_file():
                self._send(404, b"", "text/plain", "no-store")
                return
            self._send(200, file.read_bytes(), f"image/{ending}", "public, max-age=86400")

        def _file(self, path: str) -> None:
            file = (DIST / path.lstrip("/")).resolve()
            if not file.is_file() or not file.is_relative_to(DIST):
                # As the gateway does: an address of the application is its page, a missing asset is missing.
                if path.startswith("/assets/"):
                    self._send(404, b"", "text/plain", "no-store")
                    return
                file = DIST / "index.html"
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            kept = "public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache"
            self._send(200, file.read_bytes(), kind, kept)

        def _send(self, status: int, content: bytes, kind: str, kept: str) -> None:
            if len(content) > 512 and "image/" not in kind:
                content = gzip.compress(content, 6)
                encoding = "gzip"
            else:
                encoding = ""
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.send_header("cache-control", kept)
            self.send_header("vary", "Authorization, WMS-Min-LSN, Accept-Encoding")
            if encoding:
                self.send_header("content-encoding", encoding)
            if self.command == "POST":
                self.send_header("wms-commit-lsn", "0/3A000148")
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    return Handler


def _page(rows: list[Any], query: dict[str, str]) -> dict[str, Any]:
    limit, start = int(query.get("limit", 50)), int(query.get("cursor_after", 0))
    more = start + limit < len(rows)
    after = str(start + limit) if more else None
    return {
        "data": rows[start : start + limit],
        "pagination": {"cursor_after": after, "has_more": more, "limit": limit},
    }


def _held(order: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"line_number": n, "sku": line["sku"], "location": "A-1-3", "quantity": line["quantity"]}
        for n, line in enumerate(order["order_lines"], 1)
    ]


def _signed(token: str) -> dict[str, Any]:
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": 900,
        "refresh_token": "wmsr_" + "r" * 43,
        "session_expires_at": stamp(hours=-12),
        "user_id": 1,
        "roles": ["picker"],
        "permissions": ["picking:read", "picking:write"],
    }


def _problem(status: int, kind: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:wms:problem:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
        "request_id": "r1",
    }
