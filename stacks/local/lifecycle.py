"""`make up`, `make down`: the local stack through Pulumi's Automation API, with the checks that belong before it.

It runs the same program as plain `pulumi up` in this folder, on the same state. Only one runs at a time; one that was
killed is repaired by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

import psutil
from pulumi import automation

from stacks import engines, spec
from stacks.local import preflight
from stacks.local.program import ROOT, main, site_of
from toolchain.env import process_environment
from toolchain.errors import ToolchainError

PROJECT = Path(__file__).parent


class LifecycleError(RuntimeError):
    """What is wrong, where, and what to do about it."""


def up(stack_name: str, overrides: dict[str, object] | None = None) -> Path:
    """Make the stack what the spec says, repairing what has been killed or edited; returns its inventory's path.

    `overrides` are kept in the stack's configuration. Raises LifecycleError, SpecError or ToolchainError before
    anything is touched when it cannot work, and automation.CommandError when Pulumi fails.
    """
    with _only_one(stack_name):
        stack = _stack(stack_name)
        _preflight(stack, stack_name, overrides)
        if overrides is not None:
            _set_overrides(stack, stack_name, overrides)
        _unlock(stack, stack_name)
        started = time.monotonic()
        # Refresh: a process that died or a file that was edited since is found and repaired.
        result = stack.up(
            refresh=True, on_event=Progress(sys.stderr).event, suppress_outputs=True, show_secrets=False
        )
        changes = {str(kind): count for kind, count in (result.summary.resource_changes or {}).items()}
        _say(
            f"up in {time.monotonic() - started:.1f} s: "
            + ", ".join(f"{n} {kind}" for kind, n in sorted(changes.items()))
        )
    return inventory_path(stack_name)


def down(stack_name: str) -> None:
    """Stop everything and delete all data of the stack; a stack that is not there is a success."""
    with _only_one(stack_name):
        stack = _stack(stack_name)
        _unlock(stack, stack_name)
        # The resources know how to remove themselves without the program, so a broken spec cannot prevent a removal.
        stack.destroy(on_event=Progress(sys.stderr).event, suppress_outputs=True, show_secrets=False)
        stack.workspace.remove_stack(stack_name)
        left = Path(os.environ["WMS_HOME"], stack_name)
        if left.exists():  # what is no resource: keys that the demonstration made
            shutil.rmtree(left)
    _say("down: everything stopped, data removed")


def _introduce(inventory: Path, stack_name: str) -> str:
    """Make the stack a context of wmsctl, linked so that it follows changes; returns what to say of it."""
    wmsctl = str(ROOT / ".venv" / "bin" / "wmsctl")
    done = subprocess.run(
        [wmsctl, "context", "import", str(inventory), "--name", stack_name, "--link"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        return f"not made known to wmsctl: {done.stderr.strip()}"
    return f"next: wmsctl -c {stack_name} status"


def inventory_path(stack_name: str) -> Path:
    """Where the stack leaves its inventory."""
    return Path(os.environ["WMS_HOME"], stack_name, "inventory.json")


class Progress:
    """One line for each thing that changes, as it finishes. Of the many small ones a removal shows none."""

    QUIET = frozenset({"same", "read", "refresh"})
    SMALL = frozenset({"File", "Certificate", "Password", "Node"})
    PLUGIN = "using pulumi-resource-wms from $PATH"
    """Pulumi warns that the provider comes from the checkout, which is meant."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()

    def event(self, event: automation.EngineEvent) -> None:
        """Called by Pulumi for each engine event."""
        told = event.diagnostic_event
        if told and told.severity in ("error", "warning") and not told.message.startswith(self.PLUGIN):
            self._line(told.message.strip())
        done = event.res_outputs_event
        if done and str(done.metadata.op.value) not in self.QUIET and "pulumi:" not in done.metadata.type:
            kind, name = done.metadata.type.rpartition(":")[2], done.metadata.urn.rpartition("::")[2]
            if done.metadata.op.value != "delete" or kind not in self.SMALL:
                self._line(f"{done.metadata.op.value:8} {kind:18} {name}")

    def _line(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {text}", file=self._stream, flush=True)


@contextlib.contextmanager
def _only_one(stack_name: str) -> Iterator[None]:
    """Hold the stack's lock. Raises LifecycleError naming the process that has it."""
    os.environ.update(process_environment())
    path = Path(os.environ["WMS_HOME"], f"{stack_name}.lock")
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise LifecycleError(
                f"another run works on stack {stack_name!r} ({stream.read().strip() or 'unknown process'}); "
                f"wait for it, or end it, then run this again"
            ) from None
        stream.truncate(0)
        stream.write(f"pid {os.getpid()} since {time.strftime('%H:%M:%S')}\n")
        stream.flush()
        yield
        stream.truncate(0)


def _stack(stack_name: str) -> automation.Stack:
    """The stack, made when it does not exist yet in this WMS_HOME."""
    state = Path(os.environ["WMS_HOME"], "pulumi", ".pulumi", "stacks", "wms", f"{stack_name}.json")
    settings = PROJECT / f"Pulumi.{stack_name}.yaml"
    if settings.exists() and not state.exists():
        # The salt is of another home's passphrase; Pulumi would call ours wrong. The settings hold no secret.
        lines = settings.read_text().splitlines(keepends=True)
        settings.write_text("".join(line for line in lines if not line.startswith("encryptionsalt:")))
    return automation.create_or_select_stack(
        stack_name=stack_name,
        project_name="wms",
        program=main,
        opts=automation.LocalWorkspaceOptions(work_dir=str(PROJECT), env_vars=dict(os.environ)),
    )


def _set_overrides(stack: automation.Stack, stack_name: str, overrides: dict[str, object]) -> None:
    """As an object with typed values: `pulumi config set` of a text would be refused by the type in Pulumi.yaml."""
    try:
        settings = stack.workspace.stack_settings(stack_name)
    except FileNotFoundError:
        settings = automation.StackSettings()
    settings.config = {**(settings.config or {}), "wms:overrides": overrides}
    stack.workspace.save_stack_settings(stack_name, settings)


def _preflight(stack: automation.Stack, stack_name: str, overrides: dict[str, object] | None) -> None:
    """Raises SpecError or LifecycleError when the values, or the machine, do not allow it."""
    config = stack.get_all_config()
    environment = config["wms:environment"].value if "wms:environment" in config else "local"
    if overrides is None and "wms:overrides" in config:
        overrides = json.loads(config["wms:overrides"].value)
    platform = spec.load(environment, overrides)
    home = Path(os.environ["WMS_HOME"], stack_name)
    processes = engines.processes(platform, site_of(str(home), os.environ["WMS_PYTHON"]))
    problems = preflight.problems(platform, processes, home)
    if problems:
        raise LifecycleError("cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _unlock(stack: automation.Stack, stack_name: str) -> None:
    """Remove locks that killed runs left. Our own lock proves that no such run is alive here."""
    locks = Path(os.environ["WMS_HOME"], "pulumi", ".pulumi", "locks", "organization", "wms", stack_name)
    for lock in sorted(locks.glob("*.json")):
        pid = _holder(lock)
        if pid:
            raise LifecycleError(
                f"a plain pulumi run (pid {pid}) works on stack {stack_name!r}; wait for it, or end it"
            )
        _say(f"removing the lock of a pulumi run that was killed ({lock.name})")
        lock.unlink(missing_ok=True)


def _holder(lock: Path) -> int:
    """The living process that holds a lock of Pulumi, 0 when it is gone. Raises LifecycleError for a damaged file."""
    try:
        document = json.loads(lock.read_text() or "{}")
        pid, taken = int(document.get("pid", 0)), str(document.get("timestamp", ""))
    except (ValueError, TypeError, AttributeError):
        raise LifecycleError(f"{lock} is damaged; when no pulumi runs on this stack, remove it") from None
    if pid <= 0:
        return 0
    try:
        process = psutil.Process(pid)
        began = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0
    except (psutil.NoSuchProcess, OverflowError):
        return 0
    try:
        # Taken before the process with its number began: the machine was started anew since, or the numbers wrapped.
        return 0 if datetime.fromisoformat(taken).timestamp() < began - 1 else pid
    except ValueError:
        return pid


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _overrides(text: str) -> dict[str, object]:
    """The option's value. Raises ArgumentTypeError, which argparse shows."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"found {text}; allowed: an object with keys of the spec")
    return found


def run(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stacks.local.lifecycle", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--stack", default="local", help="name of the Pulumi stack (default: local)")
    parser.add_argument("--overrides", type=_overrides, help="values laid over the environment's, as JSON")
    parser.add_argument("--yes", action="store_true", help="down: delete the data without asking")
    options = parser.parse_args(arguments)
    try:
        if options.action == "up":
            path = up(options.stack, options.overrides)
            _say(f"inventory: {path}\n{_introduce(path, options.stack)}")
        else:
            if not options.yes and not _confirmed(options.stack):
                return 1
            down(options.stack)
    except (LifecycleError, spec.SpecError, ToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except automation.CommandError as error:
        # What failed in a resource was shown as it happened; what failed before any is only in its text.
        print(f"error: pulumi failed; run this again to go on from there\n{_reason(error)}", file=sys.stderr)
        return 1
    return 0


def _reason(error: automation.CommandError) -> str:
    """What Pulumi wrote to its standard error."""
    _, _, text = str(error).partition("stderr:")
    return (text or str(error)).strip()


def _confirmed(stack_name: str) -> bool:
    if not sys.stdin.isatty():
        print(
            "error: this deletes all data of the stack; on a terminal it asks, elsewhere give --yes",
            file=sys.stderr,
        )
        return False
    try:
        answer = input(f"Delete stack {stack_name!r} with all its data? Type its name to confirm: ")
    except EOFError:
        return False
    return answer.strip() == stack_name


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(run(sys.argv[1:]))
