"""What can go wrong, and the exit code each kind ends with.

Every error says what happened and where (the message) and what to do next (the hint). Only `wmsctl.main`
turns one into an exit code; everything else raises and lets it pass.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """Exit codes of every wmsctl command."""

    DONE = 0
    """Done, or already so."""
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """Refused for safety: nothing was changed."""
    UNREACHABLE = 4
    OBJECTIVE_MISSED = 5
    UNKNOWN = 6
    """The outcome is not known, or the work is still in progress."""


class WmsctlError(Exception):
    """Base of all expected errors.

    `message` says what and where in one sentence without a final full stop, `hint` the next step (a command
    where there is one). `code` overrides the class's exit code. Neither text may contain a secret.
    """

    default_code: ClassVar[Code] = Code.FAILED

    def __init__(self, message: str, *, hint: str = "", code: Code | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = self.default_code if code is None else code

    def __str__(self) -> str:
        return self.message


class Failed(WmsctlError):
    """It was tried and did not work."""


class Usage(WmsctlError):
    """The command line, the context or a file given by the operator is wrong."""

    default_code = Code.USAGE


class Refused(WmsctlError):
    """It could be done, and wmsctl declines because it is not safe. Nothing was changed."""

    default_code = Code.REFUSED


class Unreachable(WmsctlError):
    """A server that has to answer does not."""

    default_code = Code.UNREACHABLE


class ObjectiveMissed(WmsctlError):
    """The work was done, and a target (lag, RTO, RPO, SLO) was not met."""

    default_code = Code.OBJECTIVE_MISSED


class Unknown(WmsctlError):
    """It was started and its outcome is not known yet."""

    default_code = Code.UNKNOWN
