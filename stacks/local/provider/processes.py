"""One supervised process: what it is made of, what an update has to do to it, and what is there of it.

The handler in handlers/process.py acts on what this module finds out.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Literal

import msgspec

from stacks.local.provider import supervision
from stacks.local.provider.errors import ProviderError
from stacks.local.provider.handler import Inputs
from stacks.local.provider.homes import node_folder
from stacks.local.provider.leadership import Leader
from stacks.local.provider.probes import Probe
from stacks.local.provider.procfs import Holder, Task, environment_of, folder_of, listener, task

ENDING_S = 3.0
"""How long a listener may be without a process: a server that is ending."""

Action = Literal["nothing", "reload", "restart", "recreate"]


class Reload(Inputs, frozen=True, kw_only=True):
    """How a changed `reload_on` reaches the server: a signal ("HUP"), or a command run
    as the service user.
    """

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
    `serving`: the probe passes now. `applied`: the last reload did not fail.
    """

    state: str
    same_files: bool = True
    serving: bool = True
    applied: bool = True


def decide(old: ProcessInputs, new: ProcessInputs, observed: Observed) -> Action:
    """What an update has to do to the process. Pure.

    recreate: supervisor must forget and learn it again; restart: stop and start (also: start one that is
    down); reload: tell it that its files changed; nothing: a changed probe or rollout concerns nobody but us.
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
    if observed.state != "running" or not (observed.same_files and observed.serving and observed.applied):
        return "restart"
    if old.reload_on != new.reload_on:
        return "reload" if new.reload and (new.reload.signal or new.reload.command) else "restart"
    return "nothing"


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

    Without it the probe would pass against a stranger. What works in the process's own folder is no stranger:
    the PostgreSQL of a Patroni that died, which the new one adopts.
    """
    for address, port in ports(inputs):
        holder = settled(address, port)
        if holder and not works_here(inputs, holder.pid):
            program = supervision.program_name(inputs.node, inputs.name)
            raise ProviderError(
                f"{program} cannot start: {holder} holds {address}:{port}",
                "Stop it, or choose another network or port in the platform's spec",
            )


def settled(address: str, port: int) -> Holder | None:
    """The listener, when it is certain: one without a process may just be ending, so it is looked at again."""
    deadline = time.monotonic() + ENDING_S
    while True:
        holder = listener(address, port)
        if holder is None or holder.pid or time.monotonic() > deadline:
            return holder
        time.sleep(0.1)


def works_here(inputs: ProcessInputs, pid: int) -> bool:
    """Whether process `pid` works in this process's folder."""
    place = folder_of(pid) if pid else ""
    mine = process_folder(inputs)
    return place == mine or place.startswith(f"{mine}/")


def orphan(inputs: ProcessInputs) -> Task | None:
    """The server itself, when it outlived its supervisord: the run script wrote its pid. Its children are
    left out.
    """
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
    """The file's content, or None when it cannot be read. Links are not followed: the service user owns the
    folder.
    """
    try:
        with os.fdopen(
            os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8", errors="replace"
        ) as file:
            return file.read()
    except OSError:
        return None
