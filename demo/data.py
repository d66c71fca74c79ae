"""`python -m demo.data INVENTORY [--scale small …]`: sample data for the platform of an inventory.

What follows the inventory are options of wms.seed. The owner's password goes from the secrets file into the environment
of the load, and nowhere else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stacks.local.program import ROOT
from wmsctl import inventory as contract
from wmsctl.errors import WmsctlError
from wmsctl.secrets import Secrets

LIMIT_S = 7200
"""By when a load has to end. A guess: the large scale has not been measured on a platform with replicas."""


def load(inventory: contract.Inventory, secrets: Secrets, arguments: Sequence[str]) -> int:
    """Run `python -m wms.seed` with these arguments against the platform's poolers; its exit code.

    It is ended after LIMIT_S, with exit code 1; the next one goes on from there.
    """
    environment = {
        **os.environ,
        "WMS_DB_HOSTS": ",".join(f"{p.address}:{p.port}" for p in inventory.pools.poolers),
        "WMS_DB_WRITE_NAME": inventory.pools.write_database,
        "WMS_DB_CA": inventory.ca,
        "WMS_OWNER_PASSWORD": secrets.get("postgres/owner").reveal(),
    }
    command = [sys.executable, "-m", "wms.seed", *arguments]
    try:
        return subprocess.run(command, check=False, timeout=LIMIT_S, env=environment, cwd=ROOT).returncode
    except subprocess.TimeoutExpired:
        print(f"error: not loaded within {LIMIT_S} s; run it again to go on", file=sys.stderr)
        return 1


def main(arguments: list[str]) -> int:
    """Returns what wms.seed returns; 2 without an inventory, or with one that cannot be read."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m demo.data INVENTORY [options of python -m wms.seed]", file=sys.stderr)
        return 2
    try:
        inventory = contract.load(Path(arguments[0]))
        return load(inventory, Secrets.load(inventory.secrets), arguments[1:])
    except (WmsctlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
