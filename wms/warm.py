"""`python -m wms.warm [configuration|layouts|skus|all] [--classify]`: warm the cache now, from the settings of the
service (wms.settings).

With --classify, the ABC classes are computed first. Prints what was done as JSON. Exit code 0, 1 when a part failed or
the database or Redis is away, 2 on wrong settings.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import msgspec

from wms.api import warming
from wms.api.app import Application
from wms.settings import Settings, SettingsError, load
from wms.store import events
from wms.store.database import Unavailable

CONNECT_S = 10.0
PATIENCE_S = 2.0


async def run(settings: Settings, what: warming.What, classify: bool) -> int:
    """Warm and print; returns the exit code."""
    # Nobody waits for an answer here: better slow than not filled.
    patient = replace(settings, redis=replace(settings.redis, timeout_s=PATIENCE_S))
    application = Application(patient)
    services = application.services
    await application.connect()
    try:
        async with asyncio.timeout(CONNECT_S):
            while services.redis.configured and not services.redis.available:
                await asyncio.sleep(0.05)
        if classify:
            await events.classify_abc(application.worker, warming.ABC_DAYS)
            await asyncio.sleep(warming.SETTLE_S)
        result = await warming.warm(services, application.worker, what)
    except TimeoutError:
        print("wms.warm: Redis is away: there is nothing to warm", file=sys.stderr)
        return 1
    except Unavailable as error:
        print(f"wms.warm: {error}", file=sys.stderr)
        return 1
    finally:
        await application.disconnect()
    print(msgspec.json.encode(result).decode())
    return 1 if result.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m wms.warm", description="Warm the cache now.")
    parser.add_argument("what", nargs="?", default="all", choices=get_args(warming.What))
    parser.add_argument("--classify", action="store_true", help="compute the ABC classes first")
    asked = parser.parse_args(arguments)
    try:
        settings = load(os.environ)
    except SettingsError as error:
        print(f"wms.warm: wrong settings:\n{error}", file=sys.stderr)
        return 2
    return asyncio.run(run(settings, asked.what, asked.classify))


if __name__ == "__main__":
    sys.exit(main())
