"""How fast one service process answers, beside pgbench running the same SQL through the same pooler.

    python bench/service.py [--seconds 5] [--connections 16] [--output bench/results/service.json]

It makes a throw-away PostgreSQL with a PgBouncer (TLS on both, fsync off: it is the code that is measured, not the
disk), loads sample data, starts one service process with plain HTTP, and measures in turn: an answer without a
database, a stock lookup and a movement by wrk; then both statements by pgbench through the pooler (`-M extended`,
and for the movement the very message that the service sends) and past it (`-M prepared`). Client, service, pooler
and database share the machine, so ratios matter, not absolute figures. Time: seven runs of `--seconds`, and 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.postgres import (  # noqa: E402
    BINARIES,
    PASSWORDS,
    POOLER_PORT,
    POSTGRES_PORT,
    Database,
    database,
)
from wms.seed import TenantKey, read_keys  # noqa: E402

DATABASE_ADDRESS, SERVICE_ADDRESS = "127.43.19.1", "127.43.19.2"
SKUS = 500

STOCK_SQL = """\\set sku random(1, {skus})
SELECT location, on_hand, updated_at FROM stock_lookup({tenant}, {warehouse}, 'SKU-' || lpad(:sku::text, 6, '0'));
"""
POST_SQL = """\\set sku random(1, {skus})
SELECT outcome, answer FROM post_movement({tenant}, gen_random_uuid()::text, sha256('x'), {warehouse},
    'SKU-' || lpad(:sku::text, 6, '0'), 'receipt', NULL, 'A-1-1', 1, NULL);
"""
# pgbench sends what \; joins as one message, as the service does.
MESSAGE_SQL = """\\set sku random(1, {skus})
BEGIN \\; SELECT outcome, answer FROM post_movement({tenant}, gen_random_uuid()::text, sha256('x'), {warehouse},
    'SKU-' || lpad(:sku::text, 6, '0'), 'receipt', NULL, 'A-1-1', 1, NULL) \\;
    COMMIT \\; SELECT pg_current_wal_flush_lsn()::text;
"""
LUA = """
local n = 0
math.randomseed(os.time())
local run = tostring(math.random(1, 1e9))
request = function()
  n = n + 1
  local sku = string.format("SKU-%06d", math.random(1, {skus}))
  if "{method}" == "GET" then
    return wrk.format("GET", "/api/v1/stock?warehouse_id={warehouse}&sku=" .. sku)
  end
  wrk.headers["Idempotency-Key"] = run .. "-" .. n
  wrk.headers["Content-Type"] = "application/json"
  return wrk.format("POST", "/api/v1/movements", nil, '{{"type":"receipt","warehouse_id":{warehouse},"sku":"' .. sku ..
    '","to_location":"A-1-1","quantity":1}}')
end
"""


@dataclass
class Measured:
    """One run: rate per second, latencies in milliseconds, CPU of the service in microseconds per request."""

    name: str
    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    service_cpu_us: float | None = None


def cpu_seconds(pid: int) -> float:
    """User and system time that process `pid` has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of process `pid`, MiB."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return round(int(match[1]) / 1024, 1) if match else 0.0


def milliseconds(text: str) -> float:
    """wrk's '1.25ms', '850.00us', '1.02s'."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return round(float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit], 3)


def wrk(name: str, pid: int, seconds: int, connections: int, *arguments: str) -> Measured:
    """One run of wrk with one thread. Raises RuntimeError when it reports no rate."""
    before = cpu_seconds(pid)
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    used = cpu_seconds(pid) - before
    out = done.stdout
    rate, total = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"(\d+) requests in", out)
    if rate is None or total is None:
        raise RuntimeError(f"{name}: {out}{done.stderr}")
    latency = dict(re.findall(r"(50|99)%\s+(\S+)", out))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = (int(refused[1]) if refused else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Measured(
        name,
        float(rate[1]),
        milliseconds(latency["50"]),
        milliseconds(latency["99"]),
        errors,
        round(used / int(total[1]) * 1e6, 1),
    )


def pgbench(
    name: str, db: Database, port: int, mode: str, script: Path, seconds: int, connections: int
) -> Measured:
    """One run of pgbench with one thread. Raises RuntimeError when it fails."""
    environment = {
        "PATH": os.environ["PATH"],
        "PGPASSWORD": PASSWORDS["wms_app"],
        "PGSSLMODE": "verify-ca",
        "PGSSLROOTCERT": str(db.home / "ca.crt"),
    }
    where = ["-h", db.address, "-p", str(port), "-U", "wms_app"]
    size = ["-c", str(connections), "-j", "1", "-T", str(seconds)]
    command = [str(BINARIES / "pgbench"), *where, "-n", "-M", mode, *size, "-f", str(script), "wms"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 30)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    if done.returncode or rate is None:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return Measured(name, float(rate[1]), errors=int(failed[1]) if failed else 0)


@contextmanager
def service(
    db: Database, folder: Path, command: Sequence[str] = ("-m", "wms.serve"), **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """One ready service process with plain HTTP, started by Python with `command`."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "WMS_BIND_ADDRESS": SERVICE_ADDRESS,
        "WMS_ACCESS_LOG": "errors",
        "WMS_DRAIN_MS": "0",
        # Counted as every request is, and never refused.
        "WMS_RATE_PREMIUM": "1000000000",
        "WMS_RATE_ANONYMOUS": "1000000000",
        **db.environment(),
        **variables,
    }
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                with urllib.request.urlopen(
                    f"http://{SERVICE_ADDRESS}:8000/health/ready", timeout=2
                ) as answer:
                    if json.load(answer)["status"] == "ready":
                        break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError((folder / "service.log").read_text())
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def prepare(db: Database, folder: Path) -> TenantKey:
    """Schema and sample data; the first tenant."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | db.environment()
    keys = folder / "keys.json"
    for command in (["wms.migrations", "up"], ["wms.seed", "--skus", str(SKUS), "--keys-out", str(keys)]):
        subprocess.run(
            [sys.executable, "-m", *command],
            env=environment,
            check=True,
            timeout=60,
            stderr=subprocess.DEVNULL,
        )
    return read_keys(keys)[0]


def measure(seconds: int, connections: int) -> dict[str, object]:
    """All runs; the document that is written."""
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="wms-bench-") as name, database(DATABASE_ADDRESS) as db:
        folder = Path(name)
        tenant = prepare(db, folder)
        values = {"tenant": tenant.tenant_id, "warehouse": tenant.warehouses[0], "skus": SKUS}
        paths = {}
        for file, text in (("stock", STOCK_SQL), ("post", POST_SQL), ("message", MESSAGE_SQL)):
            paths[file] = folder / f"{file}.sql"
            paths[file].write_text(text.format(**values))
        for method in ("GET", "POST"):
            paths[method] = folder / f"{method}.lua"
            paths[method].write_text(LUA.format(**values, method=method))
        base = f"http://{SERVICE_ADDRESS}:8000"
        authorization = ["-H", f"Authorization: Bearer {tenant.api_key}"]
        with service(db, folder) as process:
            pid, shape = process.pid, (seconds, connections)
            idle = rss_mib(pid)
            runs = [
                wrk("GET /health/live", pid, *shape, f"{base}/health/live"),
                wrk("GET stock", pid, *shape, "-s", str(paths["GET"]), *authorization, base),
                wrk("POST movement", pid, *shape, "-s", str(paths["POST"]), *authorization, base),
            ]
            memory = {"idle_rss_mib": idle, "loaded_rss_mib": rss_mib(pid)}
        runs += [
            pgbench("pgbench stock, pooler, extended", db, POOLER_PORT, "extended", paths["stock"], *shape),
            pgbench("pgbench stock, direct, prepared", db, POSTGRES_PORT, "prepared", paths["stock"], *shape),
            pgbench(
                "pgbench movement, pooler, same message", db, POOLER_PORT, "simple", paths["message"], *shape
            ),
            pgbench(
                "pgbench movement, direct, prepared", db, POSTGRES_PORT, "prepared", paths["post"], *shape
            ),
        ]
    rates = {run.name: run.rate for run in runs}
    return {
        "benchmark": "service",
        "started_at": started.isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "load_before": os.getloadavg()[2],
        "parameters": {
            "seconds": seconds,
            "connections": connections,
            "skus": SKUS,
            "workers": 1,
            "fsync": "off",
        },
        "runs": [asdict(run) for run in runs],
        "memory": memory,
        "ratios": {
            "stock_to_pooler": round(rates["GET stock"] / rates["pgbench stock, pooler, extended"], 3),
            "movement_to_pooler": round(
                rates["POST movement"] / rates["pgbench movement, pooler, same message"], 3
            ),
            "stock_to_hello": round(rates["GET stock"] / rates["GET /health/live"], 3),
        },
    }


def table(document: dict[str, object]) -> str:
    """The document for people."""
    lines = [f"{'run':<40} {'per second':>10} {'p50 ms':>8} {'p99 ms':>8} {'errors':>6} {'CPU µs':>7}"]
    for run in document["runs"]:  # type: ignore[attr-defined]
        cells = [
            f"{run[k]:g}" if run[k] is not None else ""
            for k in ("p50_ms", "p99_ms", "errors", "service_cpu_us")
        ]
        lines.append(
            f"{run['name']:<40} {run['rate']:>10.0f} {cells[0]:>8} {cells[1]:>8} {cells[2]:>6} {cells[3]:>7}"
        )
    lines += [f"{key}: {value}" for part in ("ratios", "memory") for key, value in document[part].items()]  # type: ignore[attr-defined]
    return "\n".join(lines)


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, 61), metavar="1-60")
    parser.add_argument("--connections", type=int, default=16, choices=range(1, 257), metavar="1-256")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/service.json")
    arguments = parser.parse_args()
    document = measure(arguments.seconds, arguments.connections)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
