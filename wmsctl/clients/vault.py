"""A bucket under S3 Object Lock: what is locked in it nobody deletes or replaces before its time, the owner neither.

The bucket keeps versions, as Object Lock demands. An overwritten or deleted key hides the locked version and does not
harm it, so everything here names versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Protocol

from wmsctl.clients.objectstore import ABSENT, ObjectStore, object_store
from wmsctl.errors import Failed, Refused

if TYPE_CHECKING:
    from wmsctl.inventory import Inventory
    from wmsctl.secrets import Secrets

CHUNK = 1024 * 1024
MODE = "COMPLIANCE"
"""Of the two modes the one that no permission overrides."""


def code_of(error: Any) -> str:
    """The store's word for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


class Readable(Protocol):
    """Bytes that are read once, from the beginning."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object."""

    key: str
    version: str
    size: int
    current: bool
    """It is what a reader without a version gets."""


class Hashing:
    """Hands bytes on and remembers their SHA-256 and how many they were."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def drain(self, into: IO[bytes] | None = None) -> None:
        """Read to the end, into a file or into nothing."""
        while data := self.read(CHUNK):
            if into is not None:
                into.write(data)


class Source(ObjectStore):
    """A bucket that objects are read from without holding one in memory."""

    @contextmanager
    def open(self, key: str, version: str = "") -> Iterator[Readable]:
        """The content of an object. Raises Failed when it is not there, Unreachable."""
        options = {"VersionId": version} if version else {}
        with self._translated(f"read {key}"):
            try:
                body: Any = self._client.get_object(Bucket=self.bucket, Key=key, **options)["Body"]
            except self._client.exceptions.ClientError as error:
                if code_of(error) in (*ABSENT, "NoSuchVersion"):
                    raise Failed(f"{self.where} does not have {key} in {self.bucket}") from None
                raise
            try:
                yield body
            finally:
                body.close()


class Vault(Source):
    """The bucket. Methods raise Failed (refused by the store), Unreachable."""

    def ensure(self) -> bool:
        """Have the bucket, with Object Lock; whether it was made now.

        Raises Refused for a bucket that is there and does not lock: what is in it could be deleted by anybody.
        """
        client = self._client
        with self._translated(f"make the bucket {self.bucket}"):
            try:
                client.head_bucket(Bucket=self.bucket)
                made = False
            except client.exceptions.ClientError as error:
                if code_of(error) not in (*ABSENT, "NoSuchBucket"):
                    raise
                client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=True)
                made = True
            try:
                found = client.get_object_lock_configuration(Bucket=self.bucket)
                locks = found["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
            except client.exceptions.ClientError as error:
                if code_of(error) != "ObjectLockConfigurationNotFoundError":
                    raise
                locks = False
            keeps = client.get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled"
        if not locks or not keeps:
            raise Refused(
                f"the bucket {self.bucket} is there without Object Lock",
                hint="name another one, which is then made with it; an existing one may hold what nobody locked",
            )
        return made

    def exists(self) -> bool:
        """Whether the bucket is there."""
        client = self._client
        with self._translated(f"look for the bucket {self.bucket}"):
            try:
                client.head_bucket(Bucket=self.bucket)
            except client.exceptions.ClientError as error:
                if code_of(error) in (*ABSENT, "NoSuchBucket"):
                    return False
                raise
        return True

    def store(self, key: str, content: Readable) -> str:
        """Write an object in parts, unlocked yet; its version. The caller reads it back before he locks it."""
        with self._translated(f"write {key}"):
            self._client.upload_fileobj(content, self.bucket, key)
            head: dict[str, Any] = self._client.head_object(Bucket=self.bucket, Key=key)
            return str(head["VersionId"])

    def lock(self, key: str, version: str, until: datetime) -> None:
        """Lock one version until `until`. A lock is made longer by this, and never shorter."""
        with self._translated(f"lock {key}"):
            self._client.put_object_retention(
                Bucket=self.bucket,
                Key=key,
                VersionId=version,
                Retention={"Mode": MODE, "RetainUntilDate": until.astimezone(UTC)},
            )

    def locked_until(self, key: str, version: str) -> datetime | None:
        """Until when this version is locked beyond anybody's power; None when it is not."""
        client = self._client
        with self._translated(f"look at the lock of {key}"):
            try:
                found = client.get_object_retention(Bucket=self.bucket, Key=key, VersionId=version)[
                    "Retention"
                ]
            except client.exceptions.ClientError as error:
                if code_of(error) in (
                    "NoSuchObjectLockConfiguration",
                    "InvalidRequest",
                    *ABSENT,
                    "NoSuchVersion",
                ):
                    return None
                raise
        until: datetime = found["RetainUntilDate"]
        return until.astimezone(UTC) if found["Mode"] == MODE else None

    def versions(self, prefix: str) -> list[Stored]:
        """Every version of every object whose key begins so; markers of deletions are none."""
        found: list[Stored] = []
        with self._translated(f"list {prefix}"):
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            for page in pages:
                found += [
                    Stored(each["Key"], each["VersionId"], int(each["Size"]), bool(each["IsLatest"]))
                    for each in page.get("Versions", ())
                ]
        return found

    def destroy(self, stored: Iterable[Stored]) -> list[Stored]:
        """Delete versions for good; those that a lock still holds are returned and stay."""
        held: list[Stored] = []
        client = self._client
        for each in stored:
            with self._translated(f"delete {each.key}"):
                try:
                    client.delete_object(Bucket=self.bucket, Key=each.key, VersionId=each.version)
                except client.exceptions.ClientError as error:
                    if code_of(error) not in ("AccessDenied", "ObjectLocked"):
                        raise
                    held.append(each)
        return held


def source(inventory: Inventory, secrets: Secrets, bucket: str) -> Source:
    """A bucket of the platform's store, to read from. Raises Usage when it has no store."""
    store = object_store(inventory, secrets)
    return Source(store.where, bucket, store._options)


def vault(inventory: Inventory, secrets: Secrets, bucket: str) -> Vault:
    """The locked bucket in the platform's store. Raises Usage when it has no store."""
    store = object_store(inventory, secrets)
    return Vault(store.where, bucket, store._options)
