"""Settings of a policy that are kept and not followed yet, or not to the end. Pure.

The schema takes them, so that policies can be written for the day on which they are; until then nobody may believe
that they do something.
"""

from __future__ import annotations

from recommender.api.policies import PolicySpec, Restart, Verify

_NEXT_START = "no running pod is replaced yet"


def not_followed(spec: PolicySpec) -> tuple[str, ...]:
    """A sentence for each, by the fields' names. What equals its default says nothing: API servers write defaults."""
    found = []
    if spec.strategy == "Ongoing":
        found.append(f"strategy Ongoing: {_NEXT_START}, sizes reach pods as they are created, as with OnCreate")
    if spec.restart != Restart():
        found.append(f"restart has no effect: {_NEXT_START}")
    if spec.loss_budget is not None:
        found.append(f"lossBudget lets sizes grow during a day, and {_NEXT_START}: they grow as they start anew")
    if spec.verify.ttft_percent != Verify().ttft_percent:
        found.append("verify.ttftPercent has no effect: the time to first token is not compared yet")
    return tuple(found)
