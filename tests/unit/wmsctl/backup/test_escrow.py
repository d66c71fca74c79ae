"""Keys in escrow: who can open them, whether they are current, and that nothing secret is said."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.support import builders
from tests.unit.wmsctl.backup.test_retention_commands import SECTION
from wmsctl import inventory as contract
from wmsctl.audit import Audit
from wmsctl.backup import escrow, escrow_command
from wmsctl.errors import Code, Failed, ObjectiveMissed, Refused, Usage
from wmsctl.invocation import Invocation, Options
from wmsctl.output import Format
from wmsctl.secrets import Secret, Secrets

NOW = datetime.now(UTC)
FIRST, SECOND = "Zq8-first-passphrase-of-the-live-one", "Zq8-second-passphrase-of-the-far-one"
REPOSITORIES = (
    contract.Repository(number=1, bucket="b", passphrase="backup/repo1", path="/repo1"),
    contract.Repository(number=2, bucket="l", long_term=True, passphrase="backup/repo2", path="/repo2"),
)


def certificate(folder: Path, name: str, key: Any, days: int = 10) -> tuple[Path, Path]:
    """(certificate, key) as files."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=20))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("keys")
    strong = rsa.generate_private_key(65537, escrow.MINIMUM_BITS)
    return {
        "alice": certificate(folder, "alice", strong),
        "bob": certificate(folder, "bob", rsa.generate_private_key(65537, escrow.MINIMUM_BITS)),
        "weak": certificate(folder, "weak", rsa.generate_private_key(65537, 2048)),
        "curve": certificate(folder, "curve", ec.generate_private_key(ec.SECP256R1())),
        "past": certificate(folder, "past", strong, days=-1),
    }


class Console:
    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state, self.capsys = state, capsys
        self.values = {"backup/repo1": FIRST, "backup/repo2": SECOND}
        self.app = typer.Typer()
        escrow_command.register(self.app)
        self.app.command("x")(lambda: None)

    def run(self, *words: object) -> Any:
        invocation = Invocation(Options(output=Format.json, quiet=True))
        import msgspec

        section = msgspec.structs.replace(SECTION, repositories=REPOSITORIES)
        invocation.__dict__["inventory"] = builders.inventory(backup=section)
        invocation.__dict__["secrets"] = Secrets(self.values, "test")
        invocation.__dict__["audit"] = Audit(self.state / "audit.jsonl", "test")
        command = typer.main.get_command(self.app)
        try:
            arguments = ["escrow", *map(str, words)]
            command.main(args=arguments, prog_name="backup", standalone_mode=False, obj=invocation)
        finally:
            self.printed = "".join(self.capsys.readouterr())
        return json.loads(self.printed)


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(tmp_path, capsys)


def test_each_recipient_opens_it_and_openssl_does_without_us(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file = tmp_path / "wms.escrow.json"
    written = console.run("write", file, "--recipient", people["alice"][0], "--recipient", people["bob"][0])
    assert written["current"] and [r["repository"] for r in written["repositories"]] == ["repo1", "repo2"]
    text = file.read_text() + console.printed + (tmp_path / "audit.jsonl").read_text()
    assert FIRST not in text and SECOND not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for name in ("alice", "bob"):
        opened = console.run("open", file, "--key", people[name][1], "--certificate", people[name][0])
        assert opened["repositories"] == ["repo1", "repo2"] and "pgbackrest" in opened["restore"]
        assert FIRST not in console.printed and SECOND not in console.printed
    assert shutil.which("openssl"), "openssl is part of every machine that this is for"
    cms = tmp_path / "cms.pem"
    cms.write_text(json.loads(file.read_text())["cms"])
    bob = people["bob"]
    plain = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "PEM", "-in", cms, "-inkey", bob[1], "-recip", bob[0]],
        capture_output=True, check=True, timeout=20,
    ).stdout  # fmt: skip
    assert [entry["passphrase"] for entry in json.loads(plain)["repositories"]] == [FIRST, SECOND]


def test_another_key_opens_nothing_and_neither_does_a_changed_file(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file = tmp_path / "e.json"
    console.run("write", file, "--recipient", people["alice"][0])
    with pytest.raises(Failed, match="does not open with this key"):
        console.run("open", file, "--key", people["bob"][1], "--certificate", people["bob"][0])
    document = json.loads(file.read_text())
    document["sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    with pytest.raises(Failed, match="or was changed"):
        console.run("open", file, "--key", people["alice"][1], "--certificate", people["alice"][0])


def test_a_changed_passphrase_makes_it_stale_without_opening_it(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file = tmp_path / "e.json"
    console.run("write", file, "--recipient", people["alice"][0])
    assert console.run("check", file)["current"]
    console.values["backup/repo2"] = "another-one"
    with pytest.raises(ObjectiveMissed, match="passphrase of repo2") as error:
        console.run("check", file)
    assert error.value.code == Code.OBJECTIVE_MISSED
    assert [r["state"] for r in json.loads(console.printed)["repositories"]] == ["same", "changed"]


def test_what_pgbackrest_needs_is_written_for_the_owner_only(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file, conf = tmp_path / "e.json", tmp_path / "pgbackrest.conf"
    alice = people["alice"]
    console.run("write", file, "--recipient", alice[0])
    console.run(
        "open", file, "--key", alice[1], "--certificate", alice[0], "--to", conf, "--repository", "/x",
        "--data", "/y",
    )  # fmt: skip
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600 and SECOND not in console.printed
    lines = conf.read_text().splitlines()
    assert f"repo1-cipher-pass={SECOND}" in lines and "repo1-path=/x" in lines and "pg1-path=/y" in lines
    with pytest.raises(Refused, match="is there already"):
        console.run("open", file, "--key", alice[1], "--certificate", alice[0], "--to", conf)
    with pytest.raises(Usage, match="no repo3; it has repo1, repo2"):
        console.run(
            "open", file, "--key", alice[1], "--certificate", alice[0], "--repo", 3, "--to", tmp_path / "z"
        )


def test_an_escrow_is_not_replaced_by_accident(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file = tmp_path / "e.json"
    file.write_text("something dear")
    with pytest.raises(Refused, match="is there already"):
        console.run("write", file, "--recipient", people["alice"][0])
    assert file.read_text() == "something dear"
    console.run("write", file, "--recipient", people["alice"][0], "--replace")
    assert console.run("check", file)["current"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("weak", "3072 bits or more"), ("curve", "no RSA key"), ("past", "is valid from")],
)
def test_a_recipient_that_will_not_do_is_refused(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(Refused, match=said) as error:
        console.run("write", tmp_path / "e.json", "--recipient", people[name][0])
    assert "openssl req -x509" in error.value.hint
    assert not (tmp_path / "e.json").exists()


def test_files_that_are_something_else_are_mistakes_of_usage(
    console: Console, people: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("{}")
    with pytest.raises(Usage, match="no certificate in PEM"):
        console.run("write", tmp_path / "e.json", "--recipient", junk)
    with pytest.raises(Usage, match=r"no wms\.escrow/v1 file"):
        console.run("check", junk)
    with pytest.raises(Usage, match="cannot read"):
        console.run("check", tmp_path / "absent")
    console.run("write", tmp_path / "e.json", "--recipient", people["alice"][0])
    with pytest.raises(Usage, match="cannot be read"):
        console.run("open", tmp_path / "e.json", "--key", junk, "--certificate", people["alice"][0])


def test_a_fingerprint_is_of_one_passphrase_only_and_no_plain_digest() -> None:
    import hashlib

    assert (
        escrow.fingerprint(Secret(FIRST))
        == escrow.fingerprint(Secret(FIRST))
        != escrow.fingerprint(Secret(SECOND))
    )
    assert not hashlib.sha256(FIRST.encode()).hexdigest().startswith(escrow.fingerprint(Secret(FIRST)))
