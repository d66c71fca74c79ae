"""Receipts: their states, and what a delivery books.

    EXPECTED -receive-> RECEIVING -close-> RECEIVED
       \\-cancel-> CANCELLED   (receive repeats)

Once units are in stock a receipt is closed and not cancelled: what came is what came, more or less than expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from wms.domain.states import Machine

Status = Literal["EXPECTED", "RECEIVING", "RECEIVED", "CANCELLED"]

RECEIPT = Machine(
    "receipt",
    {
        "EXPECTED": {"receive": "RECEIVING", "cancel": "CANCELLED"},
        "RECEIVING": {"receive": "RECEIVING", "close": "RECEIVED"},
        "RECEIVED": {},
        "CANCELLED": {},
    },
)

MAX_LINES = 500
"""Lines of a receipt, and of one delivery: about 40 kB of JSON, within the limit of a request's body (64 KiB)."""


def received(before: Mapping[int, int], delivery: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Units received per line number, after a delivery of (line number, units); a line may come in several parts.

    Raises KeyError for a line that the receipt does not have.
    """
    after = dict(before)
    for line_number, units in delivery:
        after[line_number] += units
    return after
