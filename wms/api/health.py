"""What balancers, supervisors and Prometheus ask: liveness, readiness, metrics."""

from __future__ import annotations

import msgspec

from wms import VERSION
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.readiness import State, verdict


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class CheckState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last look at a dependency; `schema` is the number of its last migration."""

    ok: bool
    detail: str = ""
    schema: int | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether this process wants traffic, and how its dependencies are."""

    status: State
    instance: str
    zone: str
    version: str
    checks: dict[str, CheckState]


async def live(_call: Call[Nothing, Nothing]) -> Reply:
    """Restart the process only when this does not answer."""
    return Reply(Alive("alive"))


async def ready(call: Call[Nothing, Nothing]) -> Reply:
    """What the last probes saw: nothing is asked for it here."""
    services = call.services
    found = verdict(services.checks, services.draining)
    settings = services.settings
    checks = {
        name: CheckState(check.ok, check.detail, check.schema) for name, check in services.checks.items()
    }
    return Reply(Readiness(found.state, settings.instance, settings.zone, VERSION, checks), found.status)


async def metrics(call: Call[Nothing, Nothing]) -> Reply:
    """Everything measured, as Prometheus reads it."""
    services = call.services
    services.metrics.ready.set(0 if services.draining else 1)
    return Reply(services.metrics.render(), media_type=b"text/plain; version=0.0.4; charset=utf-8")


OPERATIONS = (
    Operation(
        method="GET",
        path="/health/live",
        name="getLiveness",
        summary="Is the process alive?",
        handler=live,
        params=Nothing,
        answers={200: Answer(Alive, "It is.")},
        public=True,
        counted=False,
    ),
    Operation(
        method="GET",
        path="/health/ready",
        name="getReadiness",
        summary="Does the process want traffic?",
        description=(
            "A database that is away makes it degraded, with status 200: every process would fail together, "
            "and restarting them would help none. Only draining answers 503."
        ),
        handler=ready,
        params=Nothing,
        answers={
            200: Answer(Readiness, "Ready or degraded."),
            503: Answer(Readiness, "Draining: about to stop."),
        },
        public=True,
        counted=False,
    ),
    Operation(
        method="GET",
        path="/metrics",
        name="getMetrics",
        summary="Metrics in the Prometheus text format",
        handler=metrics,
        params=Nothing,
        answers={200: Answer(str, "The metrics.")},
        public=True,
        counted=False,
    ),
)
