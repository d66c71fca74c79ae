"""From what is pinned and what is there to what has to be done. Pure: no I/O, no clock."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from toolchain import paths
from toolchain.apt import by_hand
from toolchain.checkout import FOLDER, Links
from toolchain.facts import LANGUAGE_HOST, Facts, go_is_new_enough
from toolchain.pins import Package, Pins


class Action(Enum):
    """A kind of step, in the order in which they are done."""

    PACKAGES = "packages"
    USER = "user"
    VENV = "venv"
    PULUMI = "pulumi"
    LANGUAGE_HOST = "language host"
    GATEWAY = "gateway"
    CHECKOUT = "checkout"


@dataclass(frozen=True)
class Step:
    """One thing to do: what it is, where it goes, and the seconds it takes on 2 cores."""

    action: Action
    what: str
    where: str
    seconds: int


@dataclass(frozen=True)
class Plan:
    """The steps, and what stands in their way. With a problem nothing is done."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether everything is there already."""
        return not self.steps and not self.problems


def missing_packages(pins: Pins, facts: Facts) -> tuple[Package, ...]:
    """The pinned Debian packages that are not installed."""
    return tuple(package for package in pins.packages if package.name not in facts.packages)


def pulumi_folder(facts: Facts) -> Path | None:
    """The folder of the Pulumi CLI that will be used: the user's own first, else the cache's; None when
    neither is."""
    return facts.path_pulumi.path.parent if facts.path_pulumi else facts.tools.get("pulumi")


def language_host_folder(facts: Facts) -> Path | None:
    """The folder of the host for Python programs that belongs to that CLI; None when it has to be made."""
    if facts.path_language_host is not None:
        return facts.path_language_host.parent
    return facts.bundled_host


def links(facts: Facts) -> Links | None:
    """What the checkout's .venv has to point at; None as long as a part of it is missing."""
    pulumi, host, gateway = pulumi_folder(facts), language_host_folder(facts), facts.tools.get("versitygw")
    if pulumi is None or host is None or gateway is None or facts.venv is None or facts.python is None:
        return None
    if not facts.venv_ready:
        return None
    return Links(
        checkout=str(paths.CHECKOUT),
        cache=str(facts.cache),
        python=str(facts.venv / "bin" / "python"),
        interpreter=str(facts.python.path),
        pulumi=str(pulumi),
        language_host=str(host),
        versitygw=str(gateway / "versitygw"),
    )


def plan(pins: Pins, facts: Facts) -> Plan:
    """The steps that are missing, in order."""
    steps: list[Step] = []
    if missing := missing_packages(pins, facts):
        lines = "".join(f"\n{package.name:<36}{package.purpose}" for package in missing)
        steps.append(
            Step(
                Action.PACKAGES,
                f"{len(missing)} Debian packages; their services are neither started nor enabled:{lines}",
                "this machine, by apt-get" + ("" if facts.root else " through sudo"),
                pins.apt_update_seconds + pins.apt_each_seconds * len(missing),
            )
        )
    if facts.root and not facts.service_user:
        steps.append(
            Step(
                Action.USER,
                f"the system user {paths.NAME} (no login), as whom the servers run",
                "/etc/passwd",
                1,
            )
        )
    if not facts.venv_ready and facts.venv is not None:
        what = "a virtual environment with the locked Python packages (requirements.lock)"
        steps.append(Step(Action.VENV, what, str(facts.venv), pins.python_seconds))
    for action, name in (
        (Action.PULUMI, "pulumi"),
        (Action.LANGUAGE_HOST, LANGUAGE_HOST),
        (Action.GATEWAY, "versitygw"),
    ):
        if _tool_present(action, facts):
            continue
        tool = pins.go_tools[name]
        where = str(paths.tool_folder(facts.cache, tool.name, tool.version))
        if action is Action.PULUMI:
            what = f"the Pulumi CLI {tool.version}: from its vendor, or if that cannot be reached "
            what += f"built from Go modules (about {duration(tool.seconds)})"
            steps.append(Step(action, what, where, pins.pulumi_seconds))
        else:
            what = f"{tool.name} {tool.version}, built from Go modules: {tool.purpose}"
            # Built but not yet beside the CLI: only links are missing.
            steps.append(Step(action, what, where, 1 if name in facts.tools else tool.seconds))
    wanted = links(facts)
    if wanted is None or wanted != facts.linked:
        what = "an interpreter and the commands wmsctl, pytest, ruff, mypy, patronictl for this checkout"
        steps.append(Step(Action.CHECKOUT, what, str(FOLDER), 1))
    return Plan(tuple(steps), tuple(_problems(pins, facts, steps)))


def describe(plan: Plan) -> str:
    """The plan for people."""
    if plan.empty:
        return "Nothing is missing."
    total = duration(sum(step.seconds for step in plan.steps))
    text = [f"Missing on this machine, and where it goes (about {total}):"]
    for number, step in enumerate(plan.steps, 1):
        text.append(textwrap.indent(f"{number}. {step.what}", "  ").replace("\n  ", "\n       "))
        text.append(f"     -> {step.where}, about {duration(step.seconds)}")
    return "\n".join(text)


def duration(seconds: int) -> str:
    """Seconds for people: "20 s", "4 min"."""
    return f"{max(seconds, 1)} s" if seconds < 100 else f"{round(seconds / 60)} min"


def _tool_present(action: Action, facts: Facts) -> bool:
    if action is Action.PULUMI:
        return pulumi_folder(facts) is not None
    if action is Action.LANGUAGE_HOST:
        # Nothing to do while the CLI is still to come: the vendor's brings its own host.
        return pulumi_folder(facts) is None or language_host_folder(facts) is not None
    return "versitygw" in facts.tools


def _problems(pins: Pins, facts: Facts, steps: list[Step]) -> list[str]:
    """What must be settled by hand first: what is wrong, where, and what to do."""
    problems = []
    missing = [package.name for package in missing_packages(pins, facts)]
    if missing and not facts.has_apt:
        problems.append(
            f"There is no apt-get here. The platform runs on Debian {pins.minimum.debian} or later; "
            "needed are its packages " + ", ".join(missing)
        )
    elif missing and not facts.root and not facts.sudo:
        problems.append(
            "Packages are missing, and neither are we root nor does `sudo -n` work. Have someone run\n"
            f"    cd {paths.CHECKOUT} && sudo python3 -m toolchain system\n"
            "which keeps Debian from starting their services, or, without that care,\n"
            f"    {by_hand(missing)}"
        )
    if facts.python is None:
        problems.append(
            f"No Python >= {pins.minimum.python} that the servers' user can execute: /usr/bin/python3 is "
            "absent or older, and the one running this lies below a folder that is closed to others. "
            "Install Debian's: apt-get install python3"
        )
    builds = {Action.LANGUAGE_HOST: LANGUAGE_HOST, Action.GATEWAY: "versitygw"}
    built = [
        builds[step.action]
        for step in steps
        if step.action in builds and builds[step.action] not in facts.tools
    ]
    if built and not go_is_new_enough(facts.go, pins):
        found = f"the one at {facts.go.path} is {facts.go.version}" if facts.go else "there is none on PATH"
        problems.append(
            f"Go >= {pins.minimum.go} is needed to build {' and '.join(built)}, but {found}. "
            "Install a current one (https://go.dev/doc/install) and put it on PATH"
        )
    if facts.blocked is not None:
        problems.append(
            f"The servers' user may not enter {facts.blocked}, so it cannot use what lies in {facts.cache}. "
            f"Set WMS_CACHE to a folder that is open to all, or: chmod o+x {facts.blocked}"
        )
    return problems
