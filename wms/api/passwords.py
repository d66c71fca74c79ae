"""Hashing of passwords beside the event loop: one at a time, so that sign-ins take one core and 16 MiB at most."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from wms.domain import passwords

# hashlib.scrypt releases the interpreter's lock: requests go on meanwhile.
_HASHING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")


async def hashed(password: str) -> str:
    """A new hash of `password`."""
    return await asyncio.get_running_loop().run_in_executor(_HASHING, passwords.hash_of, password)


async def matches(password: str, stored: str) -> bool:
    """Whether `stored` was made from `password`."""
    return await asyncio.get_running_loop().run_in_executor(_HASHING, passwords.matches, password, stored)
