"""Can a VLLMPolicy be followed? Said on the policy itself, as the condition `Valid`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from recommender.api.object_store import Raw
from recommender.api.objects import Condition
from recommender.api.policies import VALID, PolicyStatus
from recommender.conditions import Verdict, with_transitions
from recommender.resolution import ResolvedPolicy


def judged(raw: Raw, policy: ResolvedPolicy, now: float) -> Raw | None:
    """The object `raw` with its condition, `policy` being what was read of it; None where it says that already."""
    verdict = _verdict(policy)
    generation = raw["metadata"].get("generation")
    before = tuple(_conditions(raw))
    stood = next((condition for condition in before if condition.type == VALID), None)
    if stood is not None and (stood.status, stood.reason, stood.message, stood.observed_generation) == (
        verdict.status,
        verdict.reason,
        verdict.message,
        generation,
    ):
        return None
    [condition] = with_transitions([verdict], before, now)
    status = PolicyStatus(conditions=[condition.model_copy(update={"observed_generation": generation})])
    return {**raw, "status": status.to_json()}


def _verdict(policy: ResolvedPolicy) -> Verdict:
    if policy.fault is None:
        return Verdict(VALID, "True", "Understood", "workloads are sized by it")
    if policy.spec is not None:
        return Verdict(VALID, "False", "LastValidGoesOn", f"its last valid version goes on: {policy.fault}")
    return Verdict(VALID, "False", "Invalid", f"no workload is sized by it: {policy.fault}")


def _conditions(raw: Raw) -> Iterator[Condition]:
    """Those that stand there; one that cannot be read is written anew."""
    for condition in (raw.get("status") or {}).get("conditions") or ():
        try:
            yield Condition.model_validate(condition)
        except ValidationError:
            continue
