"""Job: a command that runs to its end, such as schema migrations; again whenever one of
its triggers changes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import msgspec

from stacks.local.provider.accounts import Account, service
from stacks.local.provider.errors import DeadlineExceeded, ProviderError, explained
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.supervision import PATH, become
from stacks.local.provider.values import Values

TAIL = 15
"""Lines of its output that an error shows."""


class JobInputs(Inputs, frozen=True, kw_only=True):
    command: list[str]
    """Absolute; running it twice must do no harm."""
    check: list[str] = msgspec.field(default_factory=list)
    """Exits with 0 while what the command did is still done; empty: a refresh takes that on trust."""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    triggers: dict[str, str] = msgspec.field(default_factory=dict)
    """A change of any of them runs the command again."""
    user: str = ""
    folder: str = "/"
    timeout_s: int = 120


class JobHandler(Handler[JobInputs]):
    """Output: state (done, undone)."""

    inputs_type = JobInputs
    outputs = ("state",)
    healthy = "done"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        for key in ("command", "check"):
            command = inputs.get(key)
            if command and not os.path.isabs(command[0]):
                yield Problem(key, f"{command[0]!r} must be an absolute path")
        if inputs.get("command") == []:
            yield Problem("command", "is empty")

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "done"}

    def make(self, name: str, inputs: JobInputs) -> Made:
        return Made(name, self.run(inputs))

    def change(self, resource_id: str, state: Values, inputs: JobInputs) -> Values:
        return self.run(inputs)

    def observe(self, resource_id: str, inputs: JobInputs, state: Values) -> Values | None:
        if not inputs.check:
            return {"state": "done"}
        try:
            code, _ = execute(inputs.check, inputs, service(inputs.user))
        except DeadlineExceeded:
            code = -1
        return {"state": "done" if code == 0 else "undone"}

    def remove(self, resource_id: str, inputs: JobInputs, state: Values) -> None:
        """What a job did goes with the resource it did it to."""

    @staticmethod
    def run(inputs: JobInputs) -> Values:
        """Run the command; raises ProviderError with the end of its output when it fails."""
        code, output = execute(inputs.command, inputs, service(inputs.user))
        if code != 0:
            tail = "\n".join(f"    {line}" for line in output.splitlines()[-TAIL:])
            raise ProviderError(
                f"{' '.join(inputs.command)} exited with {code}:\n{tail}",
                "Mend that, then run pulumi up again",
            )
        return {"state": "done"}


def execute(command: list[str], inputs: JobInputs, account: Account) -> tuple[int, str]:
    """(exit code, output) of `command` as `account`, in a session of its own with a minimal environment.

    Raises DeadlineExceeded after `timeout_s`, when it has been ended.
    """
    with explained(f"cannot run {command[0]}"):
        try:
            done = subprocess.run(
                [*become(account), *command],
                cwd=inputs.folder,
                env={"PATH": PATH, "LANG": "C.UTF-8", **inputs.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=inputs.timeout_s,
                start_new_session=True,
                text=True,
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(
                f"{' '.join(command)} did not end within {inputs.timeout_s} s",
                "See what it waits for, then run pulumi up again",
            ) from None
    return done.returncode, done.stdout
