"""Bucket: a bucket of an S3 store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


class BucketInputs(Inputs, frozen=True, kw_only=True):
    endpoint: str
    name: str
    access_key: str
    secret_key: str
    ca: str = ""
    region: str = "us-east-1"
    force_destroy: bool = False
    """Delete it with all it holds; else only an empty one is deleted."""


class BucketHandler(Handler[BucketInputs]):
    """Output: state (present, unreachable)."""

    inputs_type = BucketInputs
    outputs = ("state",)
    replace_on = frozenset({"endpoint", "name", "region"})
    healthy = "present"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "name" in inputs and not BUCKET.match(inputs["name"]):
            yield Problem(
                "name", f"{inputs['name']!r} must be 3 to 63 lower-case letters, digits, dots and hyphens"
            )

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "present"}

    def make(self, name: str, inputs: BucketInputs) -> Made:
        return Made(inputs.name, self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: BucketInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: BucketInputs, state: Values) -> Values | None:
        with store(inputs, attempts=1) as client:
            return {"state": "present"} if exists(client, inputs.name) else None

    def remove(self, resource_id: str, inputs: BucketInputs, state: Values) -> None:
        try:
            with store(inputs) as client:
                discard(client, inputs)
        except Unreachable:
            # As for a database: the server is gone, and its data go with its folder.
            return

    @staticmethod
    def put(inputs: BucketInputs) -> Values:
        """Create it unless it is there and ours."""
        with store(inputs) as client:
            place = {"CreateBucketConfiguration": {"LocationConstraint": inputs.region}}
            try:
                client.create_bucket(Bucket=inputs.name, **(place if inputs.region != "us-east-1" else {}))
            except client.exceptions.ClientError as error:
                if code(error) != "BucketAlreadyOwnedByYou" and not (
                    code(error) == "BucketAlreadyExists" and exists(client, inputs.name)
                ):
                    raise
        return {"state": "present"}


@contextmanager
def store(inputs: BucketInputs, attempts: int = 5) -> Iterator[Any]:
    """A client of the store; its errors inside the block become ours."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    # A session of its own: boto3's shared one is not safe for threads.
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=inputs.endpoint,
        region_name=inputs.region,
        aws_access_key_id=inputs.access_key,
        aws_secret_access_key=inputs.secret_key,
        verify=inputs.ca or None,
        config=Config(
            connect_timeout=3,
            read_timeout=20,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": "path"},
        ),
    )
    try:
        yield client
    except ClientError as error:
        raise ProviderError(
            f"the store {inputs.endpoint} refuses {error.operation_name} on bucket {inputs.name}:"
            f" {code(error)}",
            "Check the access key" if code(error) in ("403", "AccessDenied", "InvalidAccessKeyId") else "",
        ) from None
    except BotoCoreError as error:
        raise Unreachable(
            f"the store {inputs.endpoint} does not answer ({type(error).__name__})",
            "See its log in the folder supervisor/log",
        ) from None
    finally:
        client.close()


def code(error: Any) -> str:
    """The code of a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def exists(client: Any, name: str) -> bool:
    """Whether the bucket is there and may be used."""
    try:
        client.head_bucket(Bucket=name)
    except client.exceptions.ClientError as error:
        if code(error) in ("404", "NoSuchBucket", "NotFound"):
            return False
        raise
    return True


def discard(client: Any, inputs: BucketInputs) -> None:
    """Delete the bucket, if it is there; what it holds only with `force_destroy`. Raises ProviderError."""
    if not exists(client, inputs.name):
        return
    if inputs.force_destroy:
        empty(client, inputs.name)
    try:
        client.delete_bucket(Bucket=inputs.name)
    except client.exceptions.ClientError as error:
        if code(error) == "BucketNotEmpty":
            raise ProviderError(
                f"bucket {inputs.name} holds objects and is not deleted",
                "Empty it, or set force_destroy and run pulumi up first",
            ) from None
        if code(error) not in ("NoSuchBucket", "404"):
            raise


def empty(client: Any, name: str) -> None:
    """Delete every object, every version and every unfinished upload."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for each in page.get("Contents", ()):
            client.delete_object(Bucket=name, Key=each["Key"])
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                client.delete_object(Bucket=name, Key=each["Key"], VersionId=each["VersionId"])
    except client.exceptions.ClientError as error:
        # A gateway without versioning has no versions to delete.
        if code(error) not in ("NotImplemented", "MethodNotAllowed", "VersioningNotConfigured"):
            raise
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for each in page.get("Uploads", ()):
            client.abort_multipart_upload(Bucket=name, Key=each["Key"], UploadId=each["UploadId"])
