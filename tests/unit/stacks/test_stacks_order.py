"""In which order the local program makes things, and so removes them: the whole graph, as a monitor notes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, settings

from stacks.local import program


@dataclass
class Declared:
    """What a resource was registered with."""

    type: str
    needs: set[str] = field(default_factory=set)
    goes_with: str = ""


class Values(mocks.Mocks):
    """A provider that answers with its inputs, and with what else the program reads of a resource."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        known = dict.fromkeys(("value", "cert_pem", "key_pem", "chain_pem", "bundle_pem"), "x")
        return args.name, {**known, **args.inputs}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {}, None


class Noting(mocks.MockMonitor):
    """A monitor that keeps what each resource depends on."""

    def __init__(self, found: dict[str, Declared]) -> None:
        super().__init__(Values())
        self.found = found

    def RegisterResource(self, request: Any) -> Any:
        made = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        self.found[made.urn] = Declared(request.type, set(request.dependencies), request.deletedWith)
        return made


def transformed(transform: Callable[[pulumi.ResourceTransformArgs], Any]) -> None:
    """What the mocked monitor has instead of resource transforms: the older kind, in this process."""

    def older(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        custom = isinstance(args.resource, pulumi.CustomResource)
        new = pulumi.ResourceTransformArgs(custom, args.type_, args.name, args.props, args.opts)
        found = transform(new)
        return found and pulumi.ResourceTransformationResult(found.props, found.opts)

    pulumi.runtime.register_stack_transformation(older)


@pytest.fixture(scope="module")
def declared() -> dict[str, Declared]:
    """Every resource of the local platform, by "node/name" or name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WMS_HOME", "/var/lib/wms-platform")
        patch.setenv("WMS_PYTHON", "/usr/bin/python3")
        patch.setattr(pulumi.runtime, "register_resource_transform", transformed)
        found: dict[str, Declared] = {}
        # The mocks take this thread's loop, and whoever ran before may have left none.
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        mocks.set_mocks(Values(), project="wms", stack="order", monitor=Noting(found))
        try:
            pulumi.runtime.test(lambda: program.main())()  # type: ignore[no-untyped-call]
        finally:
            settings.reset_options()
            asyncio.set_event_loop(None)
            loop.close()
    short = {urn: urn.rpartition("::")[2] for urn in found}
    return {
        short[urn]: Declared(each.type, {short.get(n, n) for n in each.needs}, short.get(each.goes_with, ""))
        for urn, each in found.items()
    }


def all_needs(declared: dict[str, Declared], name: str) -> set[str]:
    """Everything that is there before `name` is made, and that stays until it is gone."""
    found: set[str] = set()
    new = {name}
    while new:
        new = {need for each in new for need in declared[each].needs} - found
        found |= new
    return found


def test_postgresql_stops_while_the_store_that_its_archiver_needs_is_there(
    declared: dict[str, Declared],
) -> None:
    """Fails when a removal may stop the store first: then each stop of a primary waits `push_wait_s` and more."""
    members = [name for name in declared if name.startswith("pg-") and name.endswith("/patroni")]
    assert len(members) == 4
    for name in members:
        needs = all_needs(declared, name)
        assert "storage-1/versitygw" in needs, name
        assert {"etcd-1/etcd", "etcd-2/etcd", "etcd-3/etcd"} <= needs, name


def test_files_go_with_their_home_and_processes_are_stopped_one_by_one(declared: dict[str, Declared]) -> None:
    """Fails when a removal calls the provider for each file, or leaves a server to be killed with the supervisor."""
    files = [name for name, each in declared.items() if each.type == "wms:index:File"]
    processes = [name for name, each in declared.items() if each.type == "wms:index:Process"]
    assert len(files) > 100 and len(processes) > 40
    apart = {name for name in files if declared[name].goes_with != "supervisor"}
    assert apart == {"inventory.json", "secrets.json"}
    assert {declared[name].goes_with for name in processes} == {""}
