"""The database as the service sees it: pools, retries inside a deadline, and one function per statement."""
