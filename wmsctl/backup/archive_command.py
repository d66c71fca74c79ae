"""`wmsctl backup archive`: the full backup of each year in a bucket under Object Lock, for seven years."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from wmsctl.errors import Failed, Refused, Usage
from wmsctl.invocation import Invocation, of

if TYPE_CHECKING:
    from wmsctl.backup.archive import About, Archive, Checked, Vault
    from wmsctl.backup.engine import Engine
    from wmsctl.backup.retention import Decision
    from wmsctl.deadline import Deadline
    from wmsctl.output import Printer

SUFFIX = "-archive"
"""The vault's bucket is called as the long-term repository's, with this behind it."""
TIER = "archive"
LOOK_S = 120.0

Bucket = Annotated[
    str,
    typer.Option(
        "--bucket", metavar="NAME", help="The locked bucket; by default named by the long-term one."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]


class Access(Protocol):
    """How the commands reach a platform's repositories."""

    def engine(self, invocation: Invocation, deadline: Deadline) -> Engine:
        """pgBackRest, where it can read."""
        ...


def register(app: typer.Typer, access: Access) -> None:
    """Add the commands to `wmsctl backup`."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="The archive of seven years: locked, self-contained, restorable without the platform.",
    )
    app.add_typer(group, name="archive")

    @group.command("export")
    def export(
        ctx: typer.Context,
        label: Annotated[
            str,
            typer.Argument(
                metavar="LABEL", help="A full backup; by default those that the archive tier names."
            ),
        ] = "",
        bucket: Bucket = "",
        yes: Yes = False,
        dry_run: DryRun = False,
    ) -> None:
        """Copy full backups of the long-term repository into the locked bucket: read back, compared, then locked.

        What is locked cannot be removed by anybody before its time. Run again it goes on where it was.

        \b
        Example:
          wmsctl backup archive export --dry-run
        """
        _export(of(ctx), access, label, bucket, yes=yes, dry_run=dry_run)

    @group.command("list")
    def list_(ctx: typer.Context, bucket: Bucket = "") -> None:
        """The archives, of when they are, and until when they are kept.

        \b
        Example:
          wmsctl backup archive list
        """
        _list(of(ctx), bucket)

    @group.command("verify")
    def verify(
        ctx: typer.Context,
        label: Annotated[str, typer.Argument(metavar="LABEL", help="An archive; by default every one.")] = "",
        bucket: Bucket = "",
    ) -> None:
        """Read every file of an archive, compare it, and look at every lock. Exits with 1 when anything is wrong.

        \b
        Example:
          wmsctl backup archive verify
        """
        _verify(of(ctx), label, bucket)

    @group.command("fetch")
    def fetch(
        ctx: typer.Context,
        label: Annotated[str, typer.Argument(metavar="LABEL", help="An archive.")],
        to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is to be made.")],
        bucket: Bucket = "",
    ) -> None:
        """Bring an archive into a folder: a repository that pgBackRest restores from, with the passphrase in escrow.

        \b
        Example:
          wmsctl backup archive fetch 20270101-000012F --to ./fetched
        """
        _fetch(of(ctx), label, to, bucket)

    @group.command("purge")
    def purge(ctx: typer.Context, bucket: Bucket = "", yes: Yes = False, dry_run: DryRun = False) -> None:
        """Delete the archives whose time is over, every version of them. The store refuses any other.

        \b
        Example:
          wmsctl backup archive purge --dry-run
        """
        _purge(of(ctx), bucket, yes=yes, dry_run=dry_run)


def _vault(invocation: Invocation, bucket: str) -> Vault:
    from wmsctl.backup import settings
    from wmsctl.clients import vault

    far = [each for each in settings.section(invocation.inventory).repositories if each.long_term]
    if not bucket and not far:
        raise Usage("the platform has no long-term repository", hint="name the locked bucket: --bucket")
    return vault.vault(invocation.inventory, invocation.secrets, bucket or f"{far[0].bucket}{SUFFIX}")


def _export(
    invocation: Invocation, access: Access, label: str, bucket: str, *, yes: bool, dry_run: bool
) -> None:
    from wmsctl.backup import archive, periods, settings
    from wmsctl.clients import vault as client

    section = settings.section(invocation.inventory)
    far = next((each for each in section.repositories if each.long_term), None)
    if far is None:
        raise Usage("the platform has no long-term repository: nothing to archive from")
    now = datetime.now(UTC)
    chosen = _chosen(invocation, access, far.number, label, now)
    target = _vault(invocation, bucket)
    there = set(archive.labels(target))
    years = section.retention.archive_years or 7
    document = []
    for decision in chosen:
        backup = decision.backup
        until = periods.midnight(periods.later(periods.day_of(backup.started), "year", years))
        state = "there" if backup.label in there else "planned"
        if not dry_run:
            printer = invocation.printer
            printer.progress(f"{backup.name}: to be locked until {until:%Y-%m-%d}, for everybody")
            if backup.label not in there:
                printer.confirm("Nobody can delete it before. Go on?", yes=yes)
            about = _about(invocation, far.number)
            source = client.source(invocation.inventory, invocation.secrets, far.bucket)
            with invocation.audit.mutation("backup archive export", backup=backup.name) as facts:
                made = archive.export(source, target, backup, about, until, now, printer.progress)
                facts["files"], facts["kept_until"] = len(made.items), str(made.kept_until.date())
            state = "archived"
        document.append({"label": backup.label, "state": state, "kept_until": until.date().isoformat()})

    def view(printer: Printer) -> None:
        printer.table(["LABEL", "STATE", "KEPT UNTIL"], [list(each.values()) for each in document])
        if not document:
            printer.text("Nothing is to be archived: no full backup stands for a year yet.")

    invocation.printer.document("backup.archive.export", document, view)


def _chosen(invocation: Invocation, access: Access, repo: int, label: str, now: datetime) -> list[Decision]:
    """The backups to archive. Raises Refused for one that is not proven."""
    from wmsctl.backup import retention, settings
    from wmsctl.backup.observe import look
    from wmsctl.deadline import Deadline

    seen = look(access.engine(invocation, Deadline.after(LOOK_S)))
    seen.catalogue.require(repo)
    plan = retention.plan(seen.held, settings.policy(settings.section(invocation.inventory)), now)
    if label:
        chosen = [plan.decision(seen.catalogue.get(repo, label).key)]
    else:
        chosen = [
            decision
            for decision in plan.decisions
            if decision.backup.repo == repo and any(reason.kind == TIER for reason in decision.reasons)
        ]
    for decision in chosen:
        if not decision.sound or decision.held.proven is None:
            raise Refused(
                f"{decision.backup.name} was not proven to be whole: {decision.held.bad or 'never verified'}",
                hint="wmsctl backup verify; what is archived damaged stays damaged for seven years",
            )
    return chosen


def _about(invocation: Invocation, repo: int) -> About:
    from wmsctl.backup import archive, escrow, settings
    from wmsctl.backup.escrow_command import CIPHER, passphrases

    inventory = invocation.inventory
    section = settings.section(inventory)
    path = next(each.path for each in section.repositories if each.number == repo)
    return archive.About(
        platform=inventory.platform,
        environment=inventory.environment,
        stanza=section.stanza,
        path=path,
        postgres_version=inventory.postgres.version,
        cipher=CIPHER,
        fingerprint=escrow.fingerprint(passphrases(invocation)[f"repo{repo}"]),
        restore=escrow.restore_text(section.stanza, inventory.postgres.version, CIPHER),
    )


def _list(invocation: Invocation, bucket: str) -> None:
    from wmsctl.backup import archive

    here = _vault(invocation, bucket)
    found = [(label, archive.load(here, label)) for label in archive.labels(here)]
    document = [_described(label, each) for label, each in found]

    def view(printer: Printer) -> None:
        printer.table(
            ["LABEL", "OF (UTC)", "FILES", "BYTES", "KEPT UNTIL", ""],
            [
                [
                    label,
                    f"{each.stopped:%Y-%m-%d %H:%M}",
                    len(each.items),
                    each.size,
                    f"{each.kept_until:%Y-%m-%d}",
                    "",
                ]
                if each is not None
                else [label, "-", None, None, "-", "not finished: export it again"]
                for label, each in found
            ],
        )

    invocation.printer.document("backup.archive", document, view)


def _described(label: str, found: Archive | None) -> dict[str, object]:
    from wmsctl.backup.retention_view import moment

    if found is None:
        return {"label": label, "finished": False}
    return {
        "label": label,
        "finished": True,
        "stopped": moment(found.stopped),
        "created": moment(found.created),
        "kept_until": found.kept_until.date().isoformat(),
        "files": len(found.items),
        "bytes": found.size,
        "passphrase": found.fingerprint,
    }


def _verify(invocation: Invocation, label: str, bucket: str) -> None:
    from wmsctl.backup import archive

    here = _vault(invocation, bucket)
    labels = [label] if label else archive.labels(here)
    found: dict[str, Checked] = {
        each: archive.verify(here, each, invocation.printer.progress) for each in labels
    }
    document = [
        {
            "label": each,
            "files": checked.files,
            "whole": not checked.troubles,
            "troubles": list(checked.troubles),
        }
        for each, checked in found.items()
    ]

    def view(printer: Printer) -> None:
        printer.table(
            ["LABEL", "FILES", "STATE"],
            [[each, c.files, "damaged" if c.troubles else "whole"] for each, c in found.items()],
        )
        for each, checked in found.items():
            for trouble in checked.troubles:
                printer.text(f"{each}: {trouble}", "bad")

    invocation.printer.document("backup.archive.verify", document, view)
    wrong = [(each, checked.troubles[0]) for each, checked in found.items() if checked.troubles]
    if wrong:
        raise Failed(
            f"archive {wrong[0][0]} is not whole: {wrong[0][1]}",
            hint="while its backup is still in the long-term repository: wmsctl backup archive export",
        )


def _fetch(invocation: Invocation, label: str, to: Path, bucket: str) -> None:
    from wmsctl.backup import archive

    found, repository = archive.fetch(_vault(invocation, bucket), label, to, invocation.printer.progress)
    document = {
        "label": label, "repository": str(repository), "files": len(found.items), "restore": found.restore,
        "passphrase": found.fingerprint,
    }  # fmt: skip

    def view(printer: Printer) -> None:
        printer.text(f"{len(found.items)} files, each as it was archived, in {repository}", "good")
        for line in found.restore.rstrip().splitlines():
            printer.text(line)

    invocation.printer.document("backup.archive.fetch", document, view)


def _purge(invocation: Invocation, bucket: str, *, yes: bool, dry_run: bool) -> None:
    from wmsctl.backup import archive

    here = _vault(invocation, bucket)
    now = datetime.now(UTC)
    due = [
        label
        for label in archive.labels(here)
        if (found := archive.load(here, label)) is not None and found.kept_until <= now
    ]
    removed: list[str] = []
    if due and not dry_run:
        invocation.printer.progress(f"to be deleted for good: {', '.join(due)}")
        invocation.printer.confirm("Go on?", yes=yes)
        with invocation.audit.mutation("backup archive purge", archives=due):
            for label in due:
                archive.purge(here, label, now)
                removed.append(label)
    document = {"due": due, "removed": removed, "dry_run": dry_run}
    word = f"{len(removed)} archives deleted" if removed else f"{len(due)} archives are due to go"
    invocation.printer.document("backup.archive.purge", document, lambda printer: printer.text(word))
