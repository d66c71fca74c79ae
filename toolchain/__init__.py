"""The toolchain: finds out what this machine lacks to run the platform, says so, and installs it.

It runs before any virtual environment exists, so it uses the standard library alone.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  an older python must get this sentence, not a traceback from tomllib
    sys.exit(
        "toolchain: python {}.{} is too old, 3.11 or newer is needed. "
        "On Debian 12 run it with /usr/bin/python3 (apt-get install python3).".format(*sys.version_info[:2])
    )
