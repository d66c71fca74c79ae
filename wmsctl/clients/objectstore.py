"""The object store through boto3, which is imported when the first request is made: it takes longer to load than most
commands take to run, and belongs to the extra `archive`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wmsctl.errors import Failed, Unreachable, Usage

if TYPE_CHECKING:
    from wmsctl.inventory import Inventory
    from wmsctl.secrets import Secrets

CONNECT_S, READ_S, ATTEMPTS = 5, 60, 4
DELETE_AT_ONCE = 1000
"""S3's own limit for one request."""
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403")
ABSENT = ("NoSuchKey", "404", "NotFound")


class ObjectStore:
    """One bucket. May be used by several threads at once."""

    def __init__(self, where: str, bucket: str, options: dict[str, Any]) -> None:
        self.where = where
        self.bucket = bucket
        self._options = options

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ModuleNotFoundError as error:
            raise Usage(
                f"{error.name} is not installed, and the object store needs it",
                hint='install the extra: pip install "wms-platform[archive]"',
            ) from error
        # A session of its own: boto3's shared one is not safe for threads.
        return boto3.session.Session().client(
            "s3",
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                max_pool_connections=16,
                # Gateways need not know the newer checksums; what is written is read back and compared anyway.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
            **self._options,
        )

    def put(self, key: str, data: bytes, *, kind: str = "application/octet-stream") -> None:
        """Write one object, replacing an earlier one. Raises Failed, Unreachable."""
        with self._translated(f"write {key}"):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=kind)

    def get(self, key: str) -> bytes | None:
        """The content of an object, None when there is none. Raises Failed, Unreachable."""
        with self._translated(f"read {key}"):
            try:
                content: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except self._client.exceptions.ClientError as error:
                if _code(error) in ABSENT:
                    return None
                raise
            return content

    def list(self, prefix: str) -> dict[str, int]:
        """Key → bytes of every object whose key begins so. Raises Failed, Unreachable."""
        found = {}
        with self._translated(f"list {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            ):
                found.update({each["Key"]: int(each["Size"]) for each in page.get("Contents", ())})
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are none the worse. Raises Failed, Unreachable."""
        queue = list(keys)
        with self._translated("delete"):
            for start in range(0, len(queue), DELETE_AT_ONCE):
                some = [{"Key": key} for key in queue[start : start + DELETE_AT_ONCE]]
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": some, "Quiet": True}
                )
                if errors := answer.get("Errors"):
                    raise Failed(
                        f"{self.where} did not delete {errors[0]['Key']}: {errors[0].get('Code', '')}"
                    )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """The driver's errors in the body as Failed (refused) or Unreachable; none of them holds a key pair."""
        client = self._client
        from botocore.exceptions import BotoCoreError, HTTPClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except client.exceptions.ClientError as error:
            code = _code(error)
            if code in REFUSED:
                raise Failed(
                    f"{self.where} refuses to {doing}: {code}",
                    hint="the secrets file is stale: bring the platform up again (make up)",
                ) from None
            raise Failed(f"{self.where} cannot {doing}: {code}", hint="see its log") from None
        except (HTTPClientError, HTTPError, OSError) as error:
            raise Unreachable(
                f"{self.where} does not answer ({type(error).__name__})", hint="see: wmsctl status"
            ) from error
        except BotoCoreError as error:
            raise Unreachable(f"{self.where}: {type(error).__name__}", hint="see: wmsctl status") from error


def object_store(inventory: Inventory, secrets: Secrets) -> ObjectStore:
    """The store of a platform. Raises Usage when it has none."""
    store = inventory.store
    if store is None:
        raise Usage(f"the platform {inventory.platform} has no object store")
    endpoint = store.endpoint
    scheme = "https" if endpoint.tls else "http"
    return ObjectStore(
        f"the object store on {endpoint.node}",
        store.bucket,
        {
            "endpoint_url": f"{scheme}://{endpoint.address}:{endpoint.port}",
            "region_name": store.region,
            "aws_access_key_id": secrets.get(store.access_key).reveal(),
            "aws_secret_access_key": secrets.get(store.secret_key).reveal(),
            "verify": inventory.ca if endpoint.tls else None,
        },
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
