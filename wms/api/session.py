"""What the gateway asks before it answers from its cache: whose credential is this, and what may be kept for it.

Not in the description and not to be reached through the gateway (stacks/templates/nginx.conf.j2).
"""

from __future__ import annotations

from wms.api.operation import Answer, Call, Nothing, Operation, Reply

FRESH_S = 3
"""How long the gateway believes it without asking."""
REFRESH_S = 2
"""How much longer while it asks again. Both together bound how late a revoked credential, a changed role or a new
generation is seen there."""
OUTAGE_S = 300
"""How much longer when no service can be asked: then it answers from what it has, or not at all."""

_CACHING = f"max-age={FRESH_S}, stale-while-revalidate={REFRESH_S}, stale-if-error={OUTAGE_S}".encode()


async def session(call: Call[Nothing, Nothing]) -> Reply:
    """The tenant, the roles and the generation of the tenant's data, in headers."""
    principal = call.principal
    generation = call.services.generations.of(principal.tenant_id)
    if generation is None:
        # Without a tenant the gateway passes the request on, and asks again for the next one.
        return Reply(b"", 204, ((b"cache-control", b"no-store"),))
    return Reply(
        b"",
        204,
        (
            (b"cache-control", _CACHING),
            (b"x-wms-tenant", b"%d" % principal.tenant_id),
            # What a principal sees depends on its roles and on nothing else of it, where a policy lets it be kept.
            (b"x-wms-scope", "+".join(sorted(principal.roles)).encode() or b"-"),
            (b"x-wms-generation", generation.encode()),
        ),
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/internal/session",
        name="getSession",
        summary="Whose credential is this?",
        handler=session,
        params=Nothing,
        answers={204: Answer(None, "Tenant, roles and generation, in headers.")},
        own_caching=True,
        # The request that the gateway asks for is counted itself.
        counted=False,
    ),
)
