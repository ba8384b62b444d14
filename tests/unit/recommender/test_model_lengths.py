"""What is said of max_model_len where one request of that length alone decides about the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluated import NOW, OWN, W, pod, recommend, state, target_of, traffic
from synthetic import BLOCK_BYTES, BLOCK_TOKENS, series

from recommender.api.recommendations import VLLMRecommendation
from recommender.samples import EngineFacts
from recommender.workload_states import PodReport

LONG = replace(OWN, max_model_len=32_768, floor_bytes=(32_768 // BLOCK_TOKENS + 1) * BLOCK_BYTES)


def recommended(engine: EngineFacts = LONG, demand_blocks: int = 200, **spec: Any) -> VLLMRecommendation:
    observed = (series(traffic(deepest=150), W, NOW, engine=engine, demand_blocks=demand_blocks),)
    return recommend(state(PodReport(pod(), (engine,)), **spec), observed)


def test_a_shorter_length_is_suggested_and_not_applied() -> None:
    found = recommended()
    advice = found.status.max_model_len_advice
    assert advice is not None
    assert (advice.max_model_len, advice.longest_request_tokens) == (32_768, 200 * BLOCK_TOKENS)
    # 220 blocks and the null block for 200 and a tenth; 4,096 tokens are the next multiple above what fits there.
    assert advice.suggested_max_model_len == 4096
    assert advice.kv_bytes == (4096 // BLOCK_TOKENS + 1) * BLOCK_BYTES
    for part in ("max_model_len 32768", "longer than 3200 tokens", "--max-model-len=4096", "514 MiB"):
        assert part in advice.message
    assert target_of(found).bound_by == "floor"
    assert target_of(found).kv_bytes == LONG.floor_bytes
    assert not any("max-model-len" in flag for flag in target_of(found).flags)


def test_up_to_what_is_wanted_anyway_a_length_costs_nothing() -> None:
    advice = recommended(minKV="1Gi").status.max_model_len_advice
    assert advice is not None
    assert advice.suggested_max_model_len == 8192
    # 512 blocks of minKV hold 8,176 tokens beside the null block.
    assert advice.kv_bytes == 513 * BLOCK_BYTES


@pytest.mark.parametrize(
    ("engine", "demand_blocks", "spec"),
    [
        # A request of more than half of max_model_len may have been there.
        (LONG, 1100, {}),
        # Something else decides.
        (LONG, 200, {"minKV": "5Gi"}),
        (OWN, 200, {}),
        # The length is not known, or not what makes the floor.
        (replace(LONG, max_model_len=0), 200, {}),
        (replace(LONG, max_model_len=16_384), 200, {}),
        (replace(LONG, windows=True), 200, {}),
    ],
)
def test_where_nothing_is_said(engine: EngineFacts, demand_blocks: int, spec: dict[str, Any]) -> None:
    assert recommended(engine, demand_blocks, **spec).status.max_model_len_advice is None


def test_a_floor_that_beats_max_kv_for_want_of_data_is_no_reason() -> None:
    observed = (series(traffic(4, deepest=150), W, NOW, engine=LONG, demand_blocks=4096, preemptions=1),)
    found = recommend(state(PodReport(pod(), (LONG,)), maxKV="1Mi"), observed)
    assert found.status.max_model_len_advice is None
