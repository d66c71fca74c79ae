"""What the warehouse did, counted from what was committed: a request that was refused, or that had been done before by
an earlier one with its key, counts nothing, whichever route it came by (rows M1 and M4).

The process that made the commit counts it; the sum over all processes is the warehouse's rate.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

ORDER_EVENTS = ("created", "allocated", "picking", "picked", "shipped", "cancelled")
PICK_RESULTS = ("picked", "short")
RECEIPT_EVENTS = ("created", "received", "closed", "cancelled")
SHIPMENT_EVENTS = ("packed", "dispatched", "delivered", "cancelled")


class BusinessMetrics:
    """Instruments in a registry that somebody else renders; every series is there from the start, at 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.orders = Counter(
            "wms_orders_total", "Orders by what became of them.", ("event",), registry=registry
        )
        self.picks = Counter(
            "wms_picks_total",
            "Confirmed pick tasks: all that was asked for, or less (short).",
            ("result",),
            registry=registry,
        )
        self.picked_units = Counter(
            "wms_picked_units_total", "Units that confirmed picks took.", registry=registry
        )
        self.receipts = Counter(
            "wms_receipts_total",
            "Receipts by what became of them; received is a delivery that was booked, of which a receipt may have "
            "several.",
            ("event",),
            registry=registry,
        )
        self.shipments = Counter(
            "wms_shipments_total", "Shipments by what became of them.", ("event",), registry=registry
        )
        for counter, values in (
            (self.orders, ORDER_EVENTS),
            (self.picks, PICK_RESULTS),
            (self.receipts, RECEIPT_EVENTS),
            (self.shipments, SHIPMENT_EVENTS),
        ):
            for value in values:
                counter.labels(value)
