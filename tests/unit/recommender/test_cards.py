"""A process on a slice of a GPU is shown the slice: its size is not the GPU's."""

from __future__ import annotations

import dataclasses
import json

import pytest
from evaluated import pod, recommend, state
from synthetic import facts

from recommender.api.launches import Launch
from recommender.api.recommendations import Range, VLLMRecommendation
from recommender.cards import on_card
from recommender.gpu_nodes import GpuNode
from recommender.samples import Counters, EngineSample, PodSample
from recommender.scraping import Scrape
from vllm_plugin.names import ANNOTATION_EMITTED

GiB = 1 << 30
SLICE, CARD = 27 * GiB, 80 * GiB
NODES = {"n1": GpuNode("n1", memory_bytes=CARD)}


def scrape(emitter: str | None, node: str = "n1") -> Scrape:
    """Of a pod whose process sees `SLICE` as its device."""
    emitted = json.dumps({"emitter": emitter, "bytes": SLICE, "edits": []})
    annotations = {} if emitter is None else {ANNOTATION_EMITTED: emitted}
    of = dataclasses.replace(pod(), annotations=annotations, launch=Launch(node=node, gpus=1))
    engine = EngineSample("0", facts(total_bytes=SLICE), 0, 0, 0, 0, Counters(0, 0, 0, 0, 0))
    return Scrape(of, 0.0, 0.0, PodSample("0.1.0", (engine,)))


def seen(size: int, fingerprint: str = "f" * 16) -> VLLMRecommendation:
    found = recommend(state())
    status = found.status.model_copy(
        update={"gpu_memory_total_bytes": Range(min=size, max=size), "fingerprint": fingerprint}
    )
    return found.model_copy(update={"status": status})


def total(found: Scrape) -> int:
    assert found.sample is not None
    return found.sample.engines[0].facts.ranks[0].total_bytes


@pytest.mark.parametrize(
    ("emitter", "size"),
    [
        ("hami", CARD),
        ("volcano", CARD),
        # These show the GPU, or nobody knows what: then it is taken at its word.
        ("kai", SLICE),
        ("gpushare", SLICE),
        ("dra", SLICE),
        (None, SLICE),
    ],
)
def test_by_the_nodes_labels(emitter: str | None, size: int) -> None:
    assert total(on_card(scrape(emitter), None, NODES)) == size


@pytest.mark.parametrize(
    ("previous", "size"),
    [(seen(CARD), CARD), (seen(CARD, "0" * 16), SLICE), (seen(GiB), SLICE), (None, SLICE)],
)
def test_where_no_label_tells_as_it_was_seen_before(previous: VLLMRecommendation | None, size: int) -> None:
    assert total(on_card(scrape("hami", node="elsewhere"), previous, NODES)) == size


def test_a_pod_that_does_not_answer() -> None:
    silent = dataclasses.replace(scrape("hami"), sample=None, fault="no answer")
    assert on_card(silent, None, NODES) is silent
