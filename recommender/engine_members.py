"""Engines over several pods: one has the scheduler, the others nothing but ranks. They are judged together. Pure.

Such a pod has no size of its own: what its scheduler's pod is started with decides for all ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from recommender.discovery import Pod
from recommender.keys import WorkloadKey
from recommender.samples import EngineFacts, Rank
from recommender.scraping import Scrape


def is_member(scrape: Scrape) -> bool:
    """Whether the pod shows ranks alone."""
    return scrape.sample is not None and not scrape.sample.engines


def with_members(scrapes: Sequence[Scrape]) -> list[Scrape]:
    """The scrapes of all other pods, with the ranks of their engines that run elsewhere."""
    found: dict[tuple[str, object, str], list[Rank]] = {}
    for scrape in scrapes:
        if scrape.sample is not None:
            for engine, ranks in scrape.sample.members.items():
                found.setdefault((scrape.pod.key.namespace, scrape.pod.key.workload, engine), []).extend(ranks)
    return [_joined(scrape, found) if found else scrape for scrape in scrapes if not is_member(scrape)]


def counting(pods: Iterable[Pod], scrapes: Iterable[Scrape], known: Collection[tuple[WorkloadKey, str]]) -> list[Pod]:
    """The pods that are sized. One that may have ranks alone counts where a pod of its fingerprint has shown an engine,
    or is `known` to have had a recommendation: before that nobody can tell."""
    members, answered = set(), set(known)
    for scrape in scrapes:
        if is_member(scrape):
            members.add(scrape.pod.identity)
        elif scrape.sample is not None:
            answered.add((scrape.pod.key, scrape.pod.fingerprint))
    return [
        pod
        for pod in pods
        if pod.identity not in members and (not pod.launch.may_be_member or (pod.key, pod.fingerprint) in answered)
    ]


def _joined(scrape: Scrape, members: dict[tuple[str, object, str], list[Rank]]) -> Scrape:
    if scrape.sample is None:
        return scrape
    key = scrape.pod.key
    engines = tuple(
        replace(engine, facts=_with_ranks(engine.facts, members.get((key.namespace, key.workload, engine.engine), ())))
        for engine in scrape.sample.engines
    )
    return replace(scrape, sample=replace(scrape.sample, engines=engines))


def _with_ranks(facts: EngineFacts, members: Iterable[Rank]) -> EngineFacts:
    """All ranks of an engine have as many blocks: by that those of its own group are told from others'."""
    ranks = {rank.rank: rank for rank in facts.ranks}
    for rank in members:
        if rank.capacity_bytes // rank.block_bytes == facts.blocks:
            ranks.setdefault(rank.rank, rank)
    return facts if len(ranks) == len(facts.ranks) else replace(facts, ranks=tuple(ranks.values()))
