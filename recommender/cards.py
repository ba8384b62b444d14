"""What a sample says of its device, put right where the process is shown only its slice of it. Pure.

HAMi and Volcano tell a process that its slice is the whole device. Taken for the GPU's size, no pod could grow beyond
what it once was given, and nothing of the GPU would be left for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recommender.api.recommendations import VLLMRecommendation
from recommender.api.shares import Sees, sees_of
from recommender.api.sharing import emitted_of
from recommender.gpu_nodes import GpuNode
from recommender.samples import EngineFacts
from recommender.scraping import Scrape


def on_card(scrape: Scrape, previous: VLLMRecommendation | None, nodes: Mapping[str, GpuNode]) -> Scrape:
    """`scrape` with the memory of the GPU for that of the slice: by the node's labels, else as it was seen under the
    same fingerprint before; as it is where neither tells."""
    pod, sample = scrape.pod, scrape.sample
    emitted = emitted_of({"metadata": {"annotations": dict(pod.annotations)}})
    if sample is None or emitted is None or sees_of(emitted.emitter) is not Sees.SHARE:
        return scrape
    node = nodes.get(pod.launch.node)
    card = node.memory_bytes if node is not None else 0
    if not card and previous is not None and previous.status.fingerprint == pod.fingerprint:
        seen = previous.status.gpu_memory_total_bytes
        card = seen.max if seen is not None else 0
    engines = tuple(replace(engine, facts=_on_card(engine.facts, card)) for engine in sample.engines)
    return replace(scrape, sample=replace(sample, engines=engines))


def _on_card(facts: EngineFacts, card_bytes: int) -> EngineFacts:
    ranks = (replace(rank, total_bytes=max(rank.total_bytes, card_bytes)) for rank in facts.ranks)
    return replace(facts, ranks=tuple(ranks))
