"""Shipments: an order has at most one that is not CANCELLED, made when it is PICKED.

PACKED -dispatch-> DISPATCHED -deliver-> DELIVERED
   \\-cancel-> CANCELLED
"""

from __future__ import annotations

from typing import Literal

from wms.domain.states import Machine

Status = Literal["PACKED", "DISPATCHED", "DELIVERED", "CANCELLED"]

SHIPMENT = Machine(
    "shipment",
    {
        "PACKED": {"dispatch": "DISPATCHED", "cancel": "CANCELLED"},
        "DISPATCHED": {"deliver": "DELIVERED"},
        "DELIVERED": {},
        "CANCELLED": {},
    },
)
