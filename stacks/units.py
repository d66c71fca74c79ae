"""What the sections of a spec are made of: their base, and the types of single values with their ranges.

Names of durations and sizes end in their unit (`_s`, `_ms`, `_mb`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1024, le=65535)]
"""Above 1023: the servers run as an unprivileged user."""
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Megabytes = Annotated[int, Meta(ge=1, le=1_048_576)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z")]
Bucket = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of the spec: immutable, and an unknown key is an error."""
