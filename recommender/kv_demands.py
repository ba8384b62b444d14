"""How busy a workload's KV cache is, in terms that mean the same whatever its size: for autoscalers. Pure.

vLLM's own usage is a share of the pool as it is: a smaller pool raises it, though not one request more has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recommender.keys import WorkloadKey
from recommender.samples import EngineSample
from recommender.scraping import Scrape

OwnPools = Mapping[tuple[WorkloadKey, str], int]
"""Bytes of the pool that a workload's own arguments make, by workload and fingerprint."""


@dataclass(frozen=True)
class KVDemand:
    """What the engines of a workload needed within the last minute before they were looked at.

    `demand_bytes`: peaks of demand of all engines together, bytes of a rank each. `demand_ratio`: the average engine's
    peak as a share of the pool that the workload's own arguments make; None where that pool is not known.
    `saturated_ratio`: the share of the engines in which requests needed more than there is.
    """

    demand_bytes: int
    demand_ratio: float | None
    saturated_ratio: float


def demands_of(scrapes: Iterable[Scrape], own_pools: OwnPools) -> dict[WorkloadKey, KVDemand]:
    """By workload; of engines that did not answer nothing is known, and they count for nothing."""
    found: dict[WorkloadKey, list[tuple[EngineSample, int | None]]] = {}
    for scrape in scrapes:
        if scrape.sample is not None:
            own_bytes = own_pools.get((scrape.pod.key, scrape.pod.fingerprint))
            found.setdefault(scrape.pod.key, []).extend((engine, own_bytes) for engine in scrape.sample.engines)
    return {key: _demand(engines) for key, engines in found.items() if engines}


def _demand(engines: list[tuple[EngineSample, int | None]]) -> KVDemand:
    shares = [engine.demand_peak_bytes / own_bytes for engine, own_bytes in engines if own_bytes]
    return KVDemand(
        demand_bytes=sum(engine.demand_peak_bytes for engine, _ in engines),
        demand_ratio=sum(shares) / len(shares) if shares else None,
        saturated_ratio=sum(_is_saturated(engine) for engine, _ in engines) / len(engines),
    )


def _is_saturated(engine: EngineSample) -> bool:
    # One block of the pool is vLLM's own and serves nobody.
    return engine.demand_peak_bytes > engine.facts.capacity_bytes - engine.facts.block_bytes
