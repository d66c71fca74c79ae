"""When to leave a server alone: a circuit breaker, without clock and I/O (M. Nygard, Release It!, 2nd ed., 5.2).

Closed, calls pass. After a failure it is open: calls are refused at once. When its pause is over one call is let
through: its success closes the breaker, its failure opens it for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""A server that is back is noticed within this time; meanwhile it costs one slow call in this time."""


@dataclass(slots=True)
class Breaker:
    """The state of one server; times in seconds of any steady clock."""

    failures: int = 0
    retry_at: float = 0.0

    def admits(self, now: float) -> bool:
        """Whether a call may be made. While open, asking is the trial: nobody else gets one for a pause."""
        if not self.failures:
            return True
        if now < self.retry_at:
            return False
        self.retry_at = now + self._pause()
        return True

    def failed(self, now: float) -> None:
        """The call did not come through."""
        self.failures += 1
        self.retry_at = now + self._pause()

    def succeeded(self) -> None:
        """The server answered."""
        self.failures = 0

    def _pause(self) -> float:
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 8)))
