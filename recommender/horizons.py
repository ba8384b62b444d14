"""Up to which moment has time passed, as far as that can be believed? By it history is forgotten. Pure.

A clock that jumps a year ahead would have all history forgotten, and be set right a minute later. So a jump is believed
only once it has lasted for a day; meanwhile time goes on from where it was, and what is old is kept a day longer.
"""

from __future__ import annotations

import logging

from recommender.api.units import format_duration

logger = logging.getLogger(__name__)

TOLERATED_SECONDS = 300.0
"""Clocks are set by less all the time; and a recommender that starts anew has been away for less, as a rule."""
DOUBTED_SECONDS = 86_400.0


class Horizon:
    """Follows a wall clock by one that only runs. `believed`: what held when it was last asked; None: never."""

    def __init__(self, believed: float | None) -> None:
        self._believed = believed
        self._ran_at: float | None = None
        self._jump = 0.0
        """How far the wall clock is from what is believed."""
        self._doubted_seconds = 0.0

    def at(self, now: float, running: float) -> float:
        """The moment to forget by, in seconds since the epoch: `now`, or less, or more, while that is doubted.

        `running`: seconds of a clock that nobody sets, from any beginning.
        """
        elapsed = 0.0 if self._ran_at is None else max(running - self._ran_at, 0.0)
        self._ran_at = running
        if self._believed is None:
            self._believed = now
            return now
        expected = self._believed + elapsed
        jump = now - expected
        if abs(jump) <= TOLERATED_SECONDS:
            if self._doubted_seconds:
                logger.info("the clock is back where it was expected")
            self._believed, self._doubted_seconds = now, 0.0
            return now
        if self._doubted_seconds and abs(jump - self._jump) <= TOLERATED_SECONDS:
            self._doubted_seconds += elapsed
        else:
            logger.warning(
                "the clock is %s %s what was expected: it was set, or nothing ran meanwhile; "
                "no history is forgotten by it for the next %s",
                format_duration(abs(jump)),
                "ahead of" if jump > 0 else "behind",
                format_duration(DOUBTED_SECONDS),
            )
            self._doubted_seconds = max(elapsed, 1.0)
        self._jump = jump
        if self._doubted_seconds >= DOUBTED_SECONDS:
            logger.warning("the clock has stayed there: history is forgotten by it from now on")
            self._believed, self._doubted_seconds = now, 0.0
            return now
        self._believed = expected
        return expected
