"""Which of several recommenders leads: what to do with their common Lease, at one moment. Pure.

Moments are seconds on one clock of this process, which goes on while the process stands still. The times in the Lease
are those of another machine's clock: they are written for people, and compared only to see whether they have changed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recommender.api.object_store import Raw
from recommender.api.units import format_micro_time

_ABLE_SECONDS = 0.1
"""Between two looks of one who may have the lease, and is not able to lead yet."""
_LONGEST_SECONDS = 60.0
"""Of a lease, whatever its holder says: a mistake there must not keep everybody out."""


@dataclass(frozen=True)
class Timing:
    """How long a lease lasts, in seconds, and how often it is looked at."""

    lease: float = 12.0
    """So long after the last change that it has seen, somebody else may take the lease."""
    deadline: float = 8.0
    """So long after it asked for the last renewal that was granted, a holder leads on. What is left of the lease is for
    writes that are on their way, and for clocks that do not go equally fast."""
    retry: float = 1.5
    request: float = 3.0
    """Longest wait for an answer: two attempts fit in before the deadline."""


@dataclass(frozen=True)
class Lease:
    """What an API server shows of it; `raw` is the whole object."""

    holder: str
    """Nobody, where empty."""
    seconds: float
    acquired: str
    renewed: str
    transitions: int
    raw: Raw = field(compare=False, repr=False)

    @classmethod
    def of(cls, raw: Raw) -> Lease:
        spec: dict[str, Any] = raw.get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            float(spec.get("leaseDurationSeconds") or 0),
            spec.get("acquireTime") or "",
            spec.get("renewTime") or "",
            int(spec.get("leaseTransitions") or 0),
            raw,
        )


@dataclass(frozen=True)
class Look:
    """Read the lease."""


@dataclass(frozen=True)
class Claim:
    """Write it: the lease as it is known, taken or renewed; None where it is to be made."""

    lease: Lease | None


@dataclass(frozen=True)
class Wait:
    seconds: float


class Election:
    """What one candidate knows of the lease.

    A lease that is not there says nothing of who held it a moment ago. Whoever makes it leads only when a former holder
    cannot any more; the former holder, too, where somebody has deleted it.
    """

    def __init__(self, identity: str, timing: Timing, draw: Callable[[], float] = random.random) -> None:
        """`draw` gives numbers from 0 to 1."""
        self._identity = identity
        self._timing = timing
        self._draw = draw
        self._lease: Lease | None = None
        self._known = False
        """Whether the lease is what the server had when it was asked last."""
        self._changed: float | None = None
        """When it was first seen as it is."""
        self._asked: float | None = None
        """When the renewal was asked for that was granted last; None where this one does not hold the lease."""
        self._since = -math.inf
        """From when on holding is leading."""
        self._may_have_made = False
        """Whether it asked to make the lease, and has not heard what became of that."""
        self._due = -math.inf

    @property
    def holder(self) -> str:
        """Who has it, as far as this one knows; empty where nobody has."""
        return self._lease.holder if self._lease is not None else ""

    def held_seconds(self, now: float) -> float:
        """So long this one surely leads; 0 where it does not."""
        return self._tenure(now) if now >= self._since else 0.0

    def age_seconds(self, now: float) -> float | None:
        """Since the lease was seen to change, by its holder's renewals; None before it was seen at all."""
        return None if self._changed is None else now - self._changed

    def step(self, now: float, able: bool) -> Look | Claim | Wait:
        """What is to be done now. Who is not `able` to lead leaves a lease that it does not hold alone."""
        tenure = self._tenure(now)
        due = max(0.0, self._due - now)
        if tenure:
            if due:
                return Wait(min(due, tenure, self._since - now if self._since > now else due))
            return Claim(self._lease) if self._known else Look()
        self._asked = None
        if not self._known:
            return Wait(due) if due else Look()
        free = max(0.0, self._free_at() - now)
        if not free and able:
            return Claim(self._lease)
        return Wait(min(due, free or _ABLE_SECONDS)) if due else Look()

    def seen(self, lease: Lease | None, now: float) -> None:
        """The server has shown the lease; None where there is none."""
        if self._changed is None or lease != self._lease:
            self._changed = now
        if lease is not None and lease.holder != self._identity:
            self._asked = None
        self._lease, self._known = lease, True
        # Who holds it has looked in order to write.
        self._due = now if self._tenure(now) else now + self._pause()

    def granted(self, claim: Claim, lease: Lease, asked: float) -> None:
        """The server has taken `claim`, asked for at `asked`."""
        self._lease, self._known, self._changed = lease, True, asked
        self._asked = asked
        if claim.lease is None or self._may_have_made:
            self._since = asked + self._timing.lease
        self._may_have_made = False
        self._due = asked + self._pause()

    def overtaken(self) -> None:
        """Another wrote at the same moment."""
        self._known = False

    def unanswered(self, asked: Look | Claim, now: float) -> None:
        """What was asked may have been done, or will be, or not."""
        self._may_have_made = self._may_have_made or asked == Claim(None)
        self._known = False
        self._due = now + self._pause()

    def resigned(self) -> None:
        """This one leads no more, from now on."""
        self._asked = None

    def _tenure(self, now: float) -> float:
        """So long the lease is surely held."""
        return 0.0 if self._asked is None else max(0.0, self._asked + self._timing.deadline - now)

    def _free_at(self) -> float:
        if self._changed is None:
            return math.inf
        if self._lease is None or self._lease.holder in ("", self._identity):
            return self._changed
        return self._changed + min(max(self._lease.seconds, self._timing.lease), _LONGEST_SECONDS)

    def _pause(self) -> float:
        return self._timing.retry * (0.8 + 0.4 * self._draw())


def claimed(claim: Claim, identity: str, timing: Timing, name: str, wall_seconds: float) -> Raw:
    """The lease as `identity` holds it. `wall_seconds` since the epoch, for people."""
    lease, now = claim.lease, format_micro_time(wall_seconds)
    stays = lease is not None and lease.holder == identity
    former = 0 if lease is None else lease.transitions
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": math.ceil(timing.lease),
        "acquireTime": lease.acquired if lease is not None and stays else now,
        "renewTime": now,
        "leaseTransitions": former if stays or lease is None else former + 1,
    }
    return _of_lease(None if lease is None else lease.raw, name, spec)


def released(lease: Lease, name: str, wall_seconds: float) -> Raw:
    """The lease as nobody holds it."""
    spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": lease.transitions}
    return _of_lease(lease.raw, name, {**spec, "renewTime": format_micro_time(wall_seconds)})


def _of_lease(raw: Raw | None, name: str, spec: dict[str, Any]) -> Raw:
    """With the version that was read: the server refuses it where another has written since."""
    metadata = {"name": name} if raw is None else raw["metadata"]
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
