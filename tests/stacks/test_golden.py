"""What is rendered is what was looked at: a change of a template shows as a change of these files."""

from __future__ import annotations

import re

import pytest

from stacks import engines, render, rules, spec, topology
from tests.stacks import golden

RENDERED = golden.rendered()


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_file_is_as_committed(name: str) -> None:
    path = golden.FOLDER / name
    assert path.exists(), f"new file; look at it, then: python -m tests.stacks.golden ({name})"
    assert RENDERED[name] == path.read_text(), "changed; look at it, then: python -m tests.stacks.golden"


def test_no_committed_file_is_left_over() -> None:
    committed = {str(path.relative_to(golden.FOLDER)) for path in golden.FOLDER.rglob("*") if path.is_file()}
    assert committed == set(RENDERED)


@pytest.mark.parametrize("environment", ["local", "staging", "production"])
def test_every_environment_renders_without_a_password_in_a_command(environment: str) -> None:
    processes = engines.processes(spec.load(environment), golden.SITE)
    assert len({process.key for process in processes}) == len(processes)
    assert not [process.key for process in processes if render.secrets_in(" ".join(process.command))]


def test_every_port_is_bound_to_the_node_s_own_address_and_known_to_the_rules() -> None:
    """No file or flag names an address outside the platform's network; each probed port is a declared one."""
    platform = spec.load("local", {"network": "127.45"})
    nodes = {node.name: node for node in topology.nodes(platform)}
    for process in engines.processes(platform, golden.SITE):
        node = nodes[process.node]
        texts = [*process.files.values(), *process.environment.values(), *process.command]
        for text in texts:
            for address in re.findall(r"\b(?:\d{1,3}\.){3}\d{1,3}\b", re.sub(r"#.*", "", text)):
                assert address.startswith(("127.45.", "127.0.0.")), f"{process.key}: {address}"
        if process.probe.port:
            assert process.probe.address == node.address
            assert process.probe.port in rules.listeners(platform)[node.role].values(), process.key
