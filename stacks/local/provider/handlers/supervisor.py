"""Supervisor: the platform's folder and the supervisord that runs every process in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from stacks.local.provider import supervision
from stacks.local.provider.accounts import Account, operator, require_reachable, service
from stacks.local.provider.errors import ProviderError
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.homes import (
    MARKER,
    PARTS,
    claim,
    folder,
    home_problem,
    is_ours,
    remove_file,
    remove_tree,
    supervisor_socket,
    write,
)
from stacks.local.provider.procfs import end, name_of, under
from stacks.local.provider.values import Values

STOP_SECONDS = 60.0
"""What servers get to end by themselves when the platform is removed; PostgreSQL writes a checkpoint then."""


class SupervisorInputs(Inputs, frozen=True, kw_only=True):
    home: str
    python: str
    user: str = ""


class SupervisorHandler(Handler[SupervisorInputs]):
    """Outputs: socket (path), state (running, missing).

    A changed `python` is used from the next start on: restarting supervisord would stop every server for
    nothing.
    """

    inputs_type = SupervisorInputs
    outputs = ("socket", "state")
    replace_on = frozenset({"home", "user"})
    healthy = "running"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "home" in inputs and (problem := home_problem(inputs["home"])):
            yield Problem("home", problem)
        if "python" in inputs and not os.path.isabs(inputs["python"]):
            yield Problem("python", f"{inputs['python']!r} must be an absolute path")

    def make(self, name: str, inputs: SupervisorInputs) -> Made:
        account = service(inputs.user)
        claim(inputs.home)
        self.bring_up(inputs, account)
        return Made(inputs.home, self.running(inputs))

    def observe(self, resource_id: str, inputs: SupervisorInputs, state: Values) -> Values | None:
        alive = is_ours(inputs.home) and supervision.Client(inputs.home).answers()
        return {"state": "running" if alive else "missing"}

    def change(self, resource_id: str, state: Values, inputs: SupervisorInputs) -> Values:
        account = service(inputs.user)
        claim(inputs.home)
        self.bring_up(inputs, account)
        return self.running(inputs)

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        known = isinstance(inputs.get("home"), str)
        return {"state": "running", **({"socket": supervisor_socket(inputs["home"])} if known else {})}

    def remove(self, resource_id: str, inputs: SupervisorInputs, state: Values) -> None:
        home = inputs.home
        if not any(os.path.lexists(f"{home}/{part}") for part in (MARKER, *PARTS)):
            return
        problem = home_problem(home)
        if problem or not is_ours(home):
            raise ProviderError(
                f"{home} is not removed: {problem or f'it has no {MARKER}, so it may not be ours'}",
                "If it is, remove it by hand; then: pulumi state delete",
            )
        account = service(inputs.user)
        # supervisord first: it would start its children again.
        running = supervision.daemon(home)
        if running:
            end([running], STOP_SECONDS + 15)
        end(under(home, account.uid), STOP_SECONDS)
        left = under(home, account.uid)
        if left:
            names = ", ".join(f"{each.pid} ({name_of(each.pid)})" for each in left)
            raise ProviderError(
                f"processes appeared below {home} while it was stopped: {names}", "Run it again"
            )
        for part in PARTS:
            remove_tree(f"{home}/{part}")
        # What else the operator keeps there is theirs; a home with nothing but ours goes altogether.
        if set(os.listdir(home)) <= {MARKER}:
            remove_file(f"{home}/{MARKER}")
            os.rmdir(home)
        else:
            remove_file(f"{home}/{MARKER}")

    @staticmethod
    def running(inputs: SupervisorInputs) -> Values:
        """The outputs of a healthy one."""
        return {"socket": supervisor_socket(inputs.home), "state": "running"}

    @staticmethod
    def bring_up(inputs: SupervisorInputs, account: Account) -> None:
        """Folders, configuration, daemon. Idempotent."""
        home = inputs.home
        require_reachable(f"{home}/nodes", account)
        require_reachable(inputs.python, account)
        if not os.access(inputs.python, os.X_OK):
            raise ProviderError(
                f"python {inputs.python} is not an executable file", "Make the virtual environment first"
            )
        for part in ("nodes", "supervisor", "supervisor/conf.d", "supervisor/log"):
            folder(f"{home}/{part}", account, 0o750)
        # Certificates and code are given by the operator: a server that was broken into cannot change them.
        for part in ("pki", "release"):
            folder(f"{home}/{part}", operator(), 0o755)
        text = supervision.daemon_text(home, supervision.open_files_limit())
        write(f"{home}/supervisor/supervisord.conf", text, 0o640, account)
        write(f"{home}/supervisor/rotate", supervision.rotation_text(home), 0o700, account)
        supervision.start(home, inputs.python, account)
        # One that runs since before a change of this provider does not know the program yet.
        supervision.Client(home).adopt(supervision.ROTATION)
