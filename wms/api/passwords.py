"""Passwords in requests: what a new one may be, how often one may be guessed, and hashing beside the event loop, one at
a time, so that sign-ins take one core and 16 MiB at most.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from wms.api.limits import too_many
from wms.api.operation import Services
from wms.api.problem import wrong_field
from wms.domain import passwords

# hashlib.scrypt releases the interpreter's lock: requests go on meanwhile.
_HASHING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")


def check_new(field: str, password: str, username: str) -> None:
    """Raises Problem 422 for a password in `field` that is easily guessed of this user."""
    if username in password.lower():
        raise wrong_field(field, "body", "contains the user name", "a password without it", status=422)


async def count_guess(services: Services, tenant_id: int, who: str) -> None:
    """Count an attempt at the password of `who`: so many a minute, from wherever they come. Raises Problem 429."""
    limit = services.settings.rate_sign_in
    if not limit:
        return
    decision = await services.limiter.take(f"signin-{tenant_id}-{who}", limit)
    if not decision.allowed:
        services.metrics.rate_limited.labels("signin").inc()
        raise too_many(decision)


async def hashed(password: str) -> str:
    """A new hash of `password`."""
    return await asyncio.get_running_loop().run_in_executor(_HASHING, passwords.hash_of, password)


async def matches(password: str, stored: str) -> bool:
    """Whether `stored` was made from `password`."""
    return await asyncio.get_running_loop().run_in_executor(_HASHING, passwords.matches, password, stored)
