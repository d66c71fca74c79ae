"""`python3 -m toolchain`: what the Makefile calls."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from toolchain import doctor, env, paths, pins, processes, results, store
from toolchain.errors import ToolchainError
from toolchain.facts import observe
from toolchain.install import install, install_system
from toolchain.plan import describe, plan


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 when all is well, 1 when not; argparse ends with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python3 -m toolchain", description="Install what the platform needs on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "plan", help="say what is missing, where it would go and how long it takes; change nothing"
    )
    commands.add_parser("install", help="say what is missing, then install it; again at any time")
    commands.add_parser(
        "system", help="as root: only the Debian packages, for someone else to go on without root"
    )
    commands.add_parser("doctor", help="check that this machine can run the platform")
    commands.add_parser("env", help='print shell exports for plain `pulumi`: eval "$(make -s env)"')
    clean = commands.add_parser("clean-cache", help="remove built tools and environments (asks)")
    clean.add_argument("--yes", action="store_true", help="do not ask")
    sums = commands.add_parser("results", help="add up the JUnit files of several pytest runs")
    sums.add_argument("folder", type=Path)
    sums.add_argument("runs", nargs="+", help="names of the files, without .xml")
    reap = commands.add_parser(
        "reap", help="end the processes that a test run left behind; 1 when there were any"
    )
    reap.add_argument("--home", type=Path, required=True, help="the run's WMS_HOME")
    reap.add_argument(
        "--mark", required=True, help="NAME=VALUE in the environment of all that the run started"
    )
    options = parser.parse_args(arguments)
    # Ended politely we clean up (temporary folders, policy-rc.d) as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        match options.command:
            case "plan":
                return _plan()
            case "install":
                if not install(pins.load()):
                    print("The toolchain is complete.")
            case "system":
                install_system(pins.load())
            case "doctor":
                return doctor.main(pins.load())
            case "env":
                print(env.shell(env.environment()))
            case "clean-cache":
                return _clean_cache(paths.cache(), options.yes)
            case "results":
                return _results(options.folder, options.runs)
            case "reap":
                return _reap(options.home, options.mark)
    except (ToolchainError, subprocess.TimeoutExpired) as error:
        print(f"toolchain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("toolchain: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _plan() -> int:
    todo = plan(pinned := pins.load(), observe(pinned))
    print(describe(todo))
    for problem in todo.problems:
        print(f"Problem: {problem}")
    return 1 if todo.problems else 0


def _clean_cache(cache: Path, yes: bool) -> int:
    """Remove what the toolchain put into the cache, and nothing else that may lie there."""
    doomed = [folder for folder in (cache / "tools", cache / "log", *cache.glob("venv-*")) if folder.exists()]
    if not doomed:
        print(f"{cache} is empty.")
        return 0
    if users := processes.under(cache):
        names = ", ".join(f"{process.command} ({process.pid})" for process in users[:5])
        raise ToolchainError(
            f"{cache} is in use by {len(users)} processes: {names}; stop the platform first: make down"
        )
    print("To be removed (the next `make setup` downloads and builds it again, some minutes):")
    print("\n".join(f"  {folder}" for folder in doomed))
    if not yes:
        if not sys.stdin.isatty():
            raise ToolchainError("nobody to ask; run: python3 -m toolchain clean-cache --yes")
        if input("Remove? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 1
    with store.locked(cache):
        for folder in doomed:
            shutil.rmtree(folder)
    print("Removed.")
    return 0


def _results(folder: Path, runs: list[str]) -> int:
    total, lines = results.collect(folder, runs)
    print("\n".join(lines))
    print(total)
    return 1 if total.failed or not total.passed else 0


def _reap(home: Path, mark: str) -> int:
    variable, _, value = mark.partition("=")
    if not variable or not value:
        raise ToolchainError(f"--mark {mark!r}: expected NAME=VALUE")
    found = {process.pid: process for process in [*processes.under(home), *processes.marked(variable, value)]}
    for process in found.values():
        print(f"left running by the tests: {process.command} ({process.pid})")
    for process in processes.end(found.values()):
        print(f"cannot be ended: {process.command} ({process.pid})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
