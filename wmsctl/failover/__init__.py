"""Failover: planned switchover, promotion after a loss, rejoin, and the history of them."""
