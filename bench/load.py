"""Load and what it tells: wrk for HTTP, pgbench for SQL, each from one thread; readers of their reports are pure."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.rig import BenchError
from bench.stack import cpu_s

PGBENCH = "/usr/lib/postgresql/15/bin/pgbench"
GRACE_S = 30
"""How much longer than it was told a program may take."""
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Shape:
    """How long and by how many connections, each with one request at a time."""

    seconds: int
    connections: int


@dataclass(frozen=True)
class Told:
    """A report: how many requests there were, how many a second, and percentiles of their times."""

    requests: int
    per_s: float
    percentiles_ms: Mapping[int, float]


def read_wrk(text: str) -> Told:
    """The report of `wrk --latency`. Raises BenchError when it has none, or when a request failed: an error may be
    faster than an answer.
    """
    rate, total = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"(\d+) requests in", text)
    if rate is None or total is None:
        raise BenchError(f"wrk reports no rate:\n{text[-2000:]}")
    for trouble in (r"Non-2xx or 3xx responses: \d+", r"Socket errors: .*[1-9].*"):
        if found := re.search(trouble, text):
            raise BenchError(f"wrk: {found.group()}")
    times = re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    percentiles = {int(name): round(float(number) * _MS[unit], 3) for name, number, unit in times}
    return Told(int(total[1]), float(rate[1]), percentiles)


def read_pgbench(text: str) -> Told:
    """The report of `pgbench`. Raises BenchError when it has none, or when a transaction failed."""
    rate = re.search(r"tps = ([\d.]+)", text)
    total = re.search(r"transactions actually processed: (\d+)", text)
    failed = re.search(r"number of failed transactions: (\d+)", text)
    if rate is None or total is None:
        raise BenchError(f"pgbench reports no rate:\n{text[-2000:]}")
    if failed and int(failed[1]):
        raise BenchError(f"pgbench: {failed.group()}")
    return Told(int(total[1]), float(rate[1]), {})


def wrk(
    shape: Shape, pid: int, url: str, script: Path | None = None, authorization: str = ""
) -> dict[str, float]:
    """Requests to `url`, or those of a Lua script, answered by the process `pid`: rate, percentiles, and the CPU time
    that the process took for a request. Raises BenchError.
    """
    command = ["wrk", "--latency", "-t1", f"-c{shape.connections}", f"-d{shape.seconds}s"]
    command += ["-s", str(script)] if script else []
    command += ["-H", f"Authorization: {authorization}"] if authorization else []
    before = cpu_s(pid)
    told = read_wrk(_run([*command, url], os.environ, shape.seconds + GRACE_S))
    return {
        "per_s": round(told.per_s, 1),
        **{f"p{name}_ms": value for name, value in told.percentiles_ms.items()},
        "cpu_us": round((cpu_s(pid) - before) / told.requests * 1e6, 1),
    }


def pgbench(shape: Shape, environment: Mapping[str, str], *arguments: str) -> dict[str, float]:
    """The rate of transactions of pgbench, which finds its server in `environment`. Raises BenchError."""
    size = ["-n", "-c", str(shape.connections), "-j", "1", "-T", str(shape.seconds)]
    told = read_pgbench(run_pgbench([*size, *arguments], environment, shape.seconds + GRACE_S))
    return {"per_s": round(told.per_s, 1)}


def run_pgbench(arguments: list[str], environment: Mapping[str, str], timeout_s: float) -> str:
    """What pgbench printed. Raises BenchError."""
    return _run([PGBENCH, *arguments], {**os.environ, **environment}, timeout_s)


def _run(command: list[str], environment: Mapping[str, str], timeout_s: float) -> str:
    """What a program printed. Raises BenchError when it fails or does not end."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        raise BenchError(f"{command[0]}: exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
