"""The largest value of the last minute, for gauges whose peaks are what counts."""

from __future__ import annotations

import math


class RollingPeak:
    """Maximum over the last 60 s, in cells of one second; a scrape every 30 s thus sees every peak."""

    __slots__ = ("_cells", "_seconds")

    def __init__(self, window_seconds: int = 60) -> None:
        # The current second is not over yet, so one cell more than whole seconds.
        self._cells = [0] * (window_seconds + 1)
        self._seconds = [-math.inf] * (window_seconds + 1)

    def note(self, value: int, now: float) -> None:
        """`now`: any monotonic clock, in seconds."""
        second = int(now)
        cell = second % len(self._cells)
        if self._seconds[cell] != second:
            self._seconds[cell] = second
            self._cells[cell] = value
        elif value > self._cells[cell]:
            self._cells[cell] = value

    def peak(self, now: float) -> int:
        """The largest value noted in the window that ends now; 0 if there is none."""
        oldest = int(now) - len(self._cells)
        return max((value for value, second in zip(self._cells, self._seconds) if second > oldest), default=0)
