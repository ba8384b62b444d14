"""How much is read of one pod before it is left alone: the API server waits two seconds for an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST = 1024 * 1024
"""Characters, and what is counted like them, of one pod: a few tenths of a second. The longest argument that Linux
takes, 128 KiB, is read three times over within it."""


class TooLongError(Exception):
    """A pod holds more than can be read in time."""


class Effort:
    """What may still be spent on one pod. Whoever reads something that the pod's author can make long spends first."""

    def __init__(self, most: int = MOST) -> None:
        self._left = most

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise TooLongError("its commands and variables are too long to be read in time")


@dataclass(frozen=True)
class Reading:
    """How deep one command line lies within others, and what may be spent on all of them."""

    effort: Effort = field(default_factory=Effort)
    depth: int = 0

    def deeper(self) -> Reading:
        return Reading(self.effort, self.depth + 1)
