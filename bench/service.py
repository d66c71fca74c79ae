"""One service process beside the bare server, pgbench with the same SQL, and an ordinary twin.

The aims are those of issue 4. Each ratio is of two runs of the same turn, next to each other, and what is published is
the median over the turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import median
from urllib.parse import urlencode

from bench.bed import PEER, SERVICE, Bed, Store, made, url
from bench.load import Shape, wrk
from bench.machine import busy_percent
from bench.report import Run, Sample, Value, groups, pick, table
from bench.rig import BenchError, say
from bench.stack import pss_mib
from tests.support.postgres import PASSWORDS, POOLER_PORT
from tests.support.service import Service
from wms.store import stock, waves
from wms.store.database import Statement, message

REPETITIONS = 3
SECONDS, CONNECTIONS = 4, 16
SKUS = 500
HOT_SKUS = 100
"""Those asked for where the near cache answers: a copy is believed for two seconds, and then fetched again."""
PAGES, PAGE_ROWS, PAGE_REQUESTS = 10_000, 5, 50
SETTLE_S = 3.0
"""What else the machine does is looked at for so long, before each turn."""
PICKS_PER_S = 5000
"""Tasks that are there for each second of a run of confirmations."""
PACKAGES = ("fastapi", "granian", "psycopg", "redis", "sqlalchemy", "starlette", "uvicorn")

Keep = Callable[[str, str, dict[str, float]], None]
"""Takes series, variant and values of a run."""

STOCK, ORDER, CONFIRM, BY_KEY = "GET stock", "GET order with lines", "confirm pick", "select by key"
PAGE, MEMORY = "page of orders", "memory of a worker"
HELLO = ("smallest answer", "hello")
OTHERS = ("machine before the turn", "everything else")
POOLED, DIRECT = "pgbench, pooler", "pgbench, direct, prepared"
TWIN, LARGE = "twin", "10 times the SKUs"
FLOOR, RELAYED = "server and psycopg alone", "service, relaying"


@dataclass(frozen=True)
class Ratio:
    """A value of one series beside that of another, each (series, variant); `least` or `most` is asked of it."""

    what: str
    of: tuple[str, str]
    to: tuple[str, str]
    least: float | None = None
    most: float | None = None
    value: str = "per_s"

    @property
    def aim(self) -> str | None:
        """In words; None when only the figure is asked for."""
        if self.least is not None:
            return f">= {self.least:g}"
        return f"<= {self.most:g}" if self.most is not None else None


@dataclass(frozen=True)
class Reached:
    """A ratio over the turns; `met` is None where nothing is asked."""

    turns: int
    least: float
    median: float
    most: float
    met: bool | None


RATIOS = (
    Ratio("GET from the near cache, to hello", (STOCK, "near cache"), HELLO, least=0.6),
    Ratio("GET from Redis, to hello", (STOCK, "Redis"), HELLO, least=0.2),
    Ratio("uncached GET, to pgbench through the pooler", (STOCK, "uncached"), (STOCK, POOLED), least=0.3),
    Ratio("uncached GET, to server and psycopg alone", (STOCK, "uncached"), (STOCK, FLOOR)),
    Ratio("server and psycopg alone, to pgbench through the pooler", (STOCK, FLOOR), (STOCK, POOLED)),
    Ratio("uncached GET, to pgbench without a pooler", (STOCK, "uncached"), (STOCK, DIRECT)),
    Ratio("uncached GET, to pgbench -S through the pooler", (STOCK, "uncached"), (BY_KEY, POOLED)),
    Ratio("confirm pick, to pgbench through the pooler", (CONFIRM, "service"), (CONFIRM, POOLED), least=0.4),
    Ratio("the same with Redis and the relay of its events", (CONFIRM, RELAYED), (CONFIRM, POOLED)),
    Ratio("uncached GET stock, to the twin", (STOCK, "uncached"), (STOCK, TWIN), least=3),
    Ratio("uncached GET order, to the twin", (ORDER, "uncached"), (ORDER, TWIN), least=3),
    Ratio("confirm pick, to the twin", (CONFIRM, "service"), (CONFIRM, TWIN), least=3),
    Ratio(
        f"time of page {PAGES}, to page 1", (PAGE, f"page {PAGES}"), (PAGE, "page 1"), most=1.2, value="ms"
    ),
    Ratio("time of GET stock, 10 times the SKUs", (STOCK, "uncached"), (STOCK, LARGE), most=1.1),
    Ratio("time of confirm pick, 10 times the SKUs", (CONFIRM, "service"), (CONFIRM, LARGE), most=1.1),
    Ratio("memory, loaded to idle", (MEMORY, "loaded"), (MEMORY, "idle"), value="pss_mib"),
)
"""A time is given by its rate, inverted, where both do the same work."""

_LUA_STOCK = """
math.randomseed(7)
request = function()
  return wrk.format("GET", string.format("/api/v1/stock?warehouse_id={warehouse}&sku=SKU-%06d", math.random({skus})))
end
"""
_LUA_ORDER = """
math.randomseed(7)
request = function()
  return wrk.format("GET", "/api/v1/orders/" .. math.random({low}, {high}) .. "?warehouse_id={warehouse}{include}")
end
"""
_LUA_CONFIRM = """
local task = {first} - 1
wrk.headers["Content-Type"] = "application/json"
request = function()
  task = task + 1
  wrk.headers["Idempotency-Key"] = "bench-" .. task
  return wrk.format("POST", "/api/v1/picks/" .. task .. "/confirm", nil, '{{"warehouse_id":{warehouse},"quantity":1}}')
end
"""


def filled(statement: Statement, *values: str) -> str:
    """The SQL of a statement of the service with expressions of pgbench for its parameters.

    Raises ValueError when their numbers differ.
    """
    parts = statement.sql.split("%s")
    if len(parts) != len(values) + 1:
        raise ValueError(f"{statement.name} has {len(parts) - 1} parameters, given: {len(values)}")
    return "".join(part + value for part, value in zip(parts, (*values, ""), strict=True))


def stock_script(skus: int) -> str:
    """What an uncached stock lookup sends, for pgbench; the tenant is set within the function."""
    code = "'SKU-' || lpad(:sku::text, 6, '0')"
    return f"\\set sku random(1, {skus})\n{filled(stock.LOOKUP, ':tenant', ':warehouse', code)};\n"


def confirm_script(first: int, clients: int) -> str:
    """What the confirmation of a pick sends, for pgbench: one message, in which `\\;` joins the statements.

    Each client takes every `clients`th task; the variable `turn` begins with -1.
    """
    key, hashed = "'pgbench-' || :task", "sha256('x')"
    confirm = filled(waves.CONFIRM, ":tenant", key, hashed, ":warehouse", ":task", "1")
    sent = message(confirm).replace("; ", " \\; ")
    return f"\\set turn :turn + 1\n\\set task {first} + :turn * {clients} + :client_id\n{sent};\n"


def reached(run: Run, ratio: Ratio) -> Reached | None:
    """What a run says of a ratio; None when no turn has both of its sides."""
    sides = [
        {s.repetition: s.values[ratio.value] for s in run.samples if (s.series, s.variant) == side}
        for side in (ratio.of, ratio.to)
    ]
    found = [value / sides[1][turn] for turn, value in sides[0].items() if turn in sides[1]]
    if not found:
        return None
    middle = median(found)
    met = None
    if ratio.least is not None or ratio.most is not None:
        met = (ratio.least is None or middle >= ratio.least) and (ratio.most is None or middle <= ratio.most)
    return Reached(len(found), min(found), middle, max(found), met)


def settings() -> dict[str, Value]:
    """What a run of this part is made with."""
    sizes = {"seconds": SECONDS, "connections": CONNECTIONS, "skus": SKUS, "hot_skus": HOT_SKUS}
    return {**sizes, "fsync": "off", "workers": 1, **{name: version(name) for name in PACKAGES}}


def measure(repetitions: int | None, keep: Callable[[Sample], None], until: float) -> None:
    """Measure by turns, none of which begins after `until` (of time.monotonic).

    Raises BenchError when a request fails: an error may be faster than an answer.
    """
    with made(Shape(SECONDS, CONNECTIONS), SKUS) as bed:
        deep = Depth(bed)
        for number in range(1, (repetitions or REPETITIONS) + 1):
            if number > 1 and time.monotonic() > until:
                break

            def keep_turn(series: str, variant: str, values: dict[str, float], turn: int = number) -> None:
                keep(Sample(series=series, variant=variant, repetition=turn, values=values))
                say(
                    f"turn {turn}: {series}, {variant}: " + ", ".join(f"{k} {v:g}" for k, v in values.items())
                )

            keep_turn(*OTHERS, {"busy_percent": busy_percent(SETTLE_S)})
            caches(bed, keep_turn)
            reads(bed, keep_turn)
            writes(bed, keep_turn)
            deep.measure(keep_turn)


def caches(bed: Bed, keep: Keep) -> None:
    """The bare server, and stock from both layers of the cache."""
    with bed.peer("bench.hello") as pid:
        keep(*HELLO, wrk(bed.shape, pid, url(PEER)))
    with bed.service(bed.store, near=True, redis=True) as service:
        idle = pss_mib(service.process.pid)
        ask(service, bed.store, HOT_SKUS)
        before = layers(service)
        values = bed.wrk(service.process.pid, SERVICE, bed.store, stock_lua(bed.store, HOT_SKUS))
        keep(STOCK, "near cache", values | {"near_percent": share(before, layers(service), "near")})
        keep(MEMORY, "idle", {"pss_mib": round(idle, 1)})
        keep(MEMORY, "loaded", {"pss_mib": round(pss_mib(service.process.pid), 1)})
    with bed.service(bed.store, redis=True) as service:
        ask(service, bed.store, SKUS)
        keep(STOCK, "Redis", bed.wrk(service.process.pid, SERVICE, bed.store, stock_lua(bed.store)))


def reads(bed: Bed, keep: Keep) -> None:
    """Reads that no cache answers, the same by pgbench and by the twin."""
    store, shape = bed.store, bed.shape
    variables = ("-D", f"tenant={store.tenant.tenant_id}", "-D", f"warehouse={store.warehouse}")
    script = bed.folder / "stock.sql"
    script.write_text(stock_script(store.skus))
    keep(STOCK, POOLED, store.pgbench(shape, "-M", "extended", *variables, "-f", str(script)))
    place = {"FLOOR_TENANT": str(store.tenant.tenant_id), "FLOOR_WAREHOUSE": str(store.warehouse)}
    with bed.peer("bench.floor", **place) as pid:
        keep(STOCK, FLOOR, bed.wrk(pid, PEER, store, stock_lua(store)))
    with bed.service(store) as service:
        run = partial(bed.wrk, service.process.pid, SERVICE, store)
        keep(STOCK, "uncached", run(stock_lua(store)))
        keep(ORDER, "uncached", run(order_lua(store, "&include=order_lines")))
    with bed.service(bed.large) as service:
        keep(STOCK, LARGE, bed.wrk(service.process.pid, SERVICE, bed.large, stock_lua(bed.large)))
    keep(STOCK, DIRECT, store.pgbench(shape, "-M", "prepared", *variables, "-f", str(script), direct=True))
    keep(BY_KEY, POOLED, store.pgbench(shape, "-S", "-M", "extended"))
    keep(BY_KEY, DIRECT, store.pgbench(shape, "-S", "-M", "prepared", direct=True))


def writes(bed: Bed, keep: Keep) -> None:
    """Confirmed picks, the same by pgbench and by the twin, and the reads of the twin."""
    store, shape = bed.store, bed.shape
    count = shape.seconds * PICKS_PER_S
    for variant, place in (("service", store), (RELAYED, store), (LARGE, bed.large)):
        lua = confirm_lua(place, place.open_tasks(count))
        with bed.service(place, redis=variant == RELAYED) as service:
            keep(CONFIRM, variant, bed.wrk(service.process.pid, SERVICE, place, lua))
    script = bed.folder / "confirm.sql"
    script.write_text(confirm_script(store.open_tasks(count), shape.connections))
    variables = (
        "-D",
        f"tenant={store.tenant.tenant_id}",
        "-D",
        f"warehouse={store.warehouse}",
        "-D",
        "turn=-1",
    )
    values = store.pgbench(shape, "-M", "simple", *variables, "-f", str(script))
    if values["per_s"] * shape.seconds > count * 0.9:
        raise BenchError(f"pgbench confirmed {values['per_s']:.0f} picks/s: raise PICKS_PER_S")
    keep(CONFIRM, POOLED, values)
    lua = confirm_lua(store, store.open_tasks(count))
    with bed.peer("uvicorn", *TWIN_ARGUMENTS, **twin_environment(store)) as pid:
        run = partial(bed.wrk, pid, PEER, store)
        keep(STOCK, TWIN, run(stock_lua(store)))
        keep(ORDER, TWIN, run(order_lua(store, "")))
        keep(CONFIRM, TWIN, run(lua))


TWIN_ARGUMENTS = (
    *("bench.twin:app", "--host", PEER, "--port", "8000"),
    *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
)


def twin_environment(store: Store) -> dict[str, str]:
    """What bench/twin.py is told."""
    tls = urlencode({"sslmode": "verify-ca", "sslrootcert": str(store.db.home / "ca.crt")})
    return {
        "TWIN_DATABASE": f"postgresql+psycopg://wms_app:{PASSWORDS['wms_app']}@{store.db.address}:{POOLER_PORT}/wms?{tls}",
        "TWIN_TENANT": str(store.tenant.tenant_id),
        "TWIN_CONNECTIONS": str(CONNECTIONS),
    }


class Depth:
    """Page 1 and page 10,000 of the orders, in the large store."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        bed.large.deep_orders(PAGES * PAGE_ROWS + 200)

    def measure(self, keep: Keep) -> None:
        """Median time of requests for one and the other by turns."""
        store = self._bed.large
        with self._bed.service(store) as service:
            first = f"/api/v1/orders?warehouse_id={store.warehouse}&limit="
            deep = f"{first}{PAGE_ROWS}&cursor_after={self._cursor(service, first)}"
            targets = {"page 1": f"{first}{PAGE_ROWS}", f"page {PAGES}": deep}
            times: dict[str, list[float]] = {name: [] for name in targets}
            for _ in range(PAGE_REQUESTS):
                for name, target in targets.items():
                    begin = time.perf_counter()
                    get(service, store, target)
                    times[name].append(time.perf_counter() - begin)
        for name, found in times.items():
            keep(PAGE, name, {"ms": round(median(found) * 1000, 3)})

    def _cursor(self, service: Service, first: str) -> str:
        """Where page 10,000 begins. 200 rows a step: the last one leaves the cursor that small pages would leave."""
        cursor, left = "", (PAGES - 1) * PAGE_ROWS
        while left:
            rows = min(200, left)
            after = f"&cursor_after={cursor}" if cursor else ""
            cursor = get(service, self._bed.large, f"{first}{rows}{after}")["pagination"]["cursor_after"]
            left -= rows
        return cursor


def get(service: Service, store: Store, target: str) -> dict[str, dict[str, str]]:
    """The JSON of an answer. Raises BenchError when it is none."""
    answer = service.request("GET", target, store.tenant.api_key)
    if answer.status != 200:
        raise BenchError(f"GET {target}: {answer.status}")
    found: dict[str, dict[str, str]] = answer.json()
    return found


def ask(service: Service, store: Store, skus: int) -> None:
    """Ask once for the stock of each of the first SKUs, so that it is in the caches."""
    for number in range(1, skus + 1):
        get(service, store, f"/api/v1/stock?warehouse_id={store.warehouse}&sku=SKU-{number:06d}")


def layers(service: Service) -> dict[str, float]:
    """Reads through the cache so far, by the layer that answered."""
    found: dict[str, float] = {}
    for line in service.request("GET", "/metrics").data.decode().splitlines():
        if line.startswith("wms_cache_reads_total{"):
            labels, _, number = line.rpartition(" ")
            layer = labels.partition('layer="')[2].partition('"')[0]
            found[layer] = found.get(layer, 0.0) + float(number)
    return found


def share(before: dict[str, float], after: dict[str, float], layer: str) -> float:
    """Percent of the reads in between that a layer answered. Raises ZeroDivisionError when there were none."""
    grown = {name: number - before.get(name, 0.0) for name, number in after.items()}
    return round(100 * grown.get(layer, 0.0) / sum(grown.values()), 2)


def stock_lua(store: Store, skus: int | None = None) -> str:
    """wrk's script that asks for stock of the first `skus` SKUs, or all of them."""
    return _LUA_STOCK.format(warehouse=store.warehouse, skus=skus or store.skus)


def order_lua(store: Store, include: str) -> str:
    """wrk's script that asks for orders."""
    low, high = store.orders()
    return _LUA_ORDER.format(warehouse=store.warehouse, low=low, high=high, include=include)


def confirm_lua(store: Store, first: int) -> str:
    """wrk's script that confirms pick tasks, from `first` on."""
    return _LUA_CONFIRM.format(warehouse=store.warehouse, first=first)


def section(run: Run) -> list[str]:
    """The part of the summary."""
    rows: list[Sequence[object]] = []
    for ratio in RATIOS:
        found = reached(run, ratio)
        if found is not None:
            spread = f"{found.least:.2f} to {found.most:.2f}"
            rows.append((ratio.what, found.turns, found.median, spread, ratio.aim, found.met))
    if not rows:
        return ["not measured"]
    lines = table(("what", "n", "median", "of the turns", "aim", "met"), rows)
    lines += ["", *table(("run", "by", "per second", "p50 ms", "p99 ms", "CPU µs each"), _rates(run))]
    lines += ["", *table(("what", "where", "value"), _others(run)), ""]
    seconds, connections = run.settings.get("seconds"), run.settings.get("connections")
    lines += [
        f"One worker; runs of {seconds} s with {connections} connections; client, server, pooler and database share"
    ]
    lines += _MEANING
    busy = pick(run, *OTHERS, "busy_percent")
    if busy:
        told = ", ".join(f"{percent:.0f}" for percent in busy)
        lines.append(f"What else the machine did before each turn, in percent of all cores: {told}.")
    return lines


_MEANING = [
    "the machine, fsync is off. The CPU time is that of the process that answers. `hello` is one fixed answer by the",
    "service's server with the service's settings; `server and psycopg alone` is that with the lookup's statement",
    "and nothing else of the service ([floor.py](../floor.py)). `near cache`, `Redis` and `service, relaying` have a",
    "Redis Cluster of three masters with TLS, the others none: pgbench sends the same statement, which sets the",
    "tenant, and for a pick the same message; `relaying`, the process also tells the cache what changed, and",
    "publishes the events of its picks. The twin ([twin.py](../twin.py)) does less: no credential, limits,",
    "idempotency or events. Two limits bound the uncached GET: its SQL by pgbench through the pooler",
    "(`-M extended`), and past it (`-M prepared`); so for `pgbench -S`, a select by key of 100,000 accounts.",
]


def _rates(run: Run) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for series, variant in groups(run):
        columns = [pick(run, series, variant, name) for name in ("per_s", "p50_ms", "p99_ms", "cpu_us")]
        if columns[0]:
            rows.append((series, variant, *(median(column) if column else None for column in columns)))
    return rows


def _others(run: Run) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for name, unit in (
        ("ms", "ms"),
        ("pss_mib", "MiB PSS"),
        ("near_percent", "% of reads from the near cache"),
    ):
        for series, variant in groups(run):
            if found := pick(run, series, variant, name):
                rows.append((series, variant, f"{median(found):.2f} {unit}"))
    return rows
