"""`python -m agent PATRONI.YML`: run Patroni in this process."""

from __future__ import annotations

from agent.main import main

if __name__ == "__main__":
    main()
