"""The ledger: a record of acknowledged writes, and whether each of them is still there."""
