"""Process: one supervised server of a node, with its readiness, reloads and careful restarts."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import msgspec

from stacks.local.provider import leadership, probes, supervision
from stacks.local.provider.accounts import Account, service
from stacks.local.provider.difference import Change
from stacks.local.provider.errors import Cancelled, DeadlineExceeded, NotReady, ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Made, Problem
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
from stacks.local.provider.probes import Probe, probe_problem
from stacks.local.provider.processes import (
    Observed,
    ProcessInputs,
    Reload,
    conf_path,
    conf_text,
    decide,
    env_path,
    fenced,
    hashed,
    identity,
    occupied,
    orphan,
    process_folder,
    read_text,
    require_free_ports,
    run_path,
    run_text,
)
from stacks.local.provider.procfs import end, under
from stacks.local.provider.rollout import Rollouts, rollouts
from stacks.local.provider.values import Values, contains_unknown
from stacks.local.provider.waiting import pause

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED = frozenset({"WMS_NODE", "WMS_PROCESS", "HOME"})
CRASHES = 4
"""Ends right after so many starts mean that it will not come up: waiting for the whole deadline tells no
more.
"""
ORPHAN_SECONDS = 15.0
RELOAD_SECONDS = 30.0


class ProcessHandler(Handler[ProcessInputs]):
    """Outputs: program, identity (program@configuration hash), environment_hash, log (path),
    state (running, stopped, missing, fenced; unready: does not pass its
    probe; unapplied: a reload failed).

    A restart or a failover changes none of them; a killed, missing or differently configured process does.
    """

    inputs_type = ProcessInputs
    outputs = ("program", "identity", "environment_hash", "log", "state")
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {"environment_hash": ("environment",)}
    replace_on = frozenset({"home", "node", "name"})
    healthy = "running"

    def __init__(self, groups: Rollouts = rollouts) -> None:
        self.rollouts = groups

    # -- checks and previews --

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

    # -- life --

    def make(self, name: str, inputs: ProcessInputs) -> Made:
        account = service(inputs.user)
        require_ours(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        outputs = self.described(inputs)
        if fenced(inputs):
            self.lay_down(inputs, account, recreate=True)
            return Made(program, {**outputs, "state": "fenced"})
        with self.rollouts.start(inputs.rollout.group, program) if inputs.rollout else nullcontext():
            self.restart(inputs, account, recreate=True)
        return Made(program, {**outputs, "state": "running"})

    def observe(self, resource_id: str, inputs: ProcessInputs, state: Values) -> Values | None:
        found = self.look(inputs)
        on_disk = {
            "identity": identity(inputs, read_text(run_path(inputs)), read_text(conf_path(inputs))),
            "environment_hash": hashed(read_text(env_path(inputs))),
        }
        # One that did not get ready is only well again when it answers its probe.
        if found == "running" and state.get("state") == "unapplied":
            found = "unapplied"
        if found == "running" and state.get("state") == "unready":
            account = service(inputs.user)
            if probes.attempt(inputs.probe, process_folder(inputs), inputs.environment, account):
                found = "unready"
        return {**on_disk, "state": found}

    def change(self, resource_id: str, state: Values, inputs: ProcessInputs) -> Values:
        account = service(inputs.user)
        require_ours(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        observed = self.survey(state, inputs, account)
        action = decide(self.lenient(state), inputs, observed)
        outputs = {**self.described(inputs), "state": "running"}
        if observed.state == "fenced":
            self.lay_down(inputs, account, recreate=True)
            return {**outputs, "state": "fenced"}
        if action == "nothing":
            self.put(inputs, account)
        elif action == "reload":
            self.put(inputs, account)
            self.reload(inputs, account)
        elif not inputs.rollout:
            self.restart(inputs, account, recreate=action == "recreate")
        elif self.serves(inputs, observed):
            group, leader = inputs.rollout.group, inputs.rollout.leader
            with self.rollouts.turn(group, program, lambda: leadership.leads(leader, inputs.node)) as leading:
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

    # -- parts --

    def survey(self, state: Values, inputs: ProcessInputs, account: Account) -> Observed:
        """What is there, before an update."""
        was = self.described(self.lenient(state))
        serving = True
        if state.get("state") == "unready":
            serving = not probes.attempt(inputs.probe, process_folder(inputs), inputs.environment, account)
        return Observed(
            state=self.look(inputs),
            same_files=all(state.get(key) == was[key] for key in ("identity", "environment_hash")),
            serving=serving,
            applied=state.get("state") != "unapplied",
        )

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

    def lay_down(self, inputs: ProcessInputs, account: Account, *, recreate: bool) -> None:
        """Stop it, write its files, and let supervisor know it."""
        client = supervision.Client(inputs.home)
        program = supervision.program_name(inputs.node, inputs.name)
        client.stop(program, inputs.stop_seconds)
        self.put(inputs, account)
        if recreate:
            client.forget(program)
        client.adopt(program)

    def restart(self, inputs: ProcessInputs, account: Account, *, recreate: bool) -> None:
        """Stop it, write its files, start it, wait until it is ready.

        Raises NotReady when it was given its new configuration and does not get ready with it: Pulumi records
        that state, so that the next update compares with it and repairs it.
        """
        self.lay_down(inputs, account, recreate=recreate)
        with self.recording(inputs, "unready"):
            self.launch(inputs, account)

    @contextmanager
    def recording(self, inputs: ProcessInputs, state: str) -> Iterator[None]:
        """Turn a failure inside the block into NotReady with `state`."""
        try:
            yield
        except Cancelled:
            raise
        except ProviderError as error:
            program = supervision.program_name(inputs.node, inputs.name)
            raise NotReady(error, program, {**self.described(inputs), "state": state}) from error

    def reload(self, inputs: ProcessInputs, account: Account) -> None:
        """Tell the server that its files changed, and see that it still serves. Raises NotReady as `restart`
        does.
        """
        program = supervision.program_name(inputs.node, inputs.name)
        reload = inputs.reload or Reload()
        with self.recording(inputs, "unapplied"):
            if reload.signal:
                supervision.Client(inputs.home).signal(program, reload.signal)
            else:
                folder = process_folder(inputs)
                problem = probes.run_command(
                    reload.command, folder, inputs.environment, account, RELOAD_SECONDS
                )
                if problem:
                    raise ProviderError(f"{program} was not reloaded: {problem}", log_advice(inputs))
            pause(0.2)  # a server that dies of its new configuration does so within milliseconds
            await_ready(inputs, account)

    @staticmethod
    def launch(inputs: ProcessInputs, account: Account) -> None:
        """Start a stopped program: end its orphan, see that its ports are free, start, wait until it is
        ready.
        """
        program = supervision.program_name(inputs.node, inputs.name)
        left = orphan(inputs)
        if left:
            end([left], ORPHAN_SECONDS)
        require_free_ports(inputs)
        supervision.Client(inputs.home).start(program)
        await_ready(inputs, account)


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
                f"{program} is not ready after {inputs.probe.timeout_s:g} s:"
                f" {problem}{occupied(inputs)}{log_tail(inputs)}"
            )
        pause(inputs.probe.interval_s)


def log_tail(inputs: ProcessInputs) -> str:
    """The end of the process's log, for an error."""
    path = supervision.log_path(inputs.home, inputs.node, inputs.name)
    return f"\nThe end of its log ({path}):\n{supervision.last_lines(path)}"


def log_advice(inputs: ProcessInputs) -> str:
    """Where to look."""
    return f"Its log is {supervision.log_path(inputs.home, inputs.node, inputs.name)}"
