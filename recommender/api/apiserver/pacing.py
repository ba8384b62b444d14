"""How fast somebody may go on asking: a bucket of tokens. Pure, the caller knows the time and does the waiting."""

from __future__ import annotations


class Pacing:
    """At most `per_second` in the long run, and `burst` at once."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Takes a token; the seconds that its owner has to wait first. `now` in seconds on any clock that never goes
        back."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._per_second)
