"""The platform that contract and live tests share: made once for a run, given whole to each test, removed in the end.

`WMS_TEST_INVENTORY=<path of an inventory.json>` takes a local platform that is there already instead, and leaves it
there: the contract tests only look at it, the live tests break and mend it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from bench import rig
from stacks.local.program import ROOT
from toolchain.env import process_environment
from wms.seed import TenantKey, read_keys
from wmsctl import inventory as contract
from wmsctl.clients import procfs
from wmsctl.clients.etcd import etcd_member
from wmsctl.clients.postgres import rows
from wmsctl.clients.supervisor import Supervisor
from wmsctl.deadline import Deadline
from wmsctl.errors import WmsctlError
from wmsctl.ledger.account import Account, Kind
from wmsctl.ledger.record import read
from wmsctl.ledger.writer import LedgerRun, Options
from wmsctl.secrets import Secrets

STACK = "test"
OVERRIDES: dict[str, object] = {"network": "127.41"}
GIVEN = "WMS_TEST_INVENTORY"

RATE = 200.0
"""Writes per second of a ledger: enough that every moment of a fault has writes under way."""
WHOLE_S = 120.0
"""By when a platform is whole again by itself, the supervisor's back-off included."""
POLL_S = 0.1
NOTHING: Mapping[str, str] = {}

T = TypeVar("T")


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Everything that it printed, for messages."""
        return f"exit {self.code}\n{self.out}{self.err}"


@dataclass(frozen=True)
class Live(rig.Platform):
    """The bench's platform, with what tests want to do to it and to know of it."""

    @property
    def project(self) -> Path:
        """The folder of the Pulumi program."""
        return ROOT / "stacks" / "local"

    @cached_property
    def supervisor(self) -> Supervisor:
        assert self.inventory.hosts is not None
        return Supervisor(self.inventory.hosts.supervisor)

    # Commands

    def cli(self, *arguments: str, timeout: float = 120, env: Mapping[str, str] = NOTHING) -> Ran:
        """Run wmsctl on this platform, with `env` added to its environment."""
        return self.ran([rig.program("wmsctl"), "-c", self.name, *arguments], timeout=timeout, env=env)

    def start_cli(self, *arguments: str, env: Mapping[str, str] = NOTHING) -> subprocess.Popen[str]:
        """Start wmsctl on this platform without waiting; the caller waits for it."""
        return subprocess.Popen(
            [rig.program("wmsctl"), "-c", self.name, *arguments],
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def document(self, *arguments: str, codes: Sequence[int] = (0,), timeout: float = 60) -> dict[str, Any]:
        """The JSON document that a wmsctl command prints."""
        done = self.cli(*arguments, "-o", "json", timeout=timeout)
        assert done.code in codes, done.text
        found: dict[str, Any] = json.loads(done.out)
        return found

    def lifecycle(self, action: str, *arguments: str, timeout: float = 300) -> Ran:
        """What `make up` and `make down` run, on this stack."""
        command = [sys.executable, "-m", "stacks.local.lifecycle", action, "--stack", self.name, *arguments]
        return self.ran(command, cwd=ROOT, timeout=timeout)

    def pulumi(self, *arguments: str, timeout: float = 300) -> Ran:
        """The plain CLI in the program's folder, on this stack."""
        command = ["pulumi", *arguments, "--stack", self.name, "--non-interactive", "--color", "never"]
        return self.ran(command, cwd=self.project, timeout=timeout)

    def ran(
        self,
        command: Sequence[str],
        *,
        timeout: float,
        cwd: Path | None = None,
        env: Mapping[str, str] = NOTHING,
    ) -> Ran:
        """Run a command in the platform's environment, its two outputs apart."""
        started = time.monotonic()
        done = subprocess.run(
            list(command),
            env={**self.environment, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    # Looking

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.node for member in self.inventory.postgres.members)

    def replicas(self) -> list[str]:
        """The members that do not lead, in the order of the inventory."""
        leader = self.leader()
        return [name for name in self.members if name != leader]

    def on(self, node: str, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a statement on one member's own port, as superuser in the application's database."""
        member = self.inventory.member(node)
        server = self.clients.superuser(member, database=self.inventory.postgres.database)
        with server.connect(timeout=3, statement_timeout=10, limit=15) as connection:
            return rows(connection, sql, parameters)

    def timeline(self) -> int:
        """The newest that a member is on by its own word; what is in the store lags behind by a turn."""
        found = []
        for member in self.clients.patroni().members:
            with suppress(WmsctlError):
                found.append(member.status(timeout=2).timeline or 0)
        assert any(found), "no member tells its timeline"
        return max(found)

    def postmaster(self, node: str) -> int:
        """Process id of the member's PostgreSQL. Raises FileNotFoundError when it does not run."""
        path = self.home / "nodes" / node / "patroni" / "data" / "postmaster.pid"
        return int(path.read_text().split("\n", 1)[0])

    def pids(self, *processes: str) -> dict[str, int]:
        """Program (`node.process`) → process id by the supervisor's account; all, or only those named so."""
        return {
            program.name: program.pid
            for program in self.supervisor.programs()
            if not processes or program.name.rpartition(".")[2] in processes
        }

    def paused(self) -> dict[str, list[str]]:
        """Pooler → databases that are paused on it; empty when all run."""
        found = {p.name: [d.name for d in p.databases() if d.paused] for p in self.clients.pgbouncers()}
        return {name: databases for name, databases in found.items() if databases}

    def store(self) -> dict[str, bool]:
        """etcd node → whether it is in a quorum."""
        endpoints = self.inventory.postgres.dcs.endpoints
        return {e.node: etcd_member(self.inventory, self.secrets, e).health().healthy for e in endpoints}

    def redis_views(self) -> dict[str, Any]:
        """Redis node → its view of the cluster, for those that answer."""
        found: dict[str, Any] = {}
        for node in self.clients.redis():
            try:
                found[node.name] = node.view()
            except WmsctlError:
                continue
        return found

    def trouble(self) -> list[str]:
        """What keeps the platform from being whole, with a word on each; empty when it is."""
        wrong = [
            f"{node.node} is {node.power}" + (f" without {', '.join(node.down)}" if node.down else "")
            for node in self.power.survey()
            if node.power != "on"
        ]
        wrong += [f"{p.name} is {p.state}" for p in self.supervisor.programs() if p.state != "RUNNING"]
        try:
            cluster = self.clients.patroni().cluster()
            wrong += rig.missing(cluster, len(self.members))
            wrong += ["Patroni is paused"] if cluster.paused else []
            wrong += [f"{pooler} has {names} paused" for pooler, names in self.paused().items()]
            wrong += [f"{node} is in no quorum" for node, well in self.store().items() if not well]
        except WmsctlError as error:
            wrong.append(error.message)
        views = self.redis_views()
        wrong += (
            [f"{e.node} is silent" for e in self.inventory.redis.nodes if e.node not in views]
            if (self.inventory.redis)
            else []
        )
        wrong += [f"{name} sees the cache {view.state}" for name, view in views.items() if view.state != "ok"]
        wrong += [
            f"{name} sees {peer.address} failing"
            for name, view in views.items()
            for peer in view.peers
            if peer.failing
        ]
        return wrong

    # Whole again

    def restore(self) -> None:
        """Make the platform whole, whatever a test did to it. Raises AssertionError naming what is left."""
        if not self.trouble() and self.wait_whole(5):
            return
        for node in self.power.survey():
            if node.power == "frozen":
                self.power.thaw(node.node, deadline=Deadline.after(10))
            elif node.power in ("off", "dying") and node.role != "postgres":
                self.power.power_on(node.node, deadline=Deadline.after(60))
        self.patronictl("resume", "--wait")
        self.cli("failover", "resume", "--yes")
        for member in self.members:
            if (self.home / "nodes" / member / "power-off").exists():
                self.cli("failover", "rejoin", member, "--yes", timeout=240)
        try:
            self.make_whole()
        except rig.BenchError:
            # A test has damaged its data.
            for member in rig.missing(self.clients.patroni().cluster(), len(self.members)):
                self.cli("failover", "rejoin", member, "--rebuild", "--yes", timeout=240)
            self.make_whole()
        try:
            eventually(lambda: not self.trouble(), WHOLE_S / 2, "")
        except AssertionError:
            # What a test left half-made beyond the nodes: a program that stopped, a file that is gone.
            self.lifecycle("up")
            eventually(lambda: not self.trouble(), WHOLE_S / 2, lambda: f"still not whole: {self.trouble()}")

    # Load

    @contextmanager
    def writing(self, *, rate: float = RATE, seconds: float = 120, through: str = "pooler") -> Iterator[Load]:
        """A ledger that writes during the body; see Load."""
        path = self.scratch / f"ledger-{time.time_ns()}.jsonl"
        options = Options(rate=rate, seconds=seconds, through=through)
        run = LedgerRun(self.inventory, self.secrets, options, path)
        with run:
            load = Load(self, run)
            load.flowing(10)
            yield load

    @cached_property
    def tenants(self) -> tuple[TenantKey, ...]:
        """Two tenants with sample data, made on first use, through the migrations' owner as `make demo` does."""
        path = self.scratch / "api-keys.json"
        pools = self.inventory.pools
        done = self.ran(
            [
                *(sys.executable, "-m", "wms.seed", "--tenants", "2", "--warehouses", "1", "--skus", "200"),
                *("--keys-out", str(path)),
            ],
            cwd=ROOT,
            timeout=120,
            env={
                "WMS_DB_HOSTS": ",".join(f"{p.address}:{p.port}" for p in pools.poolers),
                "WMS_DB_WRITE_NAME": pools.write_database,
                "WMS_DB_CA": self.inventory.ca,
                "WMS_OWNER_PASSWORD": self.secrets.get("postgres/owner").reveal(),
            },
        )
        assert done.code == 0, done.text
        return tuple(read_keys(path))

    def web(self) -> urllib3.PoolManager:
        """An HTTPS client that trusts the platform's authority, tries nothing twice, and waits as a caller would."""
        return urllib3.PoolManager(
            ca_certs=self.inventory.ca, retries=False, timeout=30, maxsize=8, num_pools=16
        )

    def stock(self, web: urllib3.PoolManager, url: str, tenant: int = 0) -> urllib3.BaseHTTPResponse:
        """One lookup of stock by the API below `url`."""
        key = self.tenants[tenant].api_key
        return web.request(
            "GET", f"{url}/api/v1/stock/SKU-000001", headers={"Authorization": f"Bearer {key}"}
        )


class Load:
    """A running ledger, and the account that is drawn from it in the end."""

    def __init__(self, platform: Live, run: LedgerRun) -> None:
        self._platform, self._run = platform, run
        self.fault_at: float | None = None

    def fault(self) -> float:
        """Note that a fault is injected now; time.monotonic()."""
        self.fault_at = time.monotonic()
        return self.fault_at

    def acknowledged_since(self, moment: float) -> int:
        """Writes acknowledged after `moment` (time.monotonic()) that are recorded by now."""
        return sum(
            1 for o in read(self._run.path).outcomes if o.kind is Kind.acknowledged and o.done > moment
        )

    def flowing(self, seconds: float, writes: int = 100) -> None:
        """Wait until, from now on, `writes` more are acknowledged. Raises AssertionError after `seconds`."""
        moment = time.monotonic()
        eventually(
            lambda: self.acknowledged_since(moment) >= writes,
            seconds,
            lambda: f"only {self.acknowledged_since(moment)} writes were acknowledged in {seconds:g} s",
            every=0.25,
        )

    def account(self) -> Account:
        """End the run and reconcile it with the rows that are there. Fails unless it is sound: every acknowledged
        write is there, none that failed is, and no unknown one was counted as acknowledged.
        """
        self._run.stop()
        account = self._run.report(fault_at=self.fault_at)
        assert account.trouble == "", account
        assert account.acknowledged > 0, account
        assert account.lost == 0, account
        assert account.contradicted == 0, account
        assert account.unaccounted == 0, account
        assert account.unknown == (account.unknown_present or 0) + (account.unknown_absent or 0), account
        assert account.present == account.acknowledged + (account.unknown_present or 0), account
        kinds = (account.acknowledged, account.failed, account.unknown, account.skipped)
        assert account.scheduled == sum(kinds), account
        return account


def eventually(
    check: Callable[[], T | None],
    seconds: float,
    what: str | Callable[[], str],
    *,
    every: float = POLL_S,
) -> T:
    """The first true value of `check`. Raises AssertionError saying `what` when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(every)


@contextmanager
def shared() -> Iterator[Live]:
    """The platform of this run; see the module. Fails when its removal leaves anything behind."""
    given = os.environ.get(GIVEN, "")
    if given:
        with _existing(Path(given)) as platform:
            yield platform
        return
    with made(STACK, OVERRIDES) as platform:
        yield platform


@contextmanager
def made(name: str, overrides: Mapping[str, object]) -> Iterator[Live]:
    """A platform from nothing, removed in the end; what the removal leaves behind is an AssertionError."""
    with rig.running(name, overrides) as platform:
        live = Live(**{field.name: getattr(platform, field.name) for field in fields(rig.Platform)})
        yield live
    assert left_behind(live.home) == []


@contextmanager
def _existing(path: Path) -> Iterator[Live]:
    inventory = contract.load(path)
    assert inventory.hosts is not None, f"{path}: only a local platform can be tested so"
    scratch = Path(tempfile.mkdtemp(prefix="wms-test-"))
    environment = {
        **process_environment(),
        "WMSCTL_CONFIG": str(scratch / "config"),
        "WMSCTL_STATE": str(scratch / "state"),
    }
    name = Path(inventory.hosts.home).name
    try:
        live = Live(name, inventory, Secrets.load(inventory.secrets), scratch, environment, 0.0)
        imported = live.wmsctl("context", "import", str(path), "--name", name)
        assert imported.code == 0, imported.text
        rig.write_patroni_file(live)
        yield live
        live.restore()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def left_behind(home: Path) -> list[str]:
    """What is left of the stack in `home`: folders, processes, its state and its configuration."""
    found = [f"{home} exists: {sorted(os.listdir(home))}"] if home.exists() else []
    found += [f"process {pid} works in {folder}" for pid, folder in working_below(home).items()]
    state = home.parent / "pulumi" / ".pulumi" / "stacks" / "wms" / f"{home.name}.json"
    configuration = ROOT / "stacks" / "local" / f"Pulumi.{home.name}.yaml"
    return found + [f"{path} exists" for path in (state, configuration) if path.exists()]


def working_below(home: Path) -> dict[int, str]:
    """Process id → working directory, of every process that works below `home`, a removed folder included."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                folder = os.readlink(f"/proc/{entry}/cwd").removesuffix(" (deleted)")
            except OSError:
                continue
            if folder == str(home) or folder.startswith(f"{home}/"):
                found[int(entry)] = folder
    return found


def command_lines() -> dict[int, str]:
    """Process id → arguments, of every process on this machine."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
    return found


def signal_one(platform: rig.Platform, node: str, pid: int, number: Any) -> None:
    """Signal one process of a node by its id, never another one that has it by now."""
    found = [process for process in platform.power.processes(node) if process.pid == pid]
    assert procfs.send(found, number) == 1, f"process {pid} of {node} could not be reached"


def plain(text: str) -> str:
    """`text` in one line, without colour: wrapped messages compare as they read."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
