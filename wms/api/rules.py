r"""Rules of fields that several resources share: types of parameters and bodies.

A pattern is for the whole value, and ends with $(?!\n): in Python, $ also matches before a last line feed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from wms.domain.passwords import MAX_LENGTH, MIN_LENGTH

LINE = r"^[^\x00-\x1f\x7f]+$(?!\n)"
"""A line of text, without control characters; it needs a length besides."""

Id = Annotated[int, Meta(ge=1, le=2**53 - 1, description="Whole numbers that JavaScript keeps exact.")]
Code = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=LINE)]

Username = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9][a-z0-9._-]*$(?!\n)",
        description="In lower case, unique in the tenant.",
    ),
]
NewPassword = Annotated[str, Meta(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
GivenPassword = Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH)]
"""One to be compared: the rules for new ones may have changed since it was set."""

Role = Literal["viewer", "picker", "receiver", "supervisor", "administrator"]
"""What a user may be given (wms/domain/roles.py)."""
KeyRole = Literal["viewer", "picker", "receiver", "supervisor", "administrator", "frontend"]
"""What an API key may be given."""
