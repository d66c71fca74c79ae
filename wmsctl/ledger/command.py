"""`wmsctl ledger`: write, record what was acknowledged, and check that it is all still there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl.errors import Failed, ObjectiveMissed, Unreachable, Usage
from wmsctl.invocation import Invocation, of
from wmsctl.output import Printer

if TYPE_CHECKING:
    from wmsctl.ledger.account import Account
    from wmsctl.ledger.record import Written

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

MaxGap = Annotated[
    float,
    typer.Option(
        "--max-gap", metavar="SECONDS", min=0, help="Exit with 5 when the write gap is longer; 0: any."
    ),
]
FaultAt = Annotated[
    str,
    typer.Option("--fault-at", metavar="TIME", help="When a fault was injected: ISO 8601 or epoch seconds."),
]


@app.callback()
def ledger() -> None:
    """Acknowledged writes, and whether they are all still there."""


@app.command("run")
def run(
    ctx: typer.Context,
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", min=0.1, help="Writes per second, in all.")
    ] = 500.0,
    seconds: Annotated[float, typer.Option("--seconds", metavar="SECONDS", min=0.5, help="Length.")] = 30.0,
    writers: Annotated[int, typer.Option("--writers", metavar="N", min=1, max=200, help="Sessions.")] = 8,
    through: Annotated[
        str,
        typer.Option(
            "--through", metavar="WAY", help="pooler, proxy, or a postgresql:// URL without a password."
        ),
    ] = "pooler",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the record goes.")] = None,
    max_gap: MaxGap = 0.0,
    fault_at: FaultAt = "",
) -> None:
    """Write rows at a steady rate, record each outcome, and reconcile at the end.

    Ctrl-C ends the run early and reports. Exits with 1 when an acknowledged write is lost.

    \b
    Examples:
      wmsctl ledger run --rate 500 --seconds 60
      wmsctl ledger run --through proxy --max-gap 3 -o json
    """
    from wmsctl.ledger.record import read
    from wmsctl.ledger.writer import LedgerRun, Options

    invocation = of(ctx)
    options = Options(rate=rate, seconds=seconds, writers=writers, through=through)
    moment = _moment(fault_at)
    path = out or _folder(invocation) / "new.jsonl"
    ledger = LedgerRun(invocation.inventory, invocation.secrets, options, path)
    if out is None:
        ledger.path = _folder(invocation) / f"{ledger.id}.jsonl"
    ledger.start()
    invocation.printer.progress(f"writing {rate:g}/s for {seconds:g} s through {through}; run {ledger.id}")
    try:
        ledger.wait()
    except KeyboardInterrupt:
        invocation.printer.progress("stopping early")
    finally:
        ledger.stop()
    _report(invocation, read(ledger.path), moment, max_gap)


@app.command("check")
def check(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Option("--run", metavar="ID", help="The run (or its file); the newest by default.")
    ] = "",
    max_gap: MaxGap = 0.0,
    fault_at: FaultAt = "",
) -> None:
    """Reconcile a recorded run with the rows that are there now, as often as you like.

    \b
    Example:
      wmsctl ledger check
    """
    from wmsctl.ledger.record import read

    invocation = of(ctx)
    _report(invocation, read(_find(invocation, run)), _moment(fault_at), max_gap)


def _report(invocation: Invocation, written: Written, fault_wall: float | None, max_gap: float) -> None:
    from wmsctl.ledger.writer import report

    fault = None if fault_wall is None else written.monotonic(fault_wall)
    account = report(invocation.clients, written, fault_at=fault)
    invocation.printer.document("ledger", account, lambda printer: view(printer, account))
    if account.lost is None:
        raise Unreachable(account.trouble, hint=f"again later: wmsctl ledger check --run {account.run}")
    if account.lost:
        raise Failed(
            f"{account.lost} acknowledged writes are lost",
            hint=f"keep the evidence: wmsctl ledger check --run {account.run}",
        )
    gap = account.gap.seconds if account.gap else 0.0
    if max_gap and gap > max_gap:
        raise ObjectiveMissed(f"the longest write gap is {gap:.2f} s, allowed are {max_gap:g} s")


def view(printer: Printer, account: Account) -> None:
    """The account for people."""
    lost = "not known" if account.lost is None else str(account.lost)
    printer.text(f"run {account.run}: {account.seconds:.1f} s, {account.achieved_rate:g} commits/s")
    printer.text(
        f"  acknowledged {account.acknowledged}, failed {account.failed}, unknown {account.unknown}"
        f" (of them there: {account.unknown_present if account.unknown_present is not None else '-'}),"
        f" skipped {account.skipped}"
    )
    printer.text(f"  lost: {lost}", "good" if account.lost == 0 else "bad")
    if account.contradicted:
        printer.text(f"  reported as failed, and there: {account.contradicted}", "warn")
    if account.gap:
        printer.text(
            f"  longest write gap: {account.gap.seconds:.3f} s{' (not ended)' if account.gap.open else ''}"
        )
    if account.recovery:
        first, newer = account.recovery.first_ack_s, account.recovery.new_timeline_s
        printer.text(f"  since the fault: writes again after {'-' if first is None else f'{first:.3f} s'}")
        if newer is not None:
            printer.text(f"  first commit on timeline {account.recovery.timeline_after}: after {newer:.3f} s")
    if account.latency:
        q = account.latency
        printer.text(f"  latency ms: p50 {q.p50:g}, p95 {q.p95:g}, p99 {q.p99:g}, max {q.max:g}")
    if account.errors:
        printer.text("  errors: " + ", ".join(f"{name} x {count}" for name, count in account.errors.items()))
    printer.text(f"  timelines: {', '.join(map(str, account.timelines)) or '-'}")
    if account.trouble:
        printer.text(f"  {account.trouble}", "warn")


def _folder(invocation: Invocation) -> Path:
    from wmsctl.context import state_directory

    return state_directory(invocation.context.name) / "ledger"


def _find(invocation: Invocation, run: str) -> Path:
    """The file of a run: by its path, by the run's id or a part of it, or the newest."""
    if run and Path(run).is_file():
        return Path(run)
    folder = _folder(invocation)
    files = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    matching = [path for path in files if run in path.stem]
    if not matching or (run and len(matching) > 1):
        many = f"{len(matching)} runs" if matching else "no run"
        raise Usage(
            f"{many} in {folder} match {run!r}" if run else f"there is no run in {folder}",
            hint="wmsctl ledger run",
        )
    return matching[-1]


def _moment(text: str) -> float | None:
    """Epoch seconds of an ISO time (local time when it has no zone) or a number."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Usage(
            f"--fault-at {text!r} is no time", hint="give ISO 8601 or seconds since the epoch"
        ) from None
