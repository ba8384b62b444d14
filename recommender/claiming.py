"""Makes the ResourceClaimTemplates that pods point at, and removes those that no pod will point at any more."""

from __future__ import annotations

import logging

from recommender.api.claims import KIND, LABEL_RECOMMENDATION
from recommender.api.object_store import ObjectStore
from recommender.api.recommendations import VLLMRecommendation
from recommender.consequences import wanted_claim
from recommender.workload_states import WorkloadState

logger = logging.getLogger(__name__)


def ensure_claim(store: ObjectStore, recommendation: VLLMRecommendation, state: WorkloadState) -> str | None:
    """The name of the template that `recommendation` needs; None where it needs none, or none can be made.

    Whether it is there already is another matter, see `is_there`.
    """
    if not state.current and state.automation.emitter == "dra":
        # Scaled to nothing, it waits for its pods.
        return state.same_before.status.claim_template if state.same_before else None
    template = wanted_claim(recommendation, state)
    # Only what the store has taken can own something.
    if template is None or recommendation.metadata.resource_version is None:
        return None
    metadata = template["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    try:
        # It is named by what it holds, and immutable: one that is there is the right one.
        if store.get(KIND, namespace, name) is None:
            store.apply(template)
            logger.info("%s: ResourceClaimTemplate %s made", state.key, name)
            former = state.previous.status.claim_template if state.previous is not None else None
            _remove_former(store, recommendation, kept={name, former or ""})
    except OSError as error:
        logger.error("%s: no ResourceClaimTemplate, its pods hold whole GPUs: %s", state.key, error)
        return None
    return str(name)


def is_there(store: ObjectStore, namespace: str, name: str | None) -> bool:
    """Whether pods may point at the template `name`: until then they go on to hold whole GPUs."""
    return name is not None and store.get(KIND, namespace, name) is not None


def _remove_former(store: ObjectStore, recommendation: VLLMRecommendation, kept: set[str]) -> None:
    """Remove templates of sizes that are long past. The last one stays: a pod may have been admitted with it, and its
    claim not been made yet."""
    metadata = recommendation.metadata
    for raw in store.list(KIND, metadata.namespace):
        there = raw["metadata"]
        if (there.get("labels") or {}).get(LABEL_RECOMMENDATION) == metadata.name and there["name"] not in kept:
            store.delete(KIND, metadata.namespace, there["name"])
