"""What the provider says when it cannot do something: what happened, where, and what to do next."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class ProviderError(Exception):
    """A failure that is shown to the operator as it stands, so it never contains a secret.

    `what` says what failed and where, `do` what to do next.
    """

    def __init__(self, what: str, do: str = "") -> None:
        super().__init__(f"{what}. {do}" if do else what)
        self.what = what
        self.do = do


class Unreachable(ProviderError):
    """A server does not answer; when this happens while reading, it is drift rather than a failed refresh."""


class DeadlineExceeded(ProviderError):
    """Something did not happen in time."""


class Cancelled(ProviderError):
    """The operator interrupted Pulumi."""

    def __init__(self) -> None:
        super().__init__("interrupted", "Run pulumi up again: it continues from here")


class NotReady(ProviderError):
    """The resource exists but does not work yet: Pulumi records it with `outputs`, and the next update
    repairs it.
    """

    def __init__(self, cause: ProviderError, resource_id: str, outputs: Mapping[str, Any]) -> None:
        super().__init__(cause.what, cause.do)
        self.resource_id = resource_id
        self.outputs = dict(outputs)


ADVICE = {
    errno.ENOSPC: "Free space on that file system, then run pulumi up again",
    errno.EDQUOT: "Raise the quota or free space, then run pulumi up again",
    errno.EACCES: "Check the owner and mode of the folder, or run as the user that made it",
    errno.EPERM: "Check the owner of the file, or run as the user that made it",
    errno.EROFS: "The file system is read-only: choose another WMS_HOME or remount it",
    errno.ENOTDIR: "A file stands where a folder is needed: move it away",
    errno.EISDIR: "A folder stands where a file is needed: move it away",
}


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an OSError inside the block into a ProviderError that begins with `doing` ("cannot write /x")."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise ProviderError(f"{doing}: {reason}", ADVICE.get(error.errno or 0, "")) from error
