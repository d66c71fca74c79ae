"""Keys in escrow: the repositories' passphrases in a file that only the holders of offline keys can open.

The container is CMS (RFC 5652) for one or more RSA certificates, AES-256 inside: in seven years `openssl cms -decrypt`
opens it without this program. Beside it stand the fingerprints of the passphrases, so that anybody can tell whether the
escrow is still that of the platform; a passphrase is a long random text, and a fingerprint tells nothing of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wmsctl.errors import Failed, Refused, Usage
from wmsctl.secrets import Secret

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

VERSION = "wms.escrow/v1"
MINIMUM_BITS = 3072
"""Of a recipient's RSA key: NIST SP 800-57 part 1, for use beyond 2030."""
MAKE_KEY = (
    "openssl req -x509 -newkey rsa:4096 -nodes -days 3650 -subj /CN=escrow -keyout escrow.key -out escrow.crt"
)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One repository."""

    number: int
    bucket: str
    path: str
    passphrase: str


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is inside, encrypted."""

    platform: str
    environment: str
    stanza: str
    postgres_version: int
    cipher: str
    repositories: tuple[Entry, ...]
    restore: str
    """How to restore with nothing but pgBackRest, for whoever opens it."""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file."""

    version: str
    platform: str
    environment: str
    created: str
    recipients: tuple[str, ...]
    """Subject and SHA-256 of each certificate that it was encrypted for."""
    fingerprints: dict[str, str]
    """repo<n> → fingerprint of its passphrase."""
    open_with: str
    """The command that opens it without wmsctl."""
    sha256: str
    """Of the content, plain."""
    cms: str
    """PEM."""


@dataclass(frozen=True)
class Difference:
    """What the platform's passphrase is, compared with the escrow's."""

    repository: str
    state: str
    """same, changed, missing (not in the escrow) or unknown (not of the platform)."""


RESTORE = """\
1. Bring the repository to a machine with PostgreSQL {postgres} and pgBackRest, as a folder DIR that holds archive/ and
   backup/ (of the bucket named above, below its path; or of an archive: wmsctl backup archive fetch, or any S3 client).
2. pgbackrest.conf, readable by the postgres user only:
     [global]
     repo1-path=DIR
     repo1-cipher-type={cipher}
     repo1-cipher-pass=PASSPHRASE
     lock-path=SCRATCH            (two folders that this user may write in)
     spool-path=SCRATCH
     log-level-file=off
     [{stanza}]
     pg1-path=/var/lib/postgresql/{postgres}/restored
3. pgbackrest --config=pgbackrest.conf --stanza={stanza} info
   pgbackrest --config=pgbackrest.conf --stanza={stanza} --set=LABEL --type=immediate --target-action=promote restore
4. Start PostgreSQL on that folder with archive_mode=off. Then apply again the erasures that were made since the backup
   (README of the platform, "Erasure").
"""


def fingerprint(passphrase: Secret) -> str:
    """Tells whether two passphrases are the same, and nothing else."""
    return hashlib.sha256(b"wms escrow fingerprint\0" + passphrase.reveal().encode()).hexdigest()[:32]


def restore_text(stanza: str, postgres: int, cipher: str) -> str:
    """How to restore without anything of the platform."""
    return RESTORE.format(stanza=stanza, postgres=postgres, cipher=cipher)


def recipient(text: bytes, source: str, now: datetime) -> Certificate:
    """Read a recipient's certificate. Raises Usage for one that is none, Refused for one too weak or out of date."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        certificate = x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise Usage(f"{source} is no certificate in PEM", hint=f"make a key: {MAKE_KEY}") from error
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MINIMUM_BITS:
        raise Refused(
            f"{source} has no RSA key of {MINIMUM_BITS} bits or more", hint=f"make another: {MAKE_KEY}"
        )
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Refused(
            f"{source} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to"
            f" {certificate.not_valid_after_utc:%Y-%m-%d} only: its holder may have thrown the key away",
            hint=f"make another: {MAKE_KEY}",
        )
    return certificate


def seal(content: Content, recipients: Sequence[Certificate], now: datetime) -> str:
    """The file's text. Raises Usage without a recipient."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    if not recipients:
        raise Usage("an escrow is for somebody: name a certificate", hint=f"make a key: {MAKE_KEY}")
    plain = msgspec.json.format(msgspec.json.encode(content), indent=2)
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(plain).set_content_encryption_algorithm(AES256)
    for each in recipients:
        builder = builder.add_recipient(each)
    cms = builder.encrypt(Encoding.PEM, [pkcs7.PKCS7Options.Binary])
    envelope = Envelope(
        version=VERSION,
        platform=content.platform,
        environment=content.environment,
        created=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        recipients=tuple(
            f"{each.subject.rfc4514_string()} {each.fingerprint(hashes.SHA256()).hex()}"
            for each in recipients
        ),
        fingerprints={f"repo{e.number}": fingerprint(Secret(e.passphrase)) for e in content.repositories},
        open_with=(
            'python3 -c \'import json; print(json.load(open("FILE"))["cms"])\''
            " | openssl cms -decrypt -inform PEM -inkey KEY -recip CERTIFICATE"
        ),
        sha256=hashlib.sha256(plain).hexdigest(),
        cms=cms.decode(),
    )
    return json.dumps(msgspec.to_builtins(envelope), indent=2) + "\n"


def read(text: bytes, source: str) -> Envelope:
    """Read the file. Raises Usage when it is none."""
    try:
        envelope = msgspec.json.decode(text, type=Envelope)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Usage(f"{source} is no {VERSION} file: {error}") from error
    if envelope.version != VERSION:
        raise Usage(f"{source} is of version {envelope.version}; this wmsctl reads {VERSION}")
    return envelope


def unseal(envelope: Envelope, certificate: bytes, key: bytes, source: str) -> Content:
    """Open it with a recipient's certificate and private key, both PEM.

    Raises Usage for a key that is none, Failed when it opens nothing or the content was changed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs7

    try:
        mine = x509.load_pem_x509_certificate(certificate)
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        # The library's own text may quote the file.
        raise Usage(
            "the key or its certificate cannot be read", hint="both in PEM, the key without a password"
        ) from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise Usage("the key is no RSA key")
    try:
        plain = pkcs7.pkcs7_decrypt_pem(envelope.cms.encode(), mine, private, [])
        content = msgspec.json.decode(plain, type=Content)
    except (ValueError, msgspec.DecodeError):
        plain, content = b"", None
    if content is None or hashlib.sha256(plain).hexdigest() != envelope.sha256:
        raise Failed(
            f"{source} does not open with this key, or was changed",
            hint=f"it was made for: {'; '.join(envelope.recipients)}",
        )
    return content


def compare(envelope: Envelope, current: Mapping[str, Secret]) -> tuple[Difference, ...]:
    """Whether the escrow holds what the platform encrypts with now; `current`: repo<n> → passphrase."""
    found = []
    for name in sorted({*envelope.fingerprints, *current}):
        if name not in envelope.fingerprints:
            state = "missing"
        elif name not in current:
            state = "unknown"
        else:
            state = "same" if envelope.fingerprints[name] == fingerprint(current[name]) else "changed"
        found.append(Difference(name, state))
    return tuple(found)


def configuration(content: Content, number: int, folder: str, data: str, scratch: str) -> str:
    """A pgbackrest.conf that restores repository `number`, lying in `folder`, into `data`. It holds the passphrase.

    `scratch` is a folder that the user who restores may write in. Raises Usage when the escrow has no such repository.
    """
    for entry in content.repositories:
        if entry.number == number:
            return (
                f"[global]\nrepo1-path={folder}\nrepo1-cipher-type={content.cipher}\n"
                f"repo1-cipher-pass={entry.passphrase}\n"
                f"lock-path={scratch}/lock\nspool-path={scratch}/spool\nlog-level-file=off\n"
                f"[{content.stanza}]\npg1-path={data}\n"
            )
    known = ", ".join(f"repo{entry.number}" for entry in content.repositories)
    raise Usage(f"the escrow has no repo{number}; it has {known}")


def load(path: Path) -> bytes:
    """A file's content. Raises Usage saying why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from error


def document(envelope: Envelope, differences: Sequence[Difference]) -> dict[str, Any]:
    """For programs: nothing secret."""
    return {
        "platform": envelope.platform,
        "environment": envelope.environment,
        "created": envelope.created,
        "recipients": list(envelope.recipients),
        "repositories": [{"repository": d.repository, "state": d.state} for d in differences],
        "current": all(d.state == "same" for d in differences),
    }
