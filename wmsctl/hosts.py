"""Power over nodes: look, kill, prove dead, freeze, thaw, power on.

`Hosts` is what operations rely on; `LocalPower` is the local target's: a node is a folder, its machine room
this machine. A node is fenced when its power-off file exists (no process of it starts any more), no process
of it lives, and its ports refuse.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING, Protocol

from wmsctl.clients import procfs
from wmsctl.clients.procfs import OsProcess
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Refused, Unknown, Usage
from wmsctl.inventory import Inventory
from wmsctl.journal import now, operator

if TYPE_CHECKING:
    from wmsctl.clients.supervisor import Program

POWER_OFF = "power-off"
SCAN_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Port:
    """A port of a node and what a connection attempt said: "open", "refused" or the trouble."""

    address: str
    port: int
    answer: str


@dataclass(frozen=True)
class Evidence:
    """What was found when a node's death was to be proven. Only `dead` allows to act on it."""

    node: str
    at: str
    powered_off: bool
    """The power-off file exists: no process of the node starts."""
    reason: str
    """What the power-off file says."""
    pids: tuple[int, ...]
    """Processes that still live."""
    opaque: tuple[int, ...]
    """Processes of the service user that could not be looked into."""
    ports: tuple[Port, ...]

    @property
    def dead(self) -> bool:
        return not self.doubts

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the node is not proven dead; empty when it is."""
        found = []
        if not self.powered_off:
            found.append("its power is on: its supervisor may start it again")
        if self.pids:
            found.append(f"processes live: {', '.join(map(str, self.pids[:8]))}")
        if self.opaque:
            found.append(f"this user may not look into {len(self.opaque)} processes of the service user")
        found += [f"{p.address}:{p.port} is {p.answer}" for p in self.ports if p.answer != "refused"]
        return tuple(found)


@dataclass(frozen=True)
class NodePower:
    """A node's power at one moment: on, off (fenced), partly (some processes away), frozen."""

    node: str
    role: str
    zone: str
    address: str
    power: str
    processes: int
    """Living processes of the operating system."""
    down: tuple[str, ...] = ()
    """Supervised processes that have no living process."""
    reason: str = ""


class Hosts(Protocol):
    """A driver of nodes. Every call that changes something is bounded by its deadline
    and proves its result.
    """

    def survey(self) -> tuple[NodePower, ...]: ...
    def processes(self, node: str) -> tuple[OsProcess, ...]: ...
    def kill(self, node: str, *, reason: str, deadline: Deadline) -> Evidence: ...
    def prove_dead(self, node: str) -> Evidence: ...
    def kill_process(self, node: str, process: str) -> int: ...
    def freeze(self, node: str, *, deadline: Deadline) -> int: ...
    def thaw(self, node: str, *, deadline: Deadline) -> int: ...
    def power_on(self, node: str, *, deadline: Deadline) -> tuple[str, ...]: ...


class LocalPower:
    """Nodes of the local target: processes of this machine under one supervisor."""

    def __init__(self, inventory: Inventory) -> None:
        if inventory.hosts is None:
            raise Usage(
                f"{inventory.platform} is not on the local target: wmsctl has no power over its nodes",
                hint="fence the node by the means of its own machine room, then go on without --fence",
            )
        self._inventory = inventory
        self._home = Path(os.path.realpath(inventory.hosts.home))
        self._socket = inventory.hosts.supervisor

    def folder(self, node: str) -> Path:
        """The node's folder. Raises InventoryError for an unknown node, Usage when the
        folder is not there.
        """
        path = self._home / "nodes" / self._inventory.node(node).name
        if not path.is_dir():
            raise Usage(f"the node {node} has no folder {path}", hint="bring the platform up (make up)")
        return path

    def processes(self, node: str) -> tuple[OsProcess, ...]:
        """The node's living processes, by pid, without asking the supervisor (which may be wrong or away)."""
        return procfs.of_node(self.folder(node), node)

    def survey(self) -> tuple[NodePower, ...]:
        """All nodes of the inventory, in its order."""
        return tuple(self._power(node.name) for node in self._inventory.nodes)

    def kill(self, node: str, *, reason: str, deadline: Deadline) -> Evidence:
        """Power the node off: write the power-off file, SIGKILL every process, and prove it. Again is
        harmless.

        Raises Failed naming the doubts when it cannot be proven by the deadline (a process in uninterruptible
        sleep).
        """
        folder = self.folder(node)
        self._fence(folder, reason)
        seen: dict[tuple[int, int], OsProcess] = {}
        while True:
            # Whoever was seen once stays on the list until dead: an orphan loses the parent that it was found
            # by.
            for process in procfs.of_node(folder, node):
                seen[process.pid, process.start] = process
            living = [process for process in seen.values() if procfs.alive(process)]
            if not living:
                evidence = self.prove_dead(node)
                if evidence.dead:
                    return evidence
            else:
                self._send(living, SIGKILL, node)
            if deadline.expired:
                evidence = self.prove_dead(node)
                if evidence.dead:
                    return evidence
                raise Failed(
                    f"the node {node} is powered off but not proven dead: {'; '.join(evidence.doubts)}",
                    hint=f"look at it (wmsctl node list), then run again: wmsctl node kill {node}",
                )
            time.sleep(SCAN_INTERVAL_S)

    def prove_dead(self, node: str) -> Evidence:
        """Look at the fence, the processes and the ports of the node. Changes nothing, never guesses."""
        folder = self.folder(node)
        off, reason = self._fenced(folder)
        pids = tuple(process.pid for process in procfs.of_node(folder, node))
        hidden = () if os.getuid() == 0 else procfs.opaque(folder.stat().st_uid)
        ports = tuple(_probe(address, port) for address, port in ports_of(self._inventory, node))
        return Evidence(node, now(), off, reason, pids, hidden, ports)

    def kill_process(self, node: str, process: str) -> int:
        """SIGKILL the processes of one supervised process, without powering the node off; how many there
        were.

        Raises Usage when none runs.
        """
        found = [p for p in self.processes(node) if p.process == process]
        if not found:
            known = sorted({p.process for p in self.processes(node) if p.process})
            raise Usage(f"{node} runs no process {process!r}; it runs: {', '.join(known) or 'none'}")
        return self._send(found, SIGKILL, node)

    def freeze(self, node: str, *, deadline: Deadline) -> int:
        """SIGSTOP every process of the node until all stand still; how many. Raises
        Refused when none runs.
        """
        return self._until_all(node, SIGSTOP, True, deadline)

    def thaw(self, node: str, *, deadline: Deadline) -> int:
        """SIGCONT every process of the node until none stands still; how many run."""
        return self._until_all(node, SIGCONT, False, deadline)

    def power_on(self, node: str, *, deadline: Deadline) -> tuple[str, ...]:
        """Remove the fence, start every program through the supervisor and wait until all run; their names.

        A program that runs is not touched. Raises Failed naming those that do not come up, Unreachable
        without a supervisor.
        """
        from wmsctl.clients.supervisor import Supervisor

        supervisor = Supervisor(self._socket)
        programs = supervisor.programs(node)  # before the fence falls: without a supervisor nothing changes
        if not programs:
            raise Failed(f"the supervisor knows no program of {node}", hint="bring the platform up (make up)")
        (self.folder(node) / POWER_OFF).unlink(missing_ok=True)

        def running() -> tuple[Program, ...] | None:
            current = supervisor.programs(node)
            for program in current:
                # BACKOFF retries by itself; EXITED (the fence's 78), STOPPED and FATAL have to be told.
                if program.state in ("EXITED", "STOPPED", "FATAL", "UNKNOWN"):
                    supervisor.start(program.name)
            return current if all(program.state == "RUNNING" for program in current) else None

        try:
            return tuple(p.name for p in wait_until(running, deadline, 0.2, f"the processes of {node}"))
        except Unknown:
            away = [p for p in supervisor.programs(node) if p.state != "RUNNING"]
            listed = "; ".join(f"{p.name} is {p.state} {p.trouble}".strip() for p in away)
            raise Failed(
                f"{node} is powered on but not all of it runs: {listed}",
                hint=f"read their logs in {self._home}/supervisor/log/",
            ) from None

    def _power(self, name: str) -> NodePower:
        node = self._inventory.node(name)
        processes = self.processes(name)
        off, reason = self._fenced(self.folder(name))
        down = tuple(sorted(set(node.processes) - {process.process for process in processes}))
        if off:
            power = "off" if not processes else "dying"
        elif processes and all(process.stopped for process in processes):
            power = "frozen"
        else:
            power = "partly" if down else "on"
        return NodePower(name, node.role, node.zone, node.address, power, len(processes), down, reason)

    def _until_all(self, node: str, number: int, stopped: bool, deadline: Deadline) -> int:
        def settled() -> tuple[OsProcess, ...] | None:
            found = self.processes(node)
            if not found:
                raise Refused(f"no process of {node} runs", hint=f"power it on: wmsctl node power-on {node}")
            wrong = [process for process in found if process.stopped != stopped]
            if not wrong:
                return found
            self._send(wrong, number, node)
            return None

        verb = "freeze" if stopped else "thaw"
        return len(wait_until(settled, deadline, SCAN_INTERVAL_S, f"{node} to {verb}", error=Failed))

    def _send(self, processes: list[OsProcess], number: int, node: str) -> int:
        from signal import Signals

        try:
            return procfs.send(processes, Signals(number))
        except PermissionError:
            raise Refused(
                f"this user may not signal the processes of {node}",
                hint="run wmsctl as root or as the user who runs the platform's servers",
            ) from None

    def _fence(self, folder: Path, reason: str) -> None:
        path = folder / POWER_OFF
        text = (
            json.dumps({"at": now(), "operator": operator(), "host": socket.gethostname(), "reason": reason})
            + "\n"
        )
        try:
            # The folder belongs to the service user: a link planted there is not followed.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
        except FileExistsError:
            return
        except OSError as error:
            raise Refused(
                f"cannot write {path}: {error.strerror}; nothing was killed",
                hint="run wmsctl as root or as the user who runs the platform's servers",
            ) from error
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _fenced(folder: Path) -> tuple[bool, str]:
        path = folder / POWER_OFF
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            return False, ""
        except OSError:
            return True, "unreadable"
        try:
            content = json.loads(text)
            return True, f"{content['reason']} ({content['operator']}, {content['at']})"
        except (ValueError, KeyError, TypeError):
            return True, text.strip()[:200]


def driver(inventory: Inventory) -> Hosts:
    """The driver for this platform's nodes. Raises Usage when wmsctl has no power over them."""
    return LocalPower(inventory)


def ports_of(inventory: Inventory, node: str) -> tuple[tuple[str, int], ...]:
    """Every (address, port) that the inventory knows on `node`, sorted."""
    proxies = inventory.proxies
    endpoints = [
        *inventory.postgres.dcs.endpoints,
        *proxies.stats,
        *(inventory.redis.nodes if inventory.redis else ()),
        *inventory.web.edges,
        *inventory.web.gateways,
        *inventory.web.services,
    ]
    monitoring = inventory.monitoring
    endpoints += [endpoint for endpoint in (monitoring.prometheus, monitoring.alertmanager) if endpoint]
    if inventory.store:
        endpoints.append(inventory.store.endpoint)
    found = {(endpoint.address, endpoint.port) for endpoint in endpoints if endpoint.node == node}
    for member in inventory.postgres.members:
        if member.node == node:
            found |= {(member.address, member.port), (member.address, member.api_port)}
            if inventory.backup:
                found.add((member.address, inventory.backup.port))
    found |= {(pooler.address, pooler.port) for pooler in inventory.pools.poolers if pooler.node == node}
    for stats in proxies.stats:
        if stats.node == node:
            ports = (proxies.write_port, proxies.read_port, *proxies.role_ports.values())
            found |= {(stats.address, port) for port in ports}
    return tuple(sorted(found))


def _probe(address: str, port: int, timeout: float = 0.5) -> Port:
    try:
        with socket.create_connection((address, port), timeout):
            return Port(address, port, "open")
    except ConnectionRefusedError:
        return Port(address, port, "refused")
    except TimeoutError:
        # Silence proves nothing: a frozen server with a full backlog is silent, too.
        return Port(address, port, "silent")
    except OSError as error:
        return Port(address, port, errno.errorcode.get(error.errno or 0, "unknown"))
