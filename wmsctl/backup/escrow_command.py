"""`wmsctl backup escrow`: the passphrases for holders of offline keys, whether they are current, and a rehearsal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wmsctl.errors import Failed, ObjectiveMissed, Refused
from wmsctl.invocation import Invocation, of

if TYPE_CHECKING:
    from wmsctl.output import Printer
    from wmsctl.secrets import Secret

File = Annotated[Path, typer.Argument(metavar="FILE", help="The escrow file.")]
CIPHER = "aes-256-cbc"
"""What the repositories are encrypted with."""


def register(app: typer.Typer) -> None:
    """Add the commands to `wmsctl backup`."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Keys in escrow: the repositories' passphrases for holders of offline keys.",
    )
    app.add_typer(group, name="escrow")

    @group.command("write")
    def write(
        ctx: typer.Context,
        file: File,
        recipient: Annotated[
            list[Path], typer.Option("--recipient", metavar="CERTIFICATE", help="For whom; may be repeated.")
        ],
        replace: Annotated[bool, typer.Option("--replace", help="Replace an existing file.")] = False,
    ) -> None:
        """Write the passphrases, encrypted for each recipient's certificate (PEM, RSA).

        \b
        Example:
          wmsctl backup escrow write wms.escrow.json --recipient alice.crt --recipient bob.crt
        """
        _write(of(ctx), file, recipient, replace=replace)

    @group.command("check")
    def check(ctx: typer.Context, file: File) -> None:
        """Whether the file holds what the platform encrypts with now; needs no key. Exits with 5 when it does not.

        \b
        Example:
          wmsctl backup escrow check wms.escrow.json
        """
        _check(of(ctx), file)

    @group.command("open")
    def open_(
        file: File,
        ctx: typer.Context,
        key: Annotated[Path, typer.Option("--key", metavar="KEY", help="A recipient's private key, PEM.")],
        certificate: Annotated[
            Path, typer.Option("--certificate", metavar="CERTIFICATE", help="Its certificate.")
        ],
        repo: Annotated[int, typer.Option("--repo", metavar="N", help="The repository to restore from.")] = 2,
        folder: Annotated[
            Path | None, typer.Option("--repository", metavar="DIR", help="Where that repository lies.")
        ] = None,
        data: Annotated[
            Path | None, typer.Option("--data", metavar="DIR", help="Where to restore to.")
        ] = None,
        to: Annotated[
            Path | None, typer.Option("--to", metavar="CONF", help="Write a pgbackrest.conf (0600) for that.")
        ] = None,
    ) -> None:
        """Rehearse: open the file with a private key; with --to write what pgBackRest needs to restore.

        Needs no platform. Without --to nothing secret is written anywhere.

        \b
        Example:
          wmsctl backup escrow open wms.escrow.json --key escrow.key --certificate escrow.crt
        """
        _open(of(ctx), file, key, certificate, repo, folder, data, to)


def passphrases(invocation: Invocation) -> Mapping[str, Secret]:
    """repo<n> → passphrase, of the platform as it is."""
    from wmsctl.backup import settings

    section = settings.section(invocation.inventory)
    return {
        f"repo{each.number}": invocation.secrets.get(each.passphrase)
        for each in section.repositories
        if each.passphrase
    }


def _write(invocation: Invocation, file: Path, recipients: list[Path], *, replace: bool) -> None:
    from wmsctl.backup import escrow, settings

    inventory = invocation.inventory
    section = settings.section(inventory)
    now = datetime.now(UTC)
    certificates = [escrow.recipient(escrow.load(path), str(path), now) for path in recipients]
    current = passphrases(invocation)
    content = escrow.Content(
        platform=inventory.platform,
        environment=inventory.environment,
        stanza=section.stanza,
        postgres_version=inventory.postgres.version,
        cipher=CIPHER,
        repositories=tuple(
            escrow.Entry(
                number=each.number,
                bucket=each.bucket,
                path=each.path,
                passphrase=current[f"repo{each.number}"].reveal(),
            )
            for each in section.repositories
            if each.passphrase
        ),
        restore=escrow.restore_text(section.stanza, inventory.postgres.version, CIPHER),
    )
    text = escrow.seal(content, certificates, now)
    envelope = escrow.read(text.encode(), str(file))
    with invocation.audit.mutation("backup escrow write", file=str(file), recipients=envelope.recipients):
        _store(file, text, replace=replace)
    document = {"file": str(file), **escrow.document(envelope, escrow.compare(envelope, current))}

    def view(printer: Printer) -> None:
        printer.text(f"{file}: the passphrases of {', '.join(sorted(current))} for", "good")
        for name in envelope.recipients:
            printer.text(f"  {name}")
        printer.text("Keep it where the platform is not. Rehearse: wmsctl backup escrow open --help")

    invocation.printer.document("backup.escrow", document, view)


def _check(invocation: Invocation, file: Path) -> None:
    from wmsctl.backup import escrow

    envelope = escrow.read(escrow.load(file), str(file))
    differences = escrow.compare(envelope, passphrases(invocation))
    document = {"file": str(file), **escrow.document(envelope, differences)}

    def view(printer: Printer) -> None:
        printer.table(["REPOSITORY", "PASSPHRASE"], [[d.repository, d.state] for d in differences])
        printer.text(f"written {envelope.created} for {len(envelope.recipients)} recipients")

    invocation.printer.document("backup.escrow", document, view)
    wrong = [d.repository for d in differences if d.state != "same"]
    if wrong:
        raise ObjectiveMissed(
            f"the escrow does not hold the passphrase of {', '.join(wrong)}",
            hint="write it anew: wmsctl backup escrow write --help",
        )


def _open(
    invocation: Invocation,
    file: Path,
    key: Path,
    certificate: Path,
    repo: int,
    folder: Path | None,
    data: Path | None,
    to: Path | None,
) -> None:
    from wmsctl.backup import escrow

    envelope = escrow.read(escrow.load(file), str(file))
    content = escrow.unseal(envelope, escrow.load(certificate), escrow.load(key), str(file))
    if to is not None:
        where, target = (
            folder or Path("DIR"),
            data or Path(f"/var/lib/postgresql/{content.postgres_version}/restored"),
        )
        _store(
            to,
            escrow.configuration(content, repo, str(where), str(target), f"{to.absolute()}.scratch"),
            replace=False,
        )
    numbers = [f"repo{entry.number}" for entry in content.repositories]
    document = {
        "file": str(file),
        "platform": content.platform,
        "environment": content.environment,
        "stanza": content.stanza,
        "repositories": numbers,
        "written": str(to) if to else "",
        "restore": content.restore,
    }

    def view(printer: Printer) -> None:
        printer.text(
            f"{file} opens: {', '.join(numbers)} of {content.platform}/{content.environment}", "good"
        )
        if to is not None:
            printer.text(f"{to} (0600) holds a passphrase: remove it when the restore is done", "warn")
        for line in content.restore.rstrip().splitlines():
            printer.text(line)

    invocation.printer.document("backup.escrow.open", document, view)


def _store(path: Path, text: str, *, replace: bool) -> None:
    """Write a file for its owner only, in one step. Raises Refused when it is there already, Failed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not replace:
            raise Refused(f"{path} is there already", hint="give another name, or --replace")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failed(f"cannot write {path}: {error.strerror}") from error
