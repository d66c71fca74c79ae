"""README.md does what it says: every command of its console blocks runs, in order, on the tests' platform, and so does
its example of the API.

A command that may not run there stands in ELSEWHERE with the reason and the test that covers it. One that does not
end with 0 stands in CODES. Everything else is run as it is written, but for what SUBSTITUTIONS says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from stacks import spec
from stacks.local.program import ROOT
from tests.support.platform import Live
from wms.seed.keys import write_keys

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

README = ROOT / "README.md"
COMMAND_S = 240
"""By when a command has to end."""
HEALTHY_S = 90
"""By when the verdict is healthy again after a fault."""
WATCH_S = 5


@dataclass(frozen=True)
class Elsewhere:
    """Why a command is not run here, and the file that holds what runs it instead."""

    reason: str
    covered: str


ELSEWHERE = {
    "make demo": Elsewhere(
        "makes the operator's own platform; its wmsctl commands are run here, the whole on another stack",
        "tests/live/test_demo.py",
    ),
    "make test": Elsewhere("runs this very test", ".ci/run"),
    "wmsctl --install-completion": Elsewhere(
        "writes into the home folder of whoever runs the tests", "tests/unit/test_docs.py"
    ),
}

CODES = {
    "wmsctl status": {0, 5},  # 5: degraded, as it may be for a moment after a fault of another test
    "wmsctl status -o json": {0, 5},
    "make status": {0, 2},  # make's own code when wmsctl ends with 5
    "wmsctl replicas": {0, 5},
    "wmsctl replicas -o yaml": {0, 5},
    "wmsctl failover promote --dry-run": {
        0,
        3,
    },  # 3: the primary is well, which is why nothing is to be promoted
    "wmsctl status --watch 2": {130},  # ended by Ctrl-C
}
"""Exit codes of the commands that may end with another one than 0."""

ENDLESS = ("wmsctl status --watch 2",)
"""Commands that go on until Ctrl-C."""

SUBSTITUTIONS = (
    # README speaks of the operator's stack; the context of the tests' platform is called local as well.
    (r'"\$WMS_HOME/local/', '"$WMS_HOME/{stack}/'),
    (r"^pulumi stack select local$", "pulumi stack select {stack}"),
    (r"https://127\.40\.8\.1:", "https://{edge}:"),
)


def commands() -> list[str]:
    """The `$ ` lines of README's console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


class Shell:
    """A bash that keeps its folder and its variables from one command to the next, as an operator's does."""

    def __init__(self, platform: Live, folder: Path) -> None:
        self._platform, self._folder = platform, folder
        self._state = folder / "state.sh"
        self._cwd = ROOT
        own = ("MAKE", "MFLAGS", "WMSCTL_", "PULUMI_HOME")
        self._environment = {
            **{name: value for name, value in platform.environment.items() if not name.startswith(own)},
            "WMSCTL_CONFIG": str(folder / "config"),
            "WMSCTL_STATE": str(folder / "state"),
            # Which stack is selected is kept here: the operator's own choice stays.
            "PULUMI_HOME": str(folder / "pulumi"),
        }

    def run(self, command: str) -> tuple[int, str]:
        """Run `command`; its exit code (-1: it did not end in time) and the end of what it printed."""
        for pattern, text in SUBSTITUTIONS:
            edge = self._platform.inventory.web.edges[0].address
            command = re.sub(pattern, text.format(stack=self._platform.name, edge=edge), command)
        if command.startswith(("pulumi up", "pulumi refresh")):
            self._refuse_another_network()
        script = "\n".join(
            [
                f"[ ! -e '{self._state}' ] || . '{self._state}'",
                command,
                f"code=$?; export -p > '{self._state}'; pwd > '{self._state}.cwd'; exit $code",
            ]
        )
        with tempfile.TemporaryFile(dir=self._folder) as output:
            process = subprocess.Popen(
                ["/bin/bash", "-c", script],
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if command in ENDLESS:
                    time.sleep(WATCH_S)
                    os.killpg(process.pid, signal.SIGINT)
                code = process.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
                code = -1
            output.seek(0)
            text = output.read().decode(errors="replace")
        if (place := Path(f"{self._state}.cwd")).exists():
            self._cwd = Path(place.read_text().strip())
        return code, text[-4000:]

    def _refuse_another_network(self) -> None:
        """A stack whose overrides were lost would move onto the addresses of the operator's own platform."""
        file = self._platform.project / f"Pulumi.{self._platform.name}.yaml"
        values = (yaml.safe_load(file.read_text()) or {}).get("config") or {}
        wanted = spec.load(values.get("wms:environment", "local"), values.get("wms:overrides")).network
        found = {".".join(node.address.split(".")[:2]) for node in self._platform.inventory.nodes}
        assert found == {wanted}, f"{file.name} would move the platform from {found} to {wanted}"

    def wait_healthy(self) -> None:
        """Wait until the platform has all its members again."""
        deadline = time.monotonic() + HEALTHY_S
        code, text = self.run("wmsctl status")
        while code != 0:
            assert time.monotonic() < deadline, f"not healthy after {HEALTHY_S} s:\n{text}"
            time.sleep(1)
            code, text = self.run("wmsctl status")


@pytest.fixture(scope="module")
def shell(shared_platform: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The reader's shell on a whole platform, which is whole again when all is read.

    Of the module and not of each test: README's commands follow each other (kill, promote, rejoin).
    """
    shared_platform.restore()
    yield Shell(shared_platform, tmp_path_factory.mktemp("readme"))
    shared_platform.restore()


def test_every_command_that_is_left_out_is_covered_elsewhere() -> None:
    written = set(commands())
    assert not set(ELSEWHERE) - written, "not in README any more"
    assert not set(CODES) - written, "not in README any more"
    for elsewhere in ELSEWHERE.values():
        assert elsewhere.reason and (ROOT / elsewhere.covered).is_file(), elsewhere


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=f"{number:02}-{command}")
        for number, command in enumerate(commands(), 1)
        if command not in ELSEWHERE
    ],
)
def test_command(shell: Shell, command: str) -> None:
    if command.startswith("wmsctl failover switchover"):
        shell.wait_healthy()
    code, text = shell.run(command)
    assert code in CODES.get(command, {0}), f"$ {command}\n{text}\nexit code {code}"


# The API


def example() -> tuple[str, list[str]]:
    """What the example of the API defines, and its requests."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    definitions, _, requests = block.partition("\n\n")
    return definitions, re.findall(r"^api (?:.*\\\n)*.*", requests, re.MULTILINE)


@pytest.fixture
def key_file(shared_platform: Live) -> Iterator[None]:
    """The tenants' API keys where `make demo` leaves them."""
    path = shared_platform.home / "api-keys.json"
    made = not path.exists()
    if made:
        write_keys(path, list(shared_platform.tenants))
    yield
    if made:
        path.unlink()


def test_the_example_of_the_api_works(shell: Shell, shared_platform: Live, key_file: None) -> None:
    definitions, requests = example()
    answers = []
    for request in requests:
        code, text = shell.run(f"set -e\n{definitions}\n{request}")
        assert code == 0, f"{request}\n{text}\nexit code {code}"
        answers.append(json.loads(text))
    warehouses, stock, orders, movement = answers
    assert warehouses["data"][0]["id"] == 1, "README takes the first warehouse for 1"
    assert stock["sku"] == "SKU-000001" and stock["on_hand"] > 0
    assert orders["pagination"]["limit"] == 2 and all(
        set(order) == {"order_number", "status", "customer"} for order in orders["data"]
    )
    assert movement["type"] == "receipt" and movement["quantity"] == 10
    # The same request again is the same movement.
    code, text = shell.run(f"set -e\n{definitions}\n{requests[-1]}")
    assert code == 0 and json.loads(text)["id"] == movement["id"], text
