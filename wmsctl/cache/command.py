"""`wmsctl cache`: how well the cache does, what it holds, and how it is filled and emptied."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from wmsctl.cache import plan
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unreachable
from wmsctl.invocation import of
from wmsctl.output import Cell, Printer, Styled, size

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The cache of the services: hit rate, what it holds, warming, invalidation.",
)

KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="A key of the cache, such as inventory:sku:t1.SKU-1:1.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]


class What(StrEnum):
    configuration = "configuration"
    layouts = "layouts"
    skus = "skus"
    all = "all"


@app.command("stats")
def stats(ctx: typer.Context) -> None:
    """Hit rate by kind of key since the services started (row O4: above 90 %), and the Redis nodes.

    \b
    Example:
      wmsctl cache stats -o json
    """
    from wmsctl.cache import observe

    invocation = of(ctx)
    found, silent = observe.services(invocation)
    nodes = observe.nodes(invocation)
    whole = found.total()
    document = {
        "hit_rate": whole.hit_rate,
        "objective": plan.OBJECTIVE,
        "near_entries": found.near_entries,
        "kinds": [
            {
                "entity": kind.entity, "near": kind.near, "redis": kind.redis, "database": kind.database,
                "hit_rate": kind.hit_rate,
            }
            for kind in sorted(found.kinds.values(), key=lambda kind: kind.entity)
        ],
        "nodes": nodes,
        "silent_services": silent,
    }  # fmt: skip
    invocation.printer.document("cache_stats", document, lambda p: _stats(p, found, whole, nodes))
    if silent and len(silent) == len(invocation.inventory.web.services):
        raise Unreachable("no service tells its hit rate", hint="see: wmsctl status")


@app.command("explain")
def explain(ctx: typer.Context, key: KeyName) -> None:
    """Which layer answers for KEY: its state in Redis, its node, age, rest of life, and how new it is.

    \b
    Example:
      wmsctl cache explain inventory:stock:t1.SKU-000001:1
    """
    plan.checked(key)
    from wmsctl.cache import observe

    invocation = of(ctx)
    found = observe.explain(invocation, key)
    invocation.printer.document("cache_key", found, lambda p: _key(p, found))


@app.command("invalidate")
def invalidate(ctx: typer.Context, key: KeyName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Have KEY loaded anew by its next reader. A service's own copy lasts at most 2 s longer.

    \b
    Example:
      wmsctl cache invalidate inventory:stock:t1.SKU-000001:1 --yes
    """
    plan.checked(key)
    from wmsctl.cache import observe

    invocation = of(ctx)
    printer = invocation.printer
    found = observe.explain(invocation, key)
    if not dry_run:
        printer.progress(f"{key} is {found.state} on {found.node}: invalidate it")
        printer.confirm("Go on?", yes=yes)
        with invocation.audit.mutation("cache invalidate", key=key):
            found = observe.invalidate(invocation, key)
    document = {
        "key": key,
        "node": found.node,
        "state": found.state,
        "changed": not dry_run,
        "dry_run": dry_run,
    }
    done = "would be invalidated" if dry_run else f"is invalidated; own copies end within {plan.NEAR_S:g} s"
    printer.document("cache_invalidate", document, lambda p: p.text(f"{key} {done}"))


@app.command("warm")
def warm(
    ctx: typer.Context,
    what: Annotated[What, typer.Argument(help="What to load.")] = What.all,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Overall limit.")
    ] = 60.0,
    dry_run: DryRun = False,
) -> None:
    """Load what is likely to be asked for: configuration, layouts, the top 1000 SKUs, or all of it (row K5).

    One service does it; entries that are still good are left as they are. Exits with 6 when none has answered in time.

    \b
    Example:
      wmsctl cache warm skus
    """
    import json

    from wmsctl.cache import observe

    invocation = of(ctx)
    if dry_run:
        document = {"what": what.value, "dry_run": True}
        invocation.printer.document("cache_warm", document, lambda p: p.text(f"would warm {what.value}"))
        return
    with invocation.audit.mutation("cache warm", what=what.value):
        answer = json.loads(observe.warm(invocation, what.value, Deadline.after(timeout)))
    invocation.printer.document(
        "cache_warm",
        {**answer, "dry_run": False},
        lambda p: p.text(
            f"{answer['entries']} entries of {answer['what']} warm in {answer['took_s']} s, by {answer['instance']}"
        ),
    )
    if answer["failed"]:
        raise Failed(f"{answer['failed']} entries could not be loaded", hint="see: wmsctl status")


def _rate(kind: plan.Kind) -> Cell:
    rate = kind.hit_rate
    if rate is None:
        return "-"
    return Styled(f"{100 * rate:.1f} %", "good" if rate > plan.OBJECTIVE else "warn")


def _stats(printer: Printer, found: plan.Stats, whole: plan.Kind, nodes: list[plan.CacheNode]) -> None:
    rows: list[list[Cell]] = [
        [kind.entity, kind.near, kind.redis, kind.database, _rate(kind)]
        for kind in [*sorted(found.kinds.values(), key=lambda kind: kind.entity), whole]
    ]
    printer.table(["KIND", "NEAR", "REDIS", "DATABASE", "HIT RATE"], rows)
    printer.text(f"{found.near_entries} entries in near caches")
    printer.table(
        ["NODE", "ROLE", "USED", "LIMIT", "EVICTED", ""],
        [[n.node, n.role, size(n.used_bytes), size(n.max_bytes), n.evicted, n.trouble] for n in nodes],
    )


def _key(printer: Printer, found: plan.Explained) -> None:
    printer.text(f"{found.key}: {found.state}, read from {found.layer}")
    printer.text(f"  slot {found.slot} on {found.node}, {found.bytes} bytes")
    if found.age_s is not None:
        printer.text(f"  age {found.age_s} s, ends in {found.ttl_s} s, loaded in {found.loaded_in_ms} ms")
    if found.lsn:
        printer.text(f"  shows what was committed up to {found.lsn}")
    printer.text(f"  a service's own copy may be {found.near_at_most_s:g} s older")
