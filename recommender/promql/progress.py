"""How far the intervals of one length have been asked for, and when the next one is due. Pure.

All times are seconds since the epoch.
"""

from __future__ import annotations

import math

from recommender.intervals import interval_seconds

_LONGEST_LAG_SECONDS = 60.0
_LONGEST_PATIENCE_SECONDS = 900.0
_LONGEST_PAUSE_SECONDS = 30.0
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PERIOD_SECONDS = 30.0


class Progress:
    """One interval after the other, from the one in which `begin` lies."""

    def __init__(self, window_seconds: float, begin: float, now: float) -> None:
        self.window_seconds = window_seconds
        self.seconds = interval_seconds(window_seconds)
        self.number = math.floor(begin / self.seconds + 1e-6)
        """Of the interval that is asked for next; the one that began in 1970 is 0."""
        self.period = min(_LONGEST_PERIOD_SECONDS, self.seconds / 4)
        """Seconds between two scrapes, as far as it was seen."""
        self._partial_from: int | None = None
        self._partial_since: float | None = None
        self.due = self._over()
        self.filled = self.due > now
        """Whether all that was over has been asked for, once."""

    @property
    def start(self) -> float:
        return self.number * self.seconds

    @property
    def end(self) -> float:
        return (self.number + 1) * self.seconds

    @property
    def lag(self) -> float:
        """Seconds after an interval's end until its data should be there: two scrapes."""
        return min(2 * self.period, self.seconds / 2, _LONGEST_LAG_SECONDS)

    @property
    def patience(self) -> float:
        """Seconds to wait for what is missing beyond that."""
        return min(self.seconds / 2, _LONGEST_PATIENCE_SECONDS)

    def skip_to(self, oldest: float) -> bool:
        """Leave out what lies before; whether there is any."""
        number = math.floor(oldest / self.seconds + 1e-6)
        if number <= self.number:
            return False
        self.number, self.due = number, 0.0
        return True

    def ask_again(self, now: float) -> None:
        """The same, a little later."""
        self.due = now + min(max(self.seconds / 20, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)

    def bears_partial(self, now: float) -> bool:
        """Whether answers have been partial for so long that they are taken as they are."""
        if self._partial_since is None:
            self._partial_since = now
        return now - self._partial_since >= self.patience

    def goes_back(self) -> bool:
        """Now that an answer is whole: back to the first interval that was taken in part, if there is one."""
        self._partial_since = None
        if self._partial_from is None:
            return False
        self.number, self._partial_from = self._partial_from, None
        self.due = self._over()
        return True

    def go_on(self, partial: bool, now: float) -> None:
        """To the next interval; this one was taken, in part or whole."""
        if partial and self._partial_from is None:
            self._partial_from = self.number
        self.number += 1
        self.due = self._over()
        self.filled = self.filled or self.due > now

    def _over(self) -> float:
        return self.end + self.lag
