"""Runs the demonstration; see `python -m demo --help`."""

from __future__ import annotations

import sys

from demo.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
