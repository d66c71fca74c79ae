"""Partitions by time: made ahead, looked after, archived, and brought back."""
