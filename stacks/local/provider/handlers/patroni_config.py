"""PatroniConfig: the part of Patroni's dynamic configuration that the stack manages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stacks.local.provider import patroni
from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values
from stacks.local.provider.waiting import until
from stacks.local.provider.web import expect

LEADER_SECONDS = 180.0
"""How long a change waits for a cluster with a leader: a first start includes the bootstrap."""
RESTART_SECONDS = 180.0


class PatroniConfigInputs(Inputs, frozen=True, kw_only=True):
    urls: list[str]
    """REST URLs of the members."""
    config: dict[str, Any]
    ca: str = ""
    user: str = ""
    password: str = ""


class PatroniConfigHandler(Handler[PatroniConfigInputs]):
    """Output: state (applied, pending restart, unreachable)."""

    inputs_type = PatroniConfigInputs
    outputs = ("state",)
    healthy = "applied"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        for url in inputs.get("urls", ["http://"]) or [""]:
            if not url.startswith(("http://", "https://")):
                yield Problem("urls", f"{url!r} must be an http or https URL; at least one is needed")

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "applied"}

    def make(self, name: str, inputs: PatroniConfigInputs) -> Made:
        return Made(name, self.put(inputs, {}))

    def change(self, resource_id: str, state: Values, inputs: PatroniConfigInputs) -> Values:
        return self.put(inputs, state.get("config", {}))

    def observe(self, resource_id: str, inputs: PatroniConfigInputs, state: Values) -> Values | None:
        access = reach(inputs)
        current = expect(access.ask("GET", "/config"), "reading Patroni's configuration", 200)
        waiting = [member.name for member in patroni.view(access).members if member.pending_restart]
        return {
            "config": patroni.managed(current, inputs.config),
            "state": f"pending restart: {', '.join(sorted(waiting))}" if waiting else "applied",
        }

    @staticmethod
    def put(inputs: PatroniConfigInputs, before: Any) -> Values:
        """Patch what differs; restart what then waits for a restart. `before`: what was managed until now."""
        access = reach(inputs)
        cluster = until(
            lambda: led(access),
            seconds=LEADER_SECONDS,
            interval=0.5,
            what="the election of a PostgreSQL leader",
            do="See wmsctl status and Patroni's logs in the folder supervisor/log",
        )
        current = expect(access.ask("GET", "/config"), "reading Patroni's configuration", 200)
        if cluster.paused or current.get("pause"):
            raise ProviderError(
                f"Patroni is paused (seen at {access.urls[0]}), so its configuration is left alone",
                "Resume it (patronictl resume), then run pulumi up again",
            )
        removed = patroni.present(patroni.dropped(before, inputs.config), current)
        changes = patroni.merged(removed, patroni.patch(current, inputs.config))
        settle = 0.0
        if changes:
            expect(access.ask("PATCH", "/config", changes), "changing Patroni's configuration", 200)
            if "postgresql" in changes:
                # A member learns of it in its next loop and asks PostgreSQL for pending restarts in the one
                # after.
                settle = 2.0 * float(inputs.config.get("loop_wait", current.get("loop_wait", 10))) + 1.0
        patroni.restart_pending(access, settle, RESTART_SECONDS, patroni.lowers(current, inputs.config))
        return {"state": "applied"}


def reach(inputs: PatroniConfigInputs) -> patroni.Access:
    """How to speak to the cluster."""
    return patroni.Access(tuple(inputs.urls), inputs.ca, inputs.user, inputs.password)


def led(access: patroni.Access) -> patroni.Cluster | None:
    """The cluster when it has a running leader."""
    try:
        cluster = patroni.view(access)
    except Unreachable:
        return None
    return cluster if cluster.leader and cluster.leader.runs else None
