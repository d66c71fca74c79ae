"""Process: one supervised server of a node, with its readiness, reloads and careful restarts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec

from stacks.local.provider import leadership, probes, supervision
from stacks.local.provider.accounts import Account, service
from stacks.local.provider.difference import Change
from stacks.local.provider.errors import Cancelled, DeadlineExceeded, NotReady, ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.homes import (
    NAME,
    folder,
    home_problem,
    is_ours,
    node_folder,
    remove_empty,
    remove_file,
    remove_tree,
    require_ours,
    write,
)
from stacks.local.provider.leadership import Leader
from stacks.local.provider.probes import Probe, probe_problem
from stacks.local.provider.procfs import Task, end, environment_of, folder_of, listener, task, under
from stacks.local.provider.rollout import Rollouts, rollouts
from stacks.local.provider.values import Values, contains_unknown
from stacks.local.provider.waiting import pause

Action = Literal["nothing", "reload", "restart", "recreate"]

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED = frozenset({"WMS_NODE", "WMS_PROCESS", "HOME"})
CRASHES = 4
"""Ends right after so many starts mean that it will not come up: waiting for the whole deadline tells no more."""
ORPHAN_SECONDS = 15.0


class Reload(Inputs, frozen=True, kw_only=True):
    """How a changed `reload_on` reaches the server: a signal ("HUP"), or a command run as the service user."""

    signal: str = ""
    command: list[str] = msgspec.field(default_factory=list)


class Rollout(Inputs, frozen=True, kw_only=True):
    """Members of one `group` restart one at a time; with `leader` the one that leads goes last."""

    group: str
    leader: Leader | None = None


class Listen(Inputs, frozen=True, kw_only=True):
    """A port the process opens."""

    address: str
    port: int


class ProcessInputs(Inputs, frozen=True, kw_only=True):
    home: str
    node: str
    name: str
    command: list[str]
    user: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    restart_on: dict[str, str] = msgspec.field(default_factory=dict)
    reload_on: dict[str, str] = msgspec.field(default_factory=dict)
    reload: Reload | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 30
    start_seconds: int = 1
    autorestart: bool = True
    rollout: Rollout | None = None
    probe: Probe = Probe()
    listens: list[Listen] = msgspec.field(default_factory=list)
    """Ports besides the probe's that must be free before it starts."""


@dataclass(frozen=True)
class Observed:
    """What is there before an update.

    `state`: running, stopped, missing or fenced. `same_files`: the generated files are as last written.
    `serving`: the probe passes now.
    """

    state: str
    same_files: bool = True
    serving: bool = True


def decide(old: ProcessInputs, new: ProcessInputs, observed: Observed) -> Action:
    """What an update has to do to the process. Pure.

    recreate: supervisor must forget and learn it again; restart: stop and start (also: start one that is down);
    reload: tell it that its files changed; nothing: a changed probe or rollout concerns nobody but us.
    """
    if observed.state == "fenced":
        return "nothing"
    if observed.state == "missing":
        return "recreate"
    if any(
        getattr(old, field) != getattr(new, field)
        for field in ("stop_signal", "stop_seconds", "start_seconds", "autorestart")
    ):
        return "recreate"
    if any(getattr(old, field) != getattr(new, field) for field in ("command", "environment", "restart_on")):
        return "restart"
    if observed.state != "running" or not observed.same_files or not observed.serving:
        return "restart"
    if old.reload_on != new.reload_on:
        return "reload" if new.reload and (new.reload.signal or new.reload.command) else "restart"
    return "nothing"


class ProcessHandler(Handler[ProcessInputs]):
    """Outputs: program, identity (program@configuration hash), environment_hash, log (path),
    state (running, stopped, missing, fenced, unready).

    A restart or a failover changes none of them; a killed, missing or differently configured process does.
    """

    inputs_type = ProcessInputs
    outputs = ("program", "identity", "environment_hash", "log", "state")
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {"environment_hash": ("environment",)}
    replace_on = frozenset({"home", "node", "name"})
    healthy = "running"

    def __init__(self, groups: Rollouts = rollouts) -> None:
        self.rollouts = groups

    # -- checks and previews -------------------------------------------------------------------------------------

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "home" in inputs and (problem := home_problem(inputs["home"])):
            yield Problem("home", problem)
        for field in ("node", "name"):
            if field in inputs and not NAME.match(inputs[field]):
                yield Problem(field, f"{inputs[field]!r} must be lower-case letters, digits, - and _")
        command = inputs.get("command")
        if command is not None and not (command and os.path.isabs(command[0])):
            yield Problem("command", "must begin with the absolute path of a program")
        for key in inputs.get("environment", ()):
            if not VARIABLE.match(key) or key in RESERVED:
                yield Problem("environment", f"{key!r} cannot be set: it is no variable name, or it is ours")
        for place, name in (
            ("stop_signal", inputs.get("stop_signal", "TERM")),
            ("reload.signal", (inputs.get("reload") or {}).get("signal") or "HUP"),
        ):
            if not hasattr(signal, f"SIG{name}"):
                yield Problem(place, f"there is no signal {name!r}; say TERM, INT, HUP, …")
        if "probe" in inputs and (problem := probe_problem(msgspec.convert(inputs["probe"], Probe))):
            yield Problem("probe", problem)

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        if contains_unknown(inputs):
            return {"state": "running"}
        return {**self.described(self.typed(inputs)), "state": "running"}

    def drift(self, state: Values, inputs: Values) -> Iterator[tuple[str, Change]]:
        yield from super().drift(state, inputs)
        recorded = self.described(self.lenient(state))
        for key in ("identity", "environment_hash"):
            if state.get(key) != recorded[key]:
                yield key, Change("update", by_input=False)

    # -- life ----------------------------------------------------------------------------------------------------

    def make(self, name: str, inputs: ProcessInputs) -> Made:
        account = service(inputs.user)
        require_ours(inputs.home)
        self.put(inputs, account)
        outputs = {**self.described(inputs), "state": "running"}
        client = supervision.Client(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        with self.recorded(inputs, outputs):
            client.stop(program, inputs.stop_seconds)
            client.forget(program)
            client.adopt(program)
            if fenced(inputs):
                return Made(program, {**outputs, "state": "fenced"})
            with self.rollouts.start(inputs.rollout.group, program) if inputs.rollout else nullcontext():
                self.launch(inputs, account)
        return Made(program, outputs)

    def observe(self, resource_id: str, inputs: ProcessInputs, state: Values) -> Values | None:
        found = self.look(inputs)
        on_disk = {
            "identity": identity(inputs, read_text(run_path(inputs)), read_text(conf_path(inputs))),
            "environment_hash": hashed(read_text(env_path(inputs))),
        }
        # One that did not get ready is only well again when it answers its probe.
        if found == "running" and state.get("state") == "unready":
            account = service(inputs.user)
            if probes.attempt(inputs.probe, process_folder(inputs), inputs.environment, account):
                found = "unready"
        return {**on_disk, "state": found}

    def change(self, resource_id: str, state: Values, inputs: ProcessInputs) -> Values:
        account = service(inputs.user)
        require_ours(inputs.home)
        old = self.lenient(state)
        program = supervision.program_name(inputs.node, inputs.name)
        was = self.described(old)
        observed = Observed(
            state=self.look(inputs),
            same_files=all(state.get(key) == was[key] for key in ("identity", "environment_hash")),
            serving=not probes.attempt(inputs.probe, process_folder(inputs), inputs.environment, account)
            if state.get("state") == "unready"
            else True,
        )
        action = decide(old, inputs, observed)
        outputs = {**self.described(inputs), "state": "running"}
        if observed.state == "fenced":
            self.put(inputs, account)
            supervision.Client(inputs.home).adopt(program)
            return {**outputs, "state": "fenced"}
        with self.recorded(inputs, outputs):
            if action == "nothing":
                self.put(inputs, account)
            elif action == "reload":
                self.put(inputs, account)
                self.reload(inputs, account)
            elif not inputs.rollout:
                self.restart(inputs, account, recreate=action == "recreate")
            elif self.serves(inputs, observed):
                leader = inputs.rollout.leader
                with self.rollouts.turn(
                    inputs.rollout.group, program, lambda: leadership.leads(leader, inputs.node)
                ) as leading:
                    if leading and leader:
                        leadership.relieve(leader, inputs.node)
                    self.restart(inputs, account, recreate=action == "recreate")
            else:
                with self.rollouts.start(inputs.rollout.group, program):
                    self.restart(inputs, account, recreate=action == "recreate")
        return outputs

    def remove(self, resource_id: str, inputs: ProcessInputs, state: Values) -> None:
        if not is_ours(inputs.home):
            return
        client = supervision.Client(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        remove_file(conf_path(inputs))
        if supervision.daemon(inputs.home):
            client.stop(program, inputs.stop_seconds)
            client.forget(program)
            client.tolerate((), "reloadConfig")
        path = process_folder(inputs)
        try:
            account = service(inputs.user)
        except ProviderError:
            account = None
        if account:
            end(under(path, account.uid), ORPHAN_SECONDS)
        remove_tree(path)
        remove_empty(os.path.dirname(path), inputs.home)
        log = supervision.log_path(inputs.home, inputs.node, inputs.name)
        for each in (log, f"{log}.1", f"{log}.2"):
            remove_file(each)

    # -- parts ---------------------------------------------------------------------------------------------------

    def recorded(self, inputs: ProcessInputs, outputs: Values) -> Recorded:
        """A context that turns failures into NotReady, so that Pulumi records the half-made and the next up repairs it."""
        return Recorded(supervision.program_name(inputs.node, inputs.name), {**outputs, "state": "unready"})

    @staticmethod
    def described(inputs: ProcessInputs) -> Values:
        """Outputs that follow from the inputs alone."""
        return {
            "program": supervision.program_name(inputs.node, inputs.name),
            "identity": identity(inputs, run_text(inputs), conf_text(inputs)),
            "environment_hash": hashed(supervision.environment_text(inputs.environment)),
            "log": supervision.log_path(inputs.home, inputs.node, inputs.name),
        }

    @staticmethod
    def look(inputs: ProcessInputs) -> str:
        """running, stopped, missing or fenced."""
        if fenced(inputs):
            return "fenced"
        try:
            found = supervision.Client(inputs.home).info(supervision.program_name(inputs.node, inputs.name))
        except Unreachable:
            return "missing"
        if found is None:
            return "missing"
        return "running" if found.state in ("RUNNING", "STARTING") else "stopped"

    @staticmethod
    def serves(inputs: ProcessInputs, observed: Observed) -> bool:
        """Whether stopping it takes something away from the group: it runs, or its orphan does."""
        return observed.state == "running" or orphan(inputs) is not None

    @staticmethod
    def put(inputs: ProcessInputs, account: Account) -> None:
        """Write the run script, the environment and supervisor's file; those that are right already stay."""
        home, node = inputs.home, inputs.node
        folder(node_folder(home, node), account, 0o750)
        folder(process_folder(inputs), account, 0o750)
        for path, text, mode in (
            (run_path(inputs), run_text(inputs), 0o700),
            (env_path(inputs), supervision.environment_text(inputs.environment), 0o600),
            (conf_path(inputs), conf_text(inputs), 0o640),
        ):
            if read_text(path) != text or stat.S_IMODE(os.stat(path).st_mode) != mode:
                write(path, text, mode, account)

    def restart(self, inputs: ProcessInputs, account: Account, *, recreate: bool) -> None:
        """Stop it, write its files, start it, wait until it is ready."""
        client = supervision.Client(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        client.stop(program, inputs.stop_seconds)
        self.put(inputs, account)
        if recreate:
            client.forget(program)
        client.adopt(program)
        self.launch(inputs, account)

    @staticmethod
    def reload(inputs: ProcessInputs, account: Account) -> None:
        """Tell the server that its files changed, and see that it still serves."""
        program = supervision.program_name(inputs.node, inputs.name)
        reload = inputs.reload or Reload()
        if reload.signal:
            supervision.Client(inputs.home).signal(program, reload.signal)
        else:
            problem = probes.try_command(reload.command, process_folder(inputs), inputs.environment, account)
            if problem:
                raise ProviderError(f"{program} was not reloaded: {problem}", log_advice(inputs))
        pause(0.2)  # a server that dies of its new configuration does so within milliseconds
        await_ready(inputs, account)

    @staticmethod
    def launch(inputs: ProcessInputs, account: Account) -> None:
        """Start a stopped program: end its orphan, see that its ports are free, start, wait until it is ready."""
        program = supervision.program_name(inputs.node, inputs.name)
        left = orphan(inputs)
        if left:
            end([left], ORPHAN_SECONDS)
        require_free_ports(inputs)
        supervision.Client(inputs.home).start(program)
        await_ready(inputs, account)


class Recorded:
    """See ProcessHandler.recorded."""

    def __init__(self, program: str, outputs: Values) -> None:
        self.program = program
        self.outputs = outputs

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ProviderError) and not isinstance(error, NotReady | Cancelled):
            raise NotReady(error, self.program, self.outputs) from error


def await_ready(inputs: ProcessInputs, account: Account) -> None:
    """Wait until supervisor calls it RUNNING and its probe passes.

    Raises ProviderError with the end of its log when it crashes again and again, and at the probe's deadline.
    """
    client = supervision.Client(inputs.home)
    program = supervision.program_name(inputs.node, inputs.name)
    limit = time.monotonic() + inputs.probe.timeout_s
    crashes: set[int] = set()
    problem = "it did not start"
    while True:
        found = client.info(program)
        if found is None:
            raise ProviderError(f"supervisor has forgotten {program}", "Run pulumi up --refresh")
        if found.state == "RUNNING":
            problem = probes.attempt(inputs.probe, process_folder(inputs), inputs.environment, account)
            if not problem:
                return
        elif found.state == "BACKOFF":
            crashes.add(found.started)
            problem = found.reason
        if found.state in ("FATAL", "EXITED", "STOPPED") or len(crashes) >= CRASHES:
            if fenced(inputs):
                raise ProviderError(
                    f"node {inputs.node} was powered off meanwhile",
                    "Power it on, then run pulumi up --refresh",
                )
            raise ProviderError(
                f"{program} does not stay up: {found.reason}{occupied(inputs)}{log_tail(inputs)}"
            )
        if time.monotonic() >= limit:
            raise DeadlineExceeded(
                f"{program} is not ready after {inputs.probe.timeout_s:g} s: {problem}{occupied(inputs)}{log_tail(inputs)}"
            )
        pause(inputs.probe.interval_s)


def log_tail(inputs: ProcessInputs) -> str:
    """The end of the process's log, for an error."""
    path = supervision.log_path(inputs.home, inputs.node, inputs.name)
    return f"\nThe end of its log ({path}):\n{supervision.last_lines(path)}"


def log_advice(inputs: ProcessInputs) -> str:
    """Where to look."""
    return f"Its log is {supervision.log_path(inputs.home, inputs.node, inputs.name)}"


def ports(inputs: ProcessInputs) -> list[tuple[str, int]]:
    """Addresses and ports that the process is to open."""
    probed = [(inputs.probe.address, inputs.probe.port)] if inputs.probe.kind in ("tcp", "http") else []
    return probed + [(each.address, each.port) for each in inputs.listens]


def occupied(inputs: ProcessInputs) -> str:
    """Who else holds one of its ports, as an addition to an error; "" when nobody."""
    for address, port in ports(inputs):
        holder = listener(address, port)
        if holder and not works_here(inputs, holder.pid):
            return f"; {holder} holds {address}:{port}"
    return ""


def require_free_ports(inputs: ProcessInputs) -> None:
    """Raise ProviderError naming who holds a port of a process that is about to start.

    Without it the probe would pass against a stranger. What works in the process's own folder is no stranger: the
    PostgreSQL of a Patroni that died, which the new one adopts.
    """
    for address, port in ports(inputs):
        holder = listener(address, port)
        if holder and not works_here(inputs, holder.pid):
            program = supervision.program_name(inputs.node, inputs.name)
            raise ProviderError(
                f"{program} cannot start: {holder} holds {address}:{port}",
                "Stop it, or choose another network or port in the platform's spec",
            )


def works_here(inputs: ProcessInputs, pid: int) -> bool:
    """Whether process `pid` works in this process's folder."""
    place = folder_of(pid) if pid else ""
    mine = process_folder(inputs)
    return place == mine or place.startswith(f"{mine}/")


def orphan(inputs: ProcessInputs) -> Task | None:
    """The server itself, when it outlived its supervisord: the run script wrote its pid. Its children are left out."""
    text = read_text(f"{process_folder(inputs)}/pid")
    found = task(int(text)) if text and text.strip().isdigit() else None
    if not found or not found.alive or not works_here(inputs, found.pid):
        return None
    if environment_of(found.pid).get("WMS_PROCESS") != f"{inputs.node}/{inputs.name}":
        return None
    return found


def fenced(inputs: ProcessInputs) -> bool:
    """Whether the node is powered off."""
    return os.path.lexists(f"{node_folder(inputs.home, inputs.node)}/power-off")


def process_folder(inputs: ProcessInputs) -> str:
    """Folder and working directory of the process."""
    return f"{node_folder(inputs.home, inputs.node)}/{inputs.name}"


def run_path(inputs: ProcessInputs) -> str:
    """The script that supervisor runs."""
    return f"{process_folder(inputs)}/run"


def env_path(inputs: ProcessInputs) -> str:
    """The environment, secrets among it."""
    return f"{process_folder(inputs)}/env"


def conf_path(inputs: ProcessInputs) -> str:
    """Supervisor's file."""
    return f"{inputs.home}/supervisor/conf.d/{supervision.program_name(inputs.node, inputs.name)}.conf"


def run_text(inputs: ProcessInputs) -> str:
    """Content of run_path."""
    fingerprint = hashed(json.dumps(inputs.restart_on, sort_keys=True))
    return supervision.run_text(inputs.home, inputs.node, inputs.name, inputs.command, fingerprint)


def conf_text(inputs: ProcessInputs) -> str:
    """Content of conf_path."""
    return supervision.program_text(
        inputs.home,
        inputs.node,
        inputs.name,
        stop_signal=inputs.stop_signal,
        stop_seconds=inputs.stop_seconds,
        start_seconds=inputs.start_seconds,
        autorestart=inputs.autorestart,
    )


def identity(inputs: ProcessInputs, run: str | None, conf: str | None) -> str:
    """program@hash of its generated files; "program@missing" without them."""
    program = supervision.program_name(inputs.node, inputs.name)
    return (
        f"{program}@{hashed(run + conf)[:16]}"
        if run is not None and conf is not None
        else f"{program}@missing"
    )


def hashed(text: str | None) -> str:
    """SHA-256, hexadecimal; "missing" for None."""
    return "missing" if text is None else hashlib.sha256(text.encode()).hexdigest()


def read_text(path: str) -> str | None:
    """The file's content, or None when it cannot be read. Links are not followed: the service user owns the folder."""
    try:
        with os.fdopen(
            os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8", errors="replace"
        ) as file:
            return file.read()
    except OSError:
        return None
