"""Sample data: `python -m wms.seed --scale small [--keys-out FILE]`, or with sizes of one's own.

The same numbers give the same data (times are relative to now), and a second run adds only what is missing: larger
numbers extend what is there. Every balance is the sum of its rows in the ledger from the start. API keys are random
whatever the seed, and exist only in the file (mode 0600) or on the terminal they were written to.

generate and history are pure, load writes what they yield, keys keeps the API keys.
"""

from wms.seed.generate import (
    SCALES,
    Size,
    balances,
    customers,
    location,
    location_count,
    sku_code,
    skus,
)
from wms.seed.keys import TenantKey, read_keys, write_keys

__all__ = [
    "SCALES",
    "Size",
    "TenantKey",
    "balances",
    "customers",
    "location",
    "location_count",
    "read_keys",
    "sku_code",
    "skus",
    "write_keys",
]
