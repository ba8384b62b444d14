"""What happened to a recommendation, and what stood behind it from then on: kept longer than Events are. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from recommender.api.recommendations import RecommendationStatus
from recommender.events import happenings


@dataclass(frozen=True)
class Change:
    """One thing that happened, in the words of its Event; `at` in seconds since the epoch.

    The rest is as it stood from then on: the size with the bound that gave it, what each bound asked for, by its name,
    who decided about policy and automation, and the fingerprint. Sizes in bytes; None: nothing was recommended.
    """

    at: float
    reason: str
    note: str
    kv_bytes: int | None = None
    bound_by: str | None = None
    bounds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    policy: str | None = None
    automation: str | None = None
    fingerprint: str | None = None

    def to_text(self) -> str:
        """For the store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def to_json(self) -> dict[str, Any]:
        """camelCase, as in the API; `at` in seconds since the epoch."""
        return {
            "at": self.at,
            "reason": self.reason,
            "note": self.note,
            "kvBytes": self.kv_bytes,
            "boundBy": self.bound_by,
            "bounds": dict(self.bounds),
            "policy": self.policy,
            "automation": self.automation,
            "fingerprint": self.fingerprint,
        }


def changes_of(before: RecommendationStatus | None, after: RecommendationStatus, now: float) -> tuple[Change, ...]:
    """What is told of the step from one status to the next."""
    if before is not None and _gist(before) == _gist(after):
        # As a rule: then there is no need to write both out.
        return ()
    told = happenings(before.to_json() if before is not None else {}, after.to_json())
    target, automation, policy = after.target, after.automation, after.policy
    return tuple(
        Change(
            at=now,
            reason=happening.reason,
            note=happening.note,
            kv_bytes=target.kv_bytes if target else None,
            bound_by=target.bound_by if target else None,
            bounds={bound.name: bound.kv_bytes for bound in after.bounds},
            policy=f"{policy.value}, by {policy.source}" if policy else None,
            automation=f"{automation.value}, by {automation.source}" if automation else None,
            fingerprint=after.fingerprint,
        )
        for happening in told
    )


def before_the_last(changes: Sequence[Change], kv_bytes: int | None) -> Change | None:
    """What stood before `kv_bytes` were recommended; None where that is not known. `changes`, oldest first."""
    return next((change for change in reversed(changes) if change.kv_bytes != kv_bytes), None)


def _gist(status: RecommendationStatus) -> tuple[object, ...]:
    """What any happening tells a change of."""
    size = status.target.kv_bytes if status.target is not None else None
    return (size, *((one.type, one.status, one.reason) for one in status.conditions))
