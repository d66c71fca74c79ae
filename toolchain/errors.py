"""The one exception of the toolchain."""

from __future__ import annotations


class ToolchainError(Exception):
    """Something the operator has to know: the message says what, where, and what to do next."""
