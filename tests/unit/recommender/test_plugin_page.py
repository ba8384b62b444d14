"""The plugin's own page is read as it was meant: the two parts meet in names only, and here in fact."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY

from recommender import scraping
from recommender.discovery import Pod
from recommender.exposition import parse_page
from recommender.histograms import unpack
from recommender.samples import ASLEEP, KVCACHED, NO_KV_CACHE, NothingToSizeError, RefusedSampleError
from vllm_plugin import names
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.exporter import Exporter
from vllm_plugin.formats import text
from vllm_plugin.page import families
from vllm_rightsizer.demo.ports import free_ports

BLOCK_BYTES, BLOCK_TOKENS, BLOCKS = 1 << 20, 16, 1000


def engine(estimator: ReuseEstimator) -> dict[str, Any]:
    return {
        "server": "s",
        "engine": 0,
        "blocks": BLOCKS,
        "block_bytes": BLOCK_BYTES,
        "block_tokens": BLOCK_TOKENS,
        "capacity_bytes": BLOCKS * BLOCK_BYTES,
        "active_bytes": 5 * BLOCK_BYTES,
        "active_peak_bytes": 7 * BLOCK_BYTES,
        "demand_peak_bytes": 9 * BLOCK_BYTES,
        "reusable_bytes": 3 * BLOCK_BYTES,
        "headroom_bytes": 0,
        "floor_bytes": 257 * BLOCK_BYTES,
        "preemptions": 1,
        "admissions_blocked": 2,
        "requests": 3,
        "lookup_tokens": 500,
        "hit_tokens": 160,
        "reuse_counts": list(estimator.histogram.counts),
        "reuse_sum_bytes": estimator.histogram.sum_bytes,
        "info": {"vllm_version": "0.32.0", "model": 'llama "tiny"', "override": "none"},
    }


def worker(rank: int) -> dict[str, Any]:
    return {
        "server": "s",
        "engine": 0,
        "rank": rank,
        "weights_bytes": 100 + rank,
        "capacity_bytes": BLOCKS * BLOCK_BYTES,
        "block_bytes": BLOCK_BYTES,
        "total_bytes": 1 << 33,
        "allocated_bytes": 1 << 31,
        "overhead_bytes": {"activations": 10, "cuda_graphs": 20, "non_torch": None, "other": 5},
    }


def snapshot(estimator: ReuseEstimator, workers: int) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "loaded_from": "/plugin",
        "pid": 1,
        "started": 0.0,
        "hooks": {"pool": {"seconds": 0.5, "errors": 0, "active": True}},
        "engines": [engine(estimator)],
        "workers": [worker(rank) for rank in range(workers)],
    }


def observed() -> ReuseEstimator:
    estimator = ReuseEstimator(block_bytes=BLOCK_BYTES, block_tokens=BLOCK_TOKENS, pool_blocks=BLOCKS)
    chain = list(range(10))
    for request in ("a", "b"):
        estimator.lookup(request, chain, 161, 0, hit_blocks=0 if request == "a" else 10)
        estimator.free(request, chain, 161, released=10)
    return estimator


def test_every_figure_arrives() -> None:
    estimator = observed()
    (found,) = parse_page(text(families([snapshot(estimator, workers=2)]))).engines
    assert found.facts.blocks == BLOCKS
    assert found.facts.model == 'llama "tiny"'
    assert found.facts.vllm_version == "0.32.0"
    assert [rank.weights_bytes for rank in found.facts.ranks] == [100, 101]
    assert found.facts.ranks[1].overhead_bytes == 35
    assert found.demand_peak_bytes == 9 * BLOCK_BYTES
    counters = found.counters
    assert (counters.requests, counters.lookup_tokens, counters.hit_tokens) == (3, 500, 160)
    assert (counters.preemptions, counters.admissions_blocked) == (1, 2)
    assert unpack(counters.reuse) == tuple(accumulate(estimator.histogram.counts))
    assert unpack(counters.reuse)[-1] == 20


def test_before_the_worker_reports_nothing_is_believed() -> None:
    """The pool is known, the weights are not: a size without them would be wrong."""
    with pytest.raises(RefusedSampleError, match="model_weights_bytes"):
        parse_page(text(families([snapshot(observed(), workers=0)])))


def page_of(engines: dict[str, Any], workers: dict[str, Any], **parts: Any) -> str:
    """The honest page, with these fields of its engine and of its worker changed."""
    whole = snapshot(observed(), workers=1)
    changed = {kind: [{**whole[kind][0], **fields}] for kind, fields in (("engines", engines), ("workers", workers))}
    return text(families([{**whole, **changed, **parts}]))


NO_REQUESTS = dict.fromkeys(("active_bytes", "active_peak_bytes", "demand_peak_bytes", "reusable_bytes"))
NO_POOL = {"capacity_bytes": 0, "block_bytes": 0}


@pytest.mark.parametrize(
    ("page", "reason", "sentence"),
    [
        (
            page_of({"asleep": 1, **NO_REQUESTS}, {"weights_bytes": 0, "capacity_bytes": 0}),
            ASLEEP,
            r"vLLM sleeps \(engine 0\)",
        ),
        (page_of({**NO_POOL, "reuse_counts": []}, NO_POOL), NO_KV_CACHE, "the model keeps no KV cache"),
        (
            page_of(
                {"capacity_bytes": None, "reuse_counts": [], "info": {"override": names.OVERRIDE_KVCACHED}},
                {"capacity_bytes": None, "block_bytes": None},
            ),
            KVCACHED,
            "kvcached manages",
        ),
    ],
    ids=["asleep", "pooling", "kvcached"],
)
def test_a_page_on_which_nothing_is_to_be_sized_says_why(page: str, reason: str, sentence: str) -> None:
    with pytest.raises(NothingToSizeError, match=sentence) as refused:
        parse_page(page)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"max_model_len": "32768", "override": "raised"}, (32768, "raised")),
        ({"max_model_len": "", "override": "none"}, (0, "none")),
        ({"max_model_len": "-1"}, (0, "")),
        ({"max_model_len": "9" * 40}, (0, "")),
    ],
)
def test_what_an_engine_says_of_its_arguments(info: dict[str, str], expected: tuple[int, str]) -> None:
    (found,) = parse_page(page_of({"info": info}, {})).engines
    assert (found.facts.max_model_len, found.facts.override) == expected


def test_each_of_two_servers_has_its_own_model() -> None:
    whole = snapshot(observed(), workers=1)
    other = {**whole["engines"][0], "server": "t", "info": {"model": "other", "sliding_window_groups": "2"}}
    both = {**whole, "engines": [*whole["engines"], other], "workers": [worker(0), {**worker(0), "server": "t"}]}
    first, second = parse_page(text(families([both]))).engines
    assert (first.facts.model, first.facts.windows) == ('llama "tiny"', False)
    assert (second.facts.model, second.facts.windows) == ("other", True)


@pytest.mark.parametrize(
    "page",
    [
        "".join(f'{names.KV_CACHE_CAPACITY_BYTES}{{engine="{engine}",rank="0"}} 1\n' for engine in range(300)),
        page_of({"info": {"model": "m" * 5000}}, {}),
    ],
)
def test_more_than_a_pod_can_have_is_refused(page: str) -> None:
    """What it names anew each time would fill memory and history."""
    with pytest.raises(RefusedSampleError, match="no vLLM has as much"):
        parse_page(page)


def test_another_pods_page_is_not_taken_for_this_ones() -> None:
    """Two pods with hostNetwork on one node: the second one cannot have the port, and the first one answers."""
    page = page_of({}, {}, pod_uid="0b5e")
    with pytest.raises(RefusedSampleError, match=r"another pod \(UID 0b5e\).*VLLM_RIGHTSIZER_PORT"):
        parse_page(page, "77aa")
    assert parse_page(page, "0b5e") == parse_page(page) == parse_page(page_of({}, {}), "77aa")


def test_a_page_of_workers_alone_has_ranks_and_no_engine() -> None:
    """Over several nodes one pod has the scheduler."""
    whole = snapshot(observed(), workers=0)
    found = parse_page(text(families([{**whole, "engines": [], "workers": [worker(8), worker(9)]}])))
    assert found.engines == ()
    assert [(rank.rank, rank.weights_bytes) for rank in found.members["0"]] == [("8", 108), ("9", 109)]


async def test_the_scraper_asks_for_the_compact_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv(names.ENV_PORT, str(port))
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path))
    pages: list[str] = []
    monkeypatch.setattr(scraping, "parse_page", lambda page, uid: pages.append(page) or parse_page(page, uid))
    exporter = Exporter(lambda: snapshot(observed(), workers=2))
    exporter.tick()
    try:
        async with scraping.Scraper() as scraper:
            (found,) = await scraper.scrape(
                [Pod(KEY, "a", "u", "f" * 16, ("127.0.0.1", port), 0.0, True, False, None, {})]
            )
    finally:
        exporter._step_down()
    assert found.sample == parse_page(text(families([snapshot(observed(), workers=2)])))
    assert len(pages) == 1
    assert pages[0].startswith("[")
