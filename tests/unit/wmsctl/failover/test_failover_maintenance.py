"""Maintenance mode: what is asked for, and that it is proven to be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from wmsctl.clients.patroni import Patroni
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Usage
from wmsctl.failover.maintenance import parse, turn


class Store:
    """A cluster's dynamic configuration; `stuck` forgets every change."""

    def __init__(self, *, pause: bool, stuck: bool = False) -> None:
        self.config: dict[str, Any] = {"ttl": 20, **({"pause": True} if pause else {})}
        self.stuck, self.changes = stuck, 0

    def paused(self) -> bool:
        return bool(self.config.get("pause"))

    def patch_config(self, change: Mapping[str, Any]) -> dict[str, Any]:
        self.changes += 1
        if not self.stuck:
            merged = {**self.config, **change}
            self.config = {name: value for name, value in merged.items() if value is not None}
        return self.config

    def ask(self, question: Callable[[Any], Any]) -> Any:
        return question(self)


@pytest.mark.parametrize(("state", "wanted"), [("on", True), ("off", False), ("show", None)])
def test_the_states_have_names(state: str, wanted: bool | None) -> None:
    assert parse(state) is wanted


def test_another_word_is_refused_with_those_that_are_allowed() -> None:
    with pytest.raises(Usage, match="found 'of'; allowed: on, off, show"):
        parse("of")


@pytest.mark.parametrize("on", [True, False])
def test_turning_changes_the_mode_alone_and_is_safe_to_repeat(on: bool) -> None:
    store = Store(pause=not on)
    for _ in range(2):
        turn(cast(Patroni, store), on, Deadline.after(5))
    assert store.config == {"ttl": 20, **({"pause": True} if on else {})}
    assert store.changes == 1


def test_a_change_that_is_not_kept_is_told() -> None:
    with pytest.raises(Failed, match="did not become off"):
        turn(cast(Patroni, Store(pause=True, stuck=True)), False, Deadline.after(0.3))
