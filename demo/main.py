"""The demonstration, step by step. Every operation in it is a wmsctl command that an operator can type."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from demo import data
from demo.report import Event, Objectives, timeline, verdict
from demo.shop import Shop
from stacks.local import lifecycle
from stacks.local.program import ROOT
from wmsctl import inventory as contract
from wmsctl.clients.connect import Clients
from wmsctl.ledger.record import read
from wmsctl.ledger.writer import LedgerRun, Options
from wmsctl.secrets import Secrets

WMSCTL = str(ROOT / ".venv" / "bin" / "wmsctl")

BEFORE_S, AFTER_S = 5, 12
"""How much of the load is shown around the kill."""

HEALTHY_S = 90
"""By when the platform must be whole again."""


def main(arguments: list[str]) -> int:
    """Run it; returns 0 when the objectives of row R2 were met and the platform is healthy again."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--rate", type=int, default=300, help="writes per second of the ledger (default: 300)"
    )
    parser.add_argument(
        "--no-fence", action="store_true", help="do not fence: wait until the lease runs out (20 s)"
    )
    parser.add_argument("--stack", default="local", help="name of the Pulumi stack (default: local)")
    parser.add_argument("--overrides", help="values laid over the environment's, as JSON")
    options = parser.parse_args(arguments)
    overrides = ["--overrides", options.overrides] if options.overrides else []
    if (code := lifecycle.run(["up", "--stack", options.stack, *overrides])) != 0:
        return code
    wmsctl = Wmsctl(options.stack)
    path = lifecycle.inventory_path(options.stack)
    inventory = contract.load(path)
    secrets = Secrets.load(inventory.secrets)
    title("Sample data")
    key = seed(inventory, secrets, path.parent / "api-keys.json")
    title("The platform before")
    if wmsctl("status") not in (0, 5):
        return 1
    events: list[Event] = []
    load_s = BEFORE_S + AFTER_S + (25 if options.no_fence else 0)
    primary = leader(inventory, secrets)
    title(
        f"Load: {options.rate} ledger writes/s and 4 API clients for {load_s} s; "
        f"after {BEFORE_S} s the node {primary} dies"
    )
    ledger = LedgerRun(
        inventory,
        secrets,
        Options(rate=options.rate, seconds=load_s + 5),
        Path(tempfile.mkdtemp()) / "ledger.jsonl",
    )
    with (
        ledger,
        Shop([f"https://{e.address}:{e.port}" for e in inventory.web.edges], inventory.ca, key) as shop,
    ):
        time.sleep(BEFORE_S)
        wall, fault_at = time.time(), time.monotonic()
        events.append(Event(wall, f"{primary} killed"))
        wmsctl("node", "kill", primary, "--yes", "--reason", "demonstration")
        promote = ["failover", "promote", "--yes", *([] if options.no_fence else ["--fence"])]
        code = wmsctl(*promote)
        events.append(Event(time.time(), f"wmsctl {' '.join(promote)}: exit {code}"))
        time.sleep(max(0.0, load_s - BEFORE_S - (time.time() - wall)))
        answers = shop.answers()
    account = ledger.report(fault_at=fault_at)
    title(f"Second by second, from the kill of {primary}")
    end = int(time.time() - wall) if options.no_fence else AFTER_S - 1
    print("\n".join(timeline(read(ledger.path).outcomes, answers, events, wall, (-BEFORE_S, end))))
    title("Repair")
    wmsctl("failover", "rejoin", primary, "--yes")
    title("The platform after")
    healthy = wmsctl.healthy()
    title("Measured")
    objectives = Objectives(inventory.thresholds.rto_s, inventory.thresholds.rpo_s)
    lines, met = verdict(account, answers, objectives)
    print("\n".join(lines))
    if options.stack == "local":
        print("\nThe platform stays up. See it: make status. Remove it: make down")
    return 0 if met and healthy else 1


class Wmsctl:
    """wmsctl in the context of the demonstration's stack."""

    def __init__(self, context: str) -> None:
        self._context = context

    def __call__(self, *arguments: str) -> int:
        """Run a command, shown as an operator would type it; its exit code."""
        shown = [] if self._context == "local" else ["-c", self._context]
        print(f"\n$ {' '.join(['wmsctl', *shown, *arguments])}", flush=True)
        return subprocess.run([*self._command, *arguments], check=False, timeout=300).returncode

    def healthy(self) -> bool:
        """Wait until the verdict is healthy, then show the status; False when it is not by the deadline."""
        deadline = time.monotonic() + HEALTHY_S
        while time.monotonic() < deadline:
            quiet = subprocess.run(
                [*self._command, "status", "-o", "json"], capture_output=True, check=False, timeout=60
            )
            if quiet.returncode == 0:
                break
            time.sleep(1)
        return self("status") == 0

    @property
    def _command(self) -> list[str]:
        return [WMSCTL, "--context", self._context]


def leader(inventory: contract.Inventory, secrets: Secrets) -> str:
    """Name of the node that leads now. Raises RuntimeError when there is none."""
    found = Clients(inventory, secrets).patroni().cluster().leader
    if found:
        return found.name
    raise RuntimeError("no member leads; see: wmsctl status")


def seed(inventory: contract.Inventory, secrets: Secrets, keys: Path) -> str:
    """Load the sample data (a second time it adds only what is missing); returns an API key of its first tenant."""
    if data.load(inventory, secrets, ["--keys-out", str(keys)]) != 0:
        raise RuntimeError("the sample data was not loaded; see the message above")
    key: str = json.loads(keys.read_text())[0]["api_key"]
    return key


def title(text: str) -> None:
    """A heading in the output."""
    print(f"\n== {text}", flush=True)
