"""A platform of the bench's own: made, operated with wmsctl, waited for and removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stacks.local.program import ROOT
from toolchain.env import process_environment
from wmsctl import inventory as contract
from wmsctl.clients.connect import Clients
from wmsctl.clients.patroni import ClusterState
from wmsctl.errors import WmsctlError
from wmsctl.hosts import Hosts, driver
from wmsctl.inventory import Inventory
from wmsctl.secrets import Secrets

UP_S, DOWN_S = 600, 300
WHOLE_S = 60
"""By when a cluster is whole again by itself; then it is helped."""
REPAIR_S = 240
LAG_BYTES = 1 << 20


class BenchError(RuntimeError):
    """The bench cannot go on, or found what must never be found."""


@dataclass(frozen=True)
class Done:
    """A command that ran: its exit code, seconds, and the end of what it printed."""

    code: int
    seconds: float
    text: str


@dataclass(frozen=True)
class Platform:
    """A running platform. `up_s`: how long its making took."""

    name: str
    inventory: Inventory
    secrets: Secrets
    scratch: Path
    """A folder of the bench for this platform, 0700."""
    environment: Mapping[str, str]
    up_s: float

    @property
    def clients(self) -> Clients:
        return Clients(self.inventory, self.secrets)

    @property
    def power(self) -> Hosts:
        return driver(self.inventory)

    @property
    def home(self) -> Path:
        assert self.inventory.hosts is not None
        return Path(self.inventory.hosts.home)

    def wmsctl(self, *arguments: str, timeout: float = 120) -> Done:
        """Run a wmsctl command on this platform."""
        return self.run([program("wmsctl"), "-c", self.name, *arguments], timeout=timeout)

    def patronictl(self, *arguments: str, timeout: float = 120) -> Done:
        """Run a patronictl command on this platform."""
        return self.run([program("patronictl"), "-c", str(self.patroni_file), *arguments], timeout=timeout)

    @property
    def patroni_file(self) -> Path:
        return self.scratch / "patronictl.yml"

    def run(self, command: list[str], *, timeout: float, cwd: Path | None = None) -> Done:
        """Run a command in the platform's environment. Raises BenchError when it does not end in time."""
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                env=dict(self.environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"{' '.join(command[:4])} did not end within {timeout:g} s") from None
        seconds = time.perf_counter() - started
        return Done(done.returncode, seconds, done.stdout.decode(errors="replace")[-2000:])

    def wait_whole(self, seconds: float = WHOLE_S) -> bool:
        """Wait until there is a leader and every other member streams from it in the quorum, and a write passes
        each pooler; False when that takes longer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if not missing(self.clients.patroni().cluster(), len(self.inventory.postgres.members)):
                    for pooler in self.inventory.pools.poolers:
                        self.clients.pooled(pooler).query("SELECT pg_current_xact_id()")
                    return True
            except WmsctlError:
                pass
            time.sleep(0.5)
        return False

    def make_whole(self) -> None:
        """Wait until the cluster is whole, bringing members back that do not come by themselves.

        Raises BenchError naming those that are away when that does not help.
        """
        if self.wait_whole():
            return
        for member in missing(self.clients.patroni().cluster(), len(self.inventory.postgres.members)):
            if any(member == known.node for known in self.inventory.postgres.members):
                say(f"bringing {member} back")
                self.wmsctl("failover", "rejoin", member, "--yes", timeout=REPAIR_S)
        if not self.wait_whole(REPAIR_S):
            away = missing(self.clients.patroni().cluster(), len(self.inventory.postgres.members))
            raise BenchError(f"{self.name} does not become whole again: {', '.join(away)}")

    def leader(self) -> str:
        """The node that leads. Raises BenchError when none does."""
        found = self.clients.patroni().cluster().leader
        if found is None:
            raise BenchError(f"{self.name}: no member leads")
        return found.name


def missing(cluster: ClusterState, members: int) -> list[str]:
    """What keeps the cluster from being whole: names of members, or what else there is; empty when it is."""
    leader = cluster.leader
    if leader is None or not leader.healthy:
        return ["no leader"]
    away = [
        member.name
        for member in cluster.replicas
        if not (
            member.state == "streaming"
            and member.is_synchronous
            and member.timeline == leader.timeline
            and (member.lag or 0) <= LAG_BYTES
        )
    ]
    if len(cluster.members) < members:
        away.append(f"{members - len(cluster.members)} members unknown to the cluster")
    return away


@contextmanager
def running(
    name: str, overrides: Mapping[str, object], removed: list[float] | None = None
) -> Iterator[Platform]:
    """Make the platform `name` from nothing; remove it in the end, whatever happened in between.

    The seconds that the removal took are appended to `removed`. Raises BenchError when it cannot be made.
    """
    base = process_environment()
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    environment = {**base, "WMSCTL_CONFIG": str(scratch / "config"), "WMSCTL_STATE": str(scratch / "state")}
    try:
        if Path(base["WMS_HOME"], name).exists():
            say(f"removing what an earlier run left of {name}")
            lifecycle("down", name, base, "--yes", timeout=DOWN_S)
        say(f"making {name}")
        up_s = lifecycle("up", name, base, "--overrides", json.dumps(overrides), timeout=UP_S)
        say(f"{name} is up after {up_s:.1f} s")
        path = Path(base["WMS_HOME"], name, "inventory.json")
        inventory = contract.load(path)
        platform = Platform(name, inventory, Secrets.load(inventory.secrets), scratch, environment, up_s)
        imported = platform.wmsctl("context", "import", str(path), "--name", name)
        if imported.code != 0:
            raise BenchError(f"wmsctl context import: {imported.text}")
        write_patroni_file(platform)
        platform.make_whole()
        yield platform
    finally:
        say(f"removing {name}")
        try:
            seconds = lifecycle("down", name, base, "--yes", timeout=DOWN_S)
            if removed is not None:
                removed.append(seconds)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def lifecycle(action: str, name: str, environment: Mapping[str, str], *more: str, timeout: float) -> float:
    """What `make up` and `make down` run, on the stack `name`; the seconds it took.

    Raises BenchError with the end of its output when it fails.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", "stacks.local.lifecycle", action, "--stack", name, *more]
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{action} of {name} did not end within {timeout:g} s") from None
    if done.returncode != 0:
        raise BenchError(f"{action} of {name} failed:\n{done.stdout.decode(errors='replace')[-3000:]}")
    return time.perf_counter() - started


def write_patroni_file(platform: Platform) -> None:
    """patronictl's configuration, 0600: it holds the logins of the store and of the REST API."""
    postgres, secrets = platform.inventory.postgres, platform.secrets
    login = {"username": postgres.api.user, "password": secrets.of(postgres.api).reveal()}
    document: dict[str, Any] = {
        "scope": postgres.scope,
        "namespace": "/" + postgres.dcs.prefix.strip("/").rpartition("/")[0] + "/",
        "etcd3": {
            "hosts": [f"{e.address}:{e.port}" for e in postgres.dcs.endpoints],
            "protocol": "https",
            "cacert": platform.inventory.ca,
            "username": "patroni",
            "password": secrets.get("etcd/patroni").reveal(),
        },
        "restapi": {"authentication": login},
        "ctl": {"cacert": platform.inventory.ca, "authentication": login},
    }
    descriptor = os.open(platform.patroni_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(document, stream)  # JSON is YAML


def program(name: str) -> str:
    """Path of a program of the checkout's virtual environment."""
    return str(ROOT / ".venv" / "bin" / name)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
