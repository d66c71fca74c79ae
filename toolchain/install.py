"""Doing what a plan says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from toolchain import apt, checkout, gotools, paths, store, users, vendor, venv
from toolchain.errors import ToolchainError
from toolchain.facts import LANGUAGE_HOST, Facts, go_is_new_enough, observe
from toolchain.pins import GoTool, Pins
from toolchain.plan import Action, Plan, Step, describe, links, missing_packages, plan


def install(pins: Pins) -> bool:
    """Say what is missing, then install it. Returns whether there was anything to do.

    Safe to run again at any time, also after a kill -9 and beside another run. Raises ToolchainError when
    something stands in the way; nothing is begun then.
    """
    if settled(plan(pins, observe(pins))).empty:
        return False
    # What we create must be readable for the servers' user, whatever umask the operator has.
    os.umask(0o022)
    started = time.monotonic()
    with store.locked(paths.cache()):
        store.sweep(paths.cache())
        # Looked at again under the lock: another run may have done it all while we waited.
        todo = settled(plan(pins, observe(pins)))
        print(describe(todo), flush=True)
        for number, step in enumerate(todo.steps, 1):
            began = time.monotonic()
            print(f"[{number}/{len(todo.steps)}] {step.action.value} ...", flush=True)
            perform(step, pins)
            print(f"    done in {time.monotonic() - began:.0f} s", flush=True)
        # A CLI built from Go modules asks for a host that the vendor's would have brought; see plan.
        for step in settled(plan(pins, observe(pins))).steps:
            print(f"[+] {step.action.value}: {step.what} ...", flush=True)
            perform(step, pins)
        left = plan(pins, observe(pins))
        if not left.empty:
            raise ToolchainError(f"after the installation still:\n{describe(left)}")
    print(f"The toolchain is complete ({time.monotonic() - started:.0f} s).", flush=True)
    return True


def install_system(pins: Pins) -> None:
    """The part that needs root: packages and what keeps their services off. Raises ToolchainError."""
    if not paths.is_root():
        raise ToolchainError(
            "`system` installs Debian packages: run it as root (sudo python3 -m toolchain system)"
        )
    os.umask(0o022)
    with store.locked(paths.cache()):
        facts = observe(pins)
        if missing_packages(pins, facts):
            _packages(pins, facts)


def settled(todo: Plan) -> Plan:
    """The plan, when nothing stands in its way. Raises ToolchainError with all that does."""
    if todo.problems:
        raise ToolchainError(
            "\n".join([describe(todo), "but:", *(f"- {problem}" for problem in todo.problems)])
        )
    return todo


def perform(step: Step, pins: Pins) -> None:
    """Do one step. What it needs is observed anew, since earlier steps have changed it."""
    facts = observe(pins)
    match step.action:
        case Action.PACKAGES:
            _packages(pins, facts)
        case Action.USER:
            users.create(log_file(facts.cache, "user"))
        case Action.VENV:
            if facts.python is None or facts.venv is None:
                raise ToolchainError("the Python interpreter has vanished; run: python3 -m toolchain plan")
            log = log_file(facts.cache, "venv")
            venv.build(facts.venv, facts.python, log=log, seconds=step.seconds)
        case Action.PULUMI:
            _pulumi(pins, facts)
        case Action.LANGUAGE_HOST:
            _language_host(pins, facts)
        case Action.GATEWAY:
            _go(pins.go_tools["versitygw"], facts, pins)
        case Action.CHECKOUT:
            wanted = links(facts)
            # None: the language host is still to come (see `install`), and .venv is made after it.
            if wanted is not None and facts.python is not None:
                checkout.build(wanted, facts.python, log=log_file(facts.cache, "checkout"))


def log_file(cache: Path, name: str) -> Path:
    """Where a step's output goes."""
    return cache / "log" / f"{name}.log"


def _packages(pins: Pins, facts: Facts) -> None:
    missing = missing_packages(pins, facts)
    seconds = pins.apt_update_seconds + pins.apt_each_seconds * len(missing)
    if facts.root:
        if apt.restore_policy():
            print(f"    {apt.POLICY}: put back as it was before an interrupted run", flush=True)
        apt.install(missing, log=log_file(facts.cache, "apt"), seconds=seconds)
        return
    command = ["sudo", "-n", sys.executable, "-m", "toolchain", "system"]
    if subprocess.run(command, cwd=paths.CHECKOUT, stdin=subprocess.DEVNULL, timeout=3600).returncode != 0:
        raise ToolchainError(f"{' '.join(command)} failed, see above")


def _pulumi(pins: Pins, facts: Facts) -> None:
    """The vendor's archive; when that cannot be had, the build from Go modules."""
    tool = pins.go_tools["pulumi"]
    target = paths.tool_folder(facts.cache, tool.name, tool.version)
    try:
        vendor.download(vendor.url(pins.pulumi_vendor_url, pins.pulumi_version), pins.pulumi_version, target)
    except ToolchainError as error:
        print(f"    not from the vendor ({error}); building it", flush=True)
        _go(tool, facts, pins)


def _language_host(pins: Pins, facts: Facts) -> None:
    """Build the host, and put it where the CLI looks first: one on PATH makes it warn at every command."""
    if LANGUAGE_HOST not in facts.tools:
        _go(pins.go_tools[LANGUAGE_HOST], facts, pins)
        facts = observe(pins)
    gotools.link_beside(facts.tools[LANGUAGE_HOST], facts.tools["pulumi"])


def _go(tool: GoTool, facts: Facts, pins: Pins) -> None:
    if facts.go is None or not go_is_new_enough(facts.go, pins):
        found = f"{facts.go.path} is {facts.go.version}" if facts.go else "there is none on PATH"
        raise ToolchainError(
            f"Go >= {pins.minimum.go} is needed to build {tool.name}, but {found}; see https://go.dev/doc/install"
        )
    target = paths.tool_folder(facts.cache, tool.name, tool.version)
    gotools.build(tool, facts.go, target, log=log_file(facts.cache, tool.name))
