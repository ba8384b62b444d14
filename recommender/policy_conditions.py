"""Can a VLLMPolicy, an AutomatedNamespace or the ClusterAutomation be followed? Said on the object itself, as the
condition `Valid`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from recommender.api.object_store import Raw
from recommender.api.objects import Condition
from recommender.api.policies import VALID, PolicySpec, SettingStatus
from recommender.conditions import CONTRADICTORY, PARTLY_FOLLOWED, Verdict, with_transitions
from recommender.policy_contradictions import contradictions
from recommender.policy_effects import not_followed
from recommender.resolution import ResolvedPolicy


def judged(raw: Raw, verdict: Verdict, now: float) -> Raw | None:
    """The object `raw` with its condition; None where it says that already."""
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
    status = SettingStatus(conditions=[condition.model_copy(update={"observed_generation": generation})])
    return {**raw, "status": status.to_json()}


def verdict_on_policy(policy: ResolvedPolicy) -> Verdict:
    """`policy` is what was read of the object."""
    if policy.fault is None:
        odd, idle = _remarks(policy.spec)
        if odd or idle:
            reason = CONTRADICTORY if odd else PARTLY_FOLLOWED
            return Verdict(VALID, "True", reason, f"workloads are sized by it. {'; '.join([*odd, *idle])}")
        return Verdict(VALID, "True", "Understood", "workloads are sized by it")
    if policy.spec is not None:
        return Verdict(VALID, "False", "LastValidGoesOn", f"its last valid version goes on: {policy.fault}")
    return Verdict(VALID, "False", "Invalid", f"no workload is sized by it: {policy.fault}")


def _remarks(spec: PolicySpec | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (contradictions(spec), not_followed(spec)) if spec is not None else ((), ())


def verdict_on_automation(fault: str | None, goes_on: bool) -> Verdict:
    """`fault` is what is wrong with the object, `goes_on` whether its last valid version is known."""
    if fault is None:
        return Verdict(VALID, "True", "Understood", "it is followed")
    if goes_on:
        return Verdict(VALID, "False", "LastValidGoesOn", f"what it said before goes on: {fault}")
    return Verdict(VALID, "False", "Invalid", f"it counts as absent: {fault}")


def _conditions(raw: Raw) -> Iterator[Condition]:
    """Those that stand there; one that cannot be read is written anew."""
    for condition in (raw.get("status") or {}).get("conditions") or ():
        try:
            yield Condition.model_validate(condition)
        except ValidationError:
            continue
