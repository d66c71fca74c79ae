"""What the bench of the service makes of reports and samples, and that it sends what the service sends."""

from __future__ import annotations

import pytest

from bench import load, service
from bench.report import Machine, Run, Sample
from bench.rig import BenchError
from bench.service import RATIOS, Ratio
from wms.store import stock, waves
from wms.store.database import message

MACHINE = Machine(cores=2, processor="x", memory_mib=2048, kernel="6.1", versions={})
WRK = """Running 4s test @ http://127.53.1.3:8000
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms    2.00ms  50.00ms   95.00%
    Req/Sec    12.30k     1.10k   14.00k    70.00%
  Latency Distribution
     50%  850.00us
     75%    1.10ms
     90%    2.00ms
     99%   16.42ms
  49226 requests in 4.00s, 20.00MB read
Requests/sec:  12306.50
Transfer/sec:      5.00MB
"""
PGBENCH = """transaction type: run.sql
number of transactions actually processed: 55464
number of failed transactions: 0 (0.000%)
latency average = 1.154 ms
tps = 13866.018231 (without initial connection time)
"""


def run_of(*samples: Sample) -> Run:
    return Run(
        part="service",
        started="2026-01-01T00:00:00+00:00",
        revision="abc",
        machine=MACHINE,
        settings={"seconds": 4, "connections": 16},
        samples=samples,
    )


def sample(side: tuple[str, str], turn: int, **values: float) -> Sample:
    return Sample(series=side[0], variant=side[1], repetition=turn, values=values)


def test_the_report_of_wrk_is_read() -> None:
    told = load.read_wrk(WRK)
    assert (told.requests, told.per_s) == (49226, 12306.5)
    assert told.percentiles_ms == {50: 0.85, 99: 16.42}, "in milliseconds whatever the unit"


def test_the_report_of_pgbench_is_read() -> None:
    told = load.read_pgbench(PGBENCH)
    assert (told.requests, told.per_s) == (55464, 13866.018231)


@pytest.mark.parametrize(
    "trouble",
    ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 2, write 0, timeout 0\n"],
)
def test_a_run_of_wrk_with_a_failed_request_is_no_result(trouble: str) -> None:
    with pytest.raises(BenchError, match=trouble.split(":")[0].strip()):
        load.read_wrk(WRK + trouble)


def test_socket_errors_that_did_not_happen_are_none() -> None:
    assert load.read_wrk(WRK + "  Socket errors: connect 0, read 0, write 0, timeout 0\n").requests == 49226


def test_a_failed_transaction_or_a_missing_report_is_no_result() -> None:
    with pytest.raises(BenchError, match="failed transactions: 7"):
        load.read_pgbench(PGBENCH.replace("transactions: 0", "transactions: 7"))
    with pytest.raises(BenchError, match="no rate"):
        load.read_pgbench("pgbench: error: connection refused")
    with pytest.raises(BenchError, match="no rate"):
        load.read_wrk("unable to connect")


A, B = ("GET", "ours"), ("GET", "theirs")


def test_a_ratio_is_of_the_two_runs_of_one_turn_and_the_median_counts() -> None:
    run = run_of(
        *(sample(A, n, per_s=value) for n, value in ((1, 50.0), (2, 70.0), (3, 90.0), (4, 1.0))),
        # The machine was twice as fast in the second turn; the fourth has no other side.
        *(sample(B, n, per_s=value) for n, value in ((1, 100.0), (2, 200.0), (3, 100.0))),
    )
    found = service.reached(run, Ratio("x", A, B, least=0.5))
    assert found is not None
    assert (found.turns, found.least, found.median, found.most) == (3, 0.35, 0.5, 0.9)
    assert found.met is True


@pytest.mark.parametrize(
    ("ratio", "met"),
    [
        (Ratio("x", A, B, least=0.5), True),
        (Ratio("x", A, B, least=0.501), False),
        (Ratio("x", A, B, most=0.5), True),
        (Ratio("x", A, B, most=0.499), False),
        (Ratio("x", A, B), None),
    ],
)
def test_an_aim_is_met_up_to_its_limit_and_without_one_nothing_is_judged(
    ratio: Ratio, met: bool | None
) -> None:
    found = service.reached(run_of(sample(A, 1, per_s=1.0), sample(B, 1, per_s=2.0)), ratio)
    assert found is not None
    assert found.met is met


def test_a_ratio_with_one_side_only_was_not_measured() -> None:
    assert service.reached(run_of(sample(A, 1, per_s=1.0)), Ratio("x", A, B, least=0.5)) is None


def test_the_aims_are_those_of_the_issue() -> None:
    asked = {ratio.what: ratio.aim for ratio in RATIOS if ratio.aim}
    assert list(asked.values()).count(">= 3") == 3, "the three endpoints of the twin"
    assert asked["GET from the near cache, to hello"] == ">= 0.6"
    assert asked["GET from Redis, to hello"] == ">= 0.2"
    assert asked["uncached GET, to pgbench through the pooler"] == ">= 0.3"
    assert asked["confirm pick, to pgbench through the pooler"] == ">= 0.4"
    assert asked["time of page 10000, to page 1"] == "<= 1.2"
    assert [aim for what, aim in asked.items() if "10 times" in what] == ["<= 1.1", "<= 1.1"]


def test_the_section_says_what_was_reached_and_leaves_out_what_was_not_measured() -> None:
    near, hello = (service.STOCK, "near cache"), service.HELLO
    run = run_of(
        sample(hello, 1, per_s=40000.0, p50_ms=0.4, p99_ms=2.7, cpu_us=18.7),
        sample(near, 1, per_s=12000.0, p50_ms=1.0, p99_ms=16.0, cpu_us=64.0, near_percent=99.6),
        sample((service.MEMORY, "idle"), 1, pss_mib=50.0),
        sample(service.OTHERS, 1, busy_percent=1.2),
        sample(service.OTHERS, 2, busy_percent=31.0),
    )
    lines = service.section(run)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert ["GET from the near cache, to hello", "1", "0.30", "0.30 to 0.30", ">= 0.6", "NO"] in cells
    assert ["GET stock", "near cache", "12000", "1.00", "16.00", "64.0"] in cells
    assert ["GET stock", "near cache", "99.60 % of reads from the near cache"] in cells
    assert ["memory of a worker", "idle", "50.00 MiB PSS"] in cells
    assert not any("twin" in cell for row in cells[:5] for cell in row)
    assert lines[-1].endswith("in percent of all cores: 1, 31.")
    assert service.section(run_of()) == ["not measured"]


def test_pgbench_is_given_the_statements_of_the_service() -> None:
    sql = service.stock_script(500)
    assert sql.splitlines()[0] == "\\set sku random(1, 500)"
    pieces = stock.LOOKUP.sql.split("%s")
    assert all(piece in sql for piece in pieces)
    confirm = service.confirm_script(100, 16)
    assert "\\set task 100 + :turn * 16 + :client_id" in confirm
    sent = confirm.splitlines()[-1].removesuffix(";").replace(" \\; ", "; ")
    assert [part.strip() for part in sent.split("; ")][::2] == ["BEGIN", "COMMIT"]
    assert sent.startswith(message(waves.CONFIRM.sql.split("%s")[0]).split("; COMMIT")[0])


def test_a_statement_with_other_parameters_than_given_is_refused() -> None:
    with pytest.raises(ValueError, match="stock_lookup has 3 parameters, given: 2"):
        service.filled(stock.LOOKUP, ":tenant", ":warehouse")


def test_the_share_of_a_layer_is_of_the_reads_in_between() -> None:
    before = {"near": 10.0, "redis": 90.0}
    assert service.share(before, {"near": 40.0, "redis": 95.0, "database": 5.0}, "near") == 75.0
    assert service.share(before, {"near": 10.0, "redis": 91.0}, "near") == 0.0
