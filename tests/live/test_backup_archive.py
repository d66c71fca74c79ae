"""The archive of seven years against a real S3 gateway with Object Lock: locked, proven, and restored when nothing of
the platform is left but the escrow.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.backups import PASSPHRASES, STANZA, Backups, backups
from tests.support.gateway import Gateway, gateway
from tests.support.postgres import BINARIES
from wmsctl.backup import archive, escrow
from wmsctl.backup.archive import About, Folder
from wmsctl.backup.catalogue import Backup
from wmsctl.backup.engine import Engine
from wmsctl.clients.vault import Readable, Vault
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Usage
from wmsctl.secrets import Secret

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

ADDRESS = "127.59.5.2"
SEVEN_YEARS = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7 * 365 + 2)
ABOUT = About(
    platform="wms",
    environment="test",
    stanza=STANZA,
    path="",
    postgres_version=15,
    cipher="aes-256-cbc",
    fingerprint=escrow.fingerprint(Secret(PASSPHRASES[2])),
    restore=escrow.restore_text(STANZA, 15, "aes-256-cbc"),
)


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def store() -> Iterator[Gateway]:
    with gateway(ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Backups]:
    """A full backup in repo2 with a row in it, and a row behind it."""
    with backups() as made:
        with made.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'before'::text AS word")
        made.backup("full", repo=2)
        with made.connect() as connection:
            connection.execute("INSERT INTO kept VALUES ('after')")
        yield made


def vault(store: Gateway, bucket: str = "archive") -> Vault:
    return Vault("the gateway", bucket, store.options)


def full(server: Backups) -> Backup:
    return Engine(server, STANZA, Deadline.after(60)).catalogue().of(2)[0]


def export(server: Backups, target: Vault, until: datetime = SEVEN_YEARS) -> archive.Archive:
    source = Folder(server.home / "repo2")
    return archive.export(source, target, full(server), ABOUT, until, datetime.now(UTC), quiet)


@pytest.fixture(scope="module")
def exported(server: Backups, store: Gateway) -> archive.Archive:
    return export(server, vault(store))


def test_everything_is_there_and_locked_for_seven_years(exported: archive.Archive, store: Gateway) -> None:
    checked = archive.verify(vault(store), exported.label, quiet)
    assert checked.troubles == () and checked.files == len(exported.items) > 900
    paths = {item.path for item in exported.items}
    assert {f"backup/{STANZA}/backup.info", f"archive/{STANZA}/archive.info"} <= paths
    assert any(exported.wal_start in path for path in paths)
    assert archive.labels(vault(store)) == [exported.label]
    assert PASSPHRASES[2] not in repr(exported)


def test_neither_the_owner_nor_time_travel_gets_rid_of_it(exported: archive.Archive, store: Gateway) -> None:
    here = vault(store)
    item = exported.items[0]
    key = f"{exported.label}/{archive.REPOSITORY}/{item.path}"
    # A lock is not made shorter.
    with pytest.raises(Failed, match="refuses to lock"):
        here.lock(key, item.version, datetime.now(UTC) + timedelta(seconds=2))
    mine = [each for each in here.versions(f"{exported.label}/") if each.key == key]
    assert here.destroy(mine) == mine
    # A plain deletion and a new content hide it; the locked version is what is read here.
    here.delete([key])
    here.put(f"{exported.label}/{archive.LIST}", b"{}")
    assert archive.verify(here, exported.label, quiet).troubles == ()
    with pytest.raises(Refused, match="is kept until"):
        archive.purge(here, exported.label, datetime.now(UTC))
    with pytest.raises(Refused, match=r"still holds \d+ of"):
        archive.purge(here, exported.label, SEVEN_YEARS + timedelta(days=1))


def test_a_second_export_changes_nothing(exported: archive.Archive, server: Backups, store: Gateway) -> None:
    before = vault(store).versions(exported.label)
    assert export(server, vault(store)).items == exported.items
    assert vault(store).versions(exported.label) == before


def test_what_the_store_lost_or_changed_is_named(exported: archive.Archive, store: Gateway) -> None:
    item = next(i for i in exported.items if i.path.endswith("/1249.zst"))
    where = [p for p in store.files() if hashlib.sha256(p.read_bytes()).hexdigest() == item.sha256]
    assert where
    contents = {path: path.read_bytes() for path in where}
    try:
        for path, content in contents.items():
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        troubles = archive.verify(vault(store), exported.label, quiet).troubles
        assert troubles == (f"{item.path}: its content is another one than was archived",)
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert archive.verify(vault(store), exported.label, quiet).troubles == ()


def test_an_export_that_died_begins_anew_and_leaves_nothing_locked_behind(
    server: Backups, store: Gateway
) -> None:
    class Dying(Vault):
        left = 5

        def store(self, key: str, content: Readable) -> str:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().store(key, content)

    dying = Dying("the gateway", "died", store.options)
    with pytest.raises(KeyboardInterrupt):
        export(server, dying)
    here = vault(store, "died")
    label = full(server).label
    assert archive.load(here, label) is None and len(here.versions(label)) == 5
    assert "never finished" in archive.verify(here, label, quiet).troubles[0]
    until = datetime.now(UTC) + timedelta(seconds=20)
    done = export(server, here, until)
    assert len(here.versions(label)) == len(done.items) + 1
    assert archive.verify(here, label, quiet).troubles == ()
    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1)
    # Its time is over: then it goes, whole.
    assert archive.purge(here, label, datetime.now(UTC)) == len(done.items) + 1
    assert archive.labels(here) == []


def test_a_bucket_that_locks_nothing_is_no_vault(store: Gateway, server: Backups) -> None:
    plain = vault(store, "plain")
    plain._client.create_bucket(Bucket="plain")
    with pytest.raises(Refused, match="without Object Lock"):
        export(server, plain)
    assert archive.labels(vault(store, "nowhere")) == []


def test_what_is_not_self_contained_is_not_archived(server: Backups, store: Gateway) -> None:
    backup = full(server)
    mine = server.files(2, f"archive/{STANZA}/15-1/*/{backup.wal_start}-*")
    aside = mine[0].with_name("aside")
    mine[0].rename(aside)
    try:
        with pytest.raises(Refused, match="1 of the WAL segments that it needs are not beside it"):
            export(server, vault(store, "other"))
    finally:
        aside.rename(mine[0])


def test_with_the_escrow_alone_it_is_restored_when_the_platform_is_gone(
    exported: archive.Archive, server: Backups, store: Gateway, tmp_path: Path
) -> None:
    """The rehearsal: no server, no repository, no configuration; an archive, an escrow and a private key."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.unit.wmsctl.backup.test_escrow import certificate

    certificate_path, key_path = certificate(
        tmp_path, "holder", rsa.generate_private_key(65537, escrow.MINIMUM_BITS)
    )
    content = escrow.Content(
        platform="wms", environment="test", stanza=STANZA, postgres_version=15, cipher="aes-256-cbc",
        repositories=(escrow.Entry(number=2, bucket="l", path="/repo2", passphrase=PASSPHRASES[2]),),
        restore=ABOUT.restore,
    )  # fmt: skip
    now = datetime.now(UTC)
    sealed = escrow.seal(content, [escrow.recipient(certificate_path.read_bytes(), "x", now)], now)

    server.stop()
    for name in ("data", "repo1", "repo2", "pgbackrest.conf"):
        path = server.home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    found, repository = archive.fetch(vault(store), exported.label, tmp_path / "fetched", quiet)
    opened = escrow.unseal(
        escrow.read(sealed.encode(), "x"), certificate_path.read_bytes(), key_path.read_bytes(), "x"
    )
    assert escrow.fingerprint(Secret(opened.repositories[0].passphrase)) == found.fingerprint
    # As the words in the archive say; the folder is given to the user who restores.
    here = server.home / "repository"
    shutil.copytree(repository, here)
    conf = server.home / "pgbackrest.conf"
    conf.write_text(escrow.configuration(opened, 2, str(here), str(server.home / "data"), str(server.home)))
    owner = server.home.stat()
    (server.home / "data").mkdir(mode=0o700)
    for path in (conf, server.home / "data", here, *here.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    server.command("restore", f"--set={found.label}", "--type=immediate", "--target-action=promote")
    with (server.home / "data/postgresql.auto.conf").open("a") as file:
        file.write("archive_mode = off\n")
    server.start()
    with server.connect() as connection:
        assert connection.execute("SELECT array_agg(word) FROM kept").fetchone() == (["before"],)
        deadline = time.monotonic() + 20
        while connection.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
            assert time.monotonic() < deadline, "it was not promoted"
            time.sleep(0.05)
    check = subprocess.run(
        [BINARIES / "pg_amcheck", "-h", server.home, "-U", "postgres", "-d", "postgres", "--install-missing"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_folder_with_something_in_it_is_left_alone(
    exported: archive.Archive, store: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(Usage, match="is not empty"):
        archive.fetch(vault(store), exported.label, tmp_path, quiet)
    with pytest.raises(Usage, match="there is no archive 20200101-000000F; there are: "):
        archive.fetch(vault(store), "20200101-000000F", tmp_path / "x", quiet)
