"""Assembles the command line. The only place where an error becomes an exit code.

Sub-commands are imported when they are run, not when they are listed: `wmsctl --help` and shell completion
stay fast, and no command pays for another one's drivers.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from wmsctl import context as contexts
from wmsctl.errors import Code, Usage, WmsctlError
from wmsctl.invocation import Invocation, of
from wmsctl.output import Format, Printer

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("wmsctl.status.command", "The platform at a glance: a verdict, nodes, lag, pools, alerts."),
    "replicas": ("wmsctl.replicas.command", "Lag of the replicas; pause and resume their replay."),
    "failover": ("wmsctl.failover.command", "Switchover, promotion, rejoin, and the history of them."),
    "backup": ("wmsctl.backup.command", "Backups: make them, see what there is."),
    "cache": (
        "wmsctl.cache.command",
        "The services' cache: hit rate, warming, invalidation, where a key is.",
    ),
    "ledger": ("wmsctl.ledger.command", "Acknowledged writes, and whether they are all still there."),
    "edge": ("wmsctl.edge.command", "The caches at the edge: purge by key, by URL, or all."),
    "partitions": (
        "wmsctl.partitions.command",
        "Partitions by time: status, maintenance, archive, and the way back.",
    ),
    "node": ("wmsctl.node.command", "Power of the local target's nodes: kill, freeze, thaw, power on."),
    "context": (
        "wmsctl.contexts.command",
        "Which platform wmsctl speaks to: list, use, show, import, remove.",
    ),
}
"""Name → (module whose `app` is the command, one line for the listing). A new slice adds its line here."""

GLOBAL_VALUES = ("-c", "--context", "-o", "--output")
GLOBAL_FLAGS = ("--no-color", "--quiet", "-q", "--debug")

EPILOG = """Global options may stand anywhere on the line.

\b
Examples:
  wmsctl context import /var/lib/wms-platform/local/inventory.json --use
  wmsctl status --watch
  wmsctl -c staging replicas -o json

\b
Exit codes: 0 done or already so; 1 failed; 2 usage; 3 refused for safety;
4 unreachable; 5 an objective missed; 6 unknown or still in progress."""


class LazyGroup(typer.core.TyperGroup):
    """The top-level group: its commands are listed from COMMANDS and imported only when one is run or
    completed.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None or name not in COMMANDS:
            return name, listed, rest
        try:
            loaded = typer.main.get_command(import_module(COMMANDS[name][0]).app)
        except ModuleNotFoundError as error:
            raise Usage(f"wmsctl {name} is not part of this installation ({error})") from error
        loaded.name = name
        # Completion is installed for the whole of wmsctl, not for a part.
        loaded.params = [param for param in loaded.params if not (param.name or "").endswith("_completion")]
        return name, loaded, rest


app = typer.Typer(
    cls=LazyGroup,
    name="wmsctl",
    help="Operate a WMS platform: see what it does, bring it through failures, and prove the result.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("wms-platform")
        except PackageNotFoundError:  # run from a checkout
            number = "0.1.0+checkout"
        typer.echo(f"wmsctl {number}")
        raise typer.Exit(0)


@app.callback()
def options(
    ctx: typer.Context,
    context: Annotated[
        str,
        typer.Option(
            "--context", "-c", metavar="NAME", help="The platform.", autocompletion=contexts.complete
        ),
    ] = "",
    output: Annotated[Format, typer.Option("--output", "-o", help="How results are printed.")] = Format.table,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour, also on a terminal.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    given = of(ctx).options
    given.context, given.output, given.quiet, given.debug = context, output, quiet, debug
    given.color = False if no_color else None


def _placeholder() -> None:
    """Stands for a command in the listing; LazyGroup puts the real one in its place."""


for _name, (_module, _help) in COMMANDS.items():
    app.command(_name, help=_help, short_help=_help)(_placeholder)


def hoist(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that `wmsctl status -o json` works like `wmsctl -o json
    status`.

    Nothing after `--` is touched. No sub-command has an option of one of these names.
    """
    front: list[str] = []
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += [word, *queue]
            break
        if word in GLOBAL_FLAGS:
            front.append(word)
        elif word in GLOBAL_VALUES:
            front += [word, *queue[:1]]
            queue = queue[1:]
        elif word.startswith(("--context=", "--output=")) or (word[:2] in ("-c", "-o") and len(word) > 2):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Errors are printed here; nothing is raised but
    SystemExit.
    """
    invocation = Invocation(command=" ".join(["wmsctl", *arguments]))
    try:
        command = typer.main.get_command(app)
        result = command.main(
            args=hoist(arguments), prog_name="wmsctl", standalone_mode=False, obj=invocation
        )
        return result if isinstance(result, int) else Code.DONE
    except WmsctlError as error:
        invocation.printer.error(error.message, error.hint, code=int(error.code))
        for note in getattr(error, "__notes__", ()):
            invocation.printer.warn(note)
        if invocation.options.debug:
            import traceback

            traceback.print_exception(error)
        return int(error.code)
    except typer.Abort:
        return 130
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is not None:  # what the option parser says: every such error is one of usage
            return _usage(error, invocation.printer)
        return _unexpected(error, invocation)


def _usage(error: Any, printer: Printer) -> int:
    ctx = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        printer.stderr.write(error.format_message() + "\n")
        return Code.USAGE
    path = ctx.command_path if ctx is not None else "wmsctl"
    printer.error(error.format_message().rstrip("."), f"{path} --help", code=Code.USAGE)
    return Code.USAGE


def _unexpected(error: Exception, invocation: Invocation) -> int:
    """A bug or a surprise of the system: one line, and the traceback in a private file."""
    import tempfile
    import traceback

    if invocation.options.debug:
        traceback.print_exception(error)
        return Code.FAILED
    try:
        descriptor, path = tempfile.mkstemp(prefix="wmsctl-error-", suffix=".txt")  # made 0600
        with os.fdopen(descriptor, "w") as file:
            file.write("".join(traceback.format_exception(error)))
        hint = f"the traceback is in {path}; --debug shows it at once"
    except OSError:
        hint = "run again with --debug to see the traceback"
    text = " ".join(str(error).split())[:300]
    invocation.printer.error(f"unexpected {type(error).__name__}: {text}", hint, code=Code.FAILED)
    return Code.FAILED


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM and SIGHUP (a lost terminal) end a run like Ctrl-C: every `finally` still runs, so pools are
    resumed.
    """
    raise SystemExit(128 + number)


def main() -> int:
    """The `wmsctl` script."""
    # Loading a driver makes many objects and no garbage: collecting every 700 allocations, Python's default, is a
    # twentieth of `wmsctl status` (bench/results). --watch still collects.
    gc.set_threshold(50_000)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away: not our failure; keep the interpreter from complaining while it
        # exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
