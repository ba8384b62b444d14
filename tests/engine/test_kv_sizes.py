"""What a pool takes and the least that starts, for every kind of attention: our figures against vLLM's own planning.

vLLM plans, decides and allocates here as in its engine core and its worker, without a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import geometry, names, override, raising

from .harness import BLOCK_TOKENS, Engine

pytestmark = pytest.mark.engine

Make = Callable[..., Engine]
Layers = dict[str, Any]
PLENTY = 1 << 32
HEADS = {"num_kv_heads": 2, "head_size": 64}


def full(**changes: Any) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    return FullAttentionSpec(**{"block_size": BLOCK_TOKENS, "dtype": torch.float32, **HEADS, **changes})


def sliding(window: int = 200, **changes: Any) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import SlidingWindowSpec

    shape = {"block_size": BLOCK_TOKENS, "dtype": torch.float32, "dcp_sharded": False, **HEADS, **changes}
    return SlidingWindowSpec(sliding_window=window, **shape)


def of_layers(*specs: Any) -> Layers:
    return {f"model.layers.{number}": spec for number, spec in enumerate(specs)}


def windows() -> Layers:
    return of_layers(full(), sliding(), sliding(), full(), sliding(), sliding())


def only_windows() -> Layers:
    return of_layers(*[sliding()] * 3)


def chunks() -> Layers:
    import torch
    from vllm.v1.kv_cache_interface import ChunkedLocalAttentionSpec

    local = ChunkedLocalAttentionSpec(
        block_size=BLOCK_TOKENS, dtype=torch.float32, attention_chunk_size=512, dcp_sharded=False, **HEADS
    )
    return of_layers(full(), local, local, local)


def latent() -> Layers:
    import torch
    from vllm.v1.kv_cache_interface import MLAAttentionSpec

    spec = MLAAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=576, dtype=torch.bfloat16)
    return of_layers(*[spec] * 5)


def states(padded: int | None) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import MambaSpec

    return MambaSpec(
        block_size=4096, shapes=((3, 64), (8, 64)), dtypes=(torch.float32, torch.float32), page_size_padded=padded
    )


def recurrent() -> Layers:
    return of_layers(*[states(None)] * 4)


def recurrent_and_full() -> Layers:
    return of_layers(states(full().page_size_bytes), states(full().page_size_bytes), full())


def encoder_and_decoder() -> Layers:
    import torch
    from vllm.v1.kv_cache_interface import CrossAttentionSpec

    cross = CrossAttentionSpec(block_size=BLOCK_TOKENS, dtype=torch.float32, dcp_sharded=False, **HEADS)
    return {f"{kind}.{number}": spec for kind, spec in (("self", full()), ("cross", cross)) for number in range(3)}


def draft_of_other_heads() -> Layers:
    return of_layers(full(), full(), full(), full(num_kv_heads=1))


def sharded() -> Layers:
    return of_layers(*[full()] * 4)


def alike() -> Layers:
    return of_layers(*[full()] * 4)


CASES: dict[str, tuple[Callable[[], Layers], str, dict[str, Any]]] = {
    "every layer alike": (alike, "LBNHC", {}),
    "every layer alike, blocks outermost": (alike, "BLHNC", {}),
    "windows beside full attention": (windows, "LBNHC", {}),
    "windows beside full attention, blocks outermost": (windows, "BLHNC", {}),
    "windows only": (only_windows, "LBNHC", {}),
    "chunked local beside full attention": (chunks, "BLHNC", {}),
    "multi-head latent attention": (latent, "LBNHC", {}),
    "states only": (recurrent, "BLHNC", {}),
    "states beside full attention": (recurrent_and_full, "BLHNC", {}),
    "encoder and decoder": (encoder_and_decoder, "BLHNC", {}),
    "pages of two sizes, packed": (draft_of_other_heads, "BLHNC", {}),
    "decode context parallel": (sharded, "LBNHC", {"decode_context_parallel_size": 2}),
}


@pytest.fixture
def plan(engines: Make, request: pytest.FixtureRequest) -> tuple[Any, Layers, Callable[..., Any]]:
    """vLLM's configuration, the layers of this case, and vLLM's planning for so many bytes on each rank."""
    from vllm.v1.core.kv_cache_utils import get_kv_cache_configs

    layers, layout, parallel = CASES[request.param]
    config = engines(300).vllm_config
    config.cache_config.kv_cache_layout = layout
    config.cache_config.num_gpu_blocks = None
    for name, value in parallel.items():
        setattr(config.parallel_config, name, value)
    # As an encoder's inputs would have it.
    config.scheduler_config.max_num_encoder_input_tokens = 1500
    return config, layers(), get_kv_cache_configs


def refused(config: Any, layers: Layers, planned: Callable[..., Any], available: int) -> bool:
    try:
        planned(config, [dict(layers)], [available])
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("plan", CASES, indirect=True)
def test_the_floor_is_where_vllm_begins_to_start(plan: Any) -> None:
    config, layers, planned = plan
    (roomy,) = planned(config, [dict(layers)], [PLENTY])
    floor = geometry.floor_blocks(roomy, config, config.model_config.max_model_len) * geometry.block_bytes(roomy)
    assert not refused(config, layers, planned, floor)
    assert refused(config, layers, planned, floor - 1)


@pytest.mark.parametrize("plan", CASES, indirect=True)
def test_the_pool_is_what_vllm_allocates(plan: Any) -> None:
    import torch
    from vllm.v1.core.kv_cache_utils import get_kv_cache_groups
    from vllm.v1.worker.utils import allocate_kv_cache

    config, layers, planned = plan
    (planned_for,) = planned(config, [dict(layers)], [24_000_000])
    caches = allocate_kv_cache(
        planned_for, torch.device("cpu"), config.cache_config.get_resolved_kv_cache_layout(), None
    )
    assert set(caches) == set(layers)
    assert get_kv_cache_groups(config, dict(layers))
    taken = {cache.untyped_storage().data_ptr(): cache.untyped_storage().nbytes() for cache in caches.values()}
    # A layer that shares another one's cache, as in Gemma 3n, adds nothing.
    shared = [*caches.values(), next(iter(caches.values()))]
    assert geometry.storage_bytes(geometry.tensors_in(shared)) == sum(taken.values())
    assert geometry.pool_bytes(planned_for) == sum(taken.values())
    assert geometry.block_bytes(planned_for) * planned_for.num_blocks == sum(taken.values())


@pytest.mark.parametrize("plan", CASES, indirect=True)
def test_too_little_is_raised_to_the_floor(plan: Any) -> None:
    config, layers, planned = plan
    (roomy,) = planned(config, [dict(layers)], [PLENTY])
    floor = geometry.floor_blocks(roomy, config, config.model_config.max_model_len)
    raised = raising.least_accepted(planned, config.model_config.max_model_len, config, [dict(layers)], [-5])
    assert raised is not None
    assert (raised.blocks, raised.result[0].num_blocks) == (floor, floor)
    assert raised.more_bytes == floor * geometry.block_bytes(roomy) + 5


@pytest.mark.parametrize("plan", ["every layer alike"], indirect=True)
@pytest.mark.parametrize("more", [1, 37, 256])
def test_where_the_floor_is_not_enough_vllm_is_asked_a_few_times(plan: Any, more: int) -> None:
    config, layers, planned = plan
    (roomy,) = planned(config, [dict(layers)], [PLENTY])
    per_block = geometry.block_bytes(roomy)
    wanted = geometry.floor_blocks(roomy, config, config.model_config.max_model_len) + more
    asked = []

    def stricter(vllm_config: Any, specs: Any, available: list[int]) -> Any:
        asked.append(available[0] // per_block)
        if asked[-1] < wanted:
            raise ValueError("more than ever")
        return planned(vllm_config, specs, available)

    raised = raising.least_accepted(stricter, config.model_config.max_model_len, config, [dict(layers)], [0])
    assert raised is not None
    assert (raised.blocks, raised.result[0].num_blocks, asked[-1]) == (wanted, wanted, wanted)
    assert len(asked) < 13
    wanted = 1000
    with pytest.raises(ValueError, match="more than ever"):
        raising.least_accepted(stricter, config.model_config.max_model_len, config, [dict(layers)], [0])


@pytest.mark.parametrize("plan", ["every layer alike"], indirect=True)
def test_all_ranks_get_the_same_number_of_blocks(plan: Any) -> None:
    """Of two pipeline stages one has three layers, the other one; and one has room for itself."""
    config, layers, planned = plan
    stages = [dict(list(layers.items())[:3]), dict(list(layers.items())[3:])]
    per_block = next(iter(layers.values())).page_size_bytes
    floor = config.model_config.max_model_len // BLOCK_TOKENS + 1
    raised = raising.least_accepted(planned, config.model_config.max_model_len, config, stages, [100, 400 * per_block])
    assert raised is not None
    assert [one.num_blocks for one in raised.result] == [floor, floor]
    assert [geometry.pool_bytes(one) for one in raised.result] == [3 * floor * per_block, floor * per_block]
    assert raised.more_bytes == 3 * floor * per_block - 100


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine core's module, hooked as in a pod; planned from here as it does."""
    import vllm.v1.engine.core

    monkeypatch.setenv(override.ENV_OUTCOME, "")
    return vllm.v1.engine.core


def remember(**outcome: Any) -> None:
    override.remember(override.Outcome(names.OVERRIDE_APPLIED, **outcome))


@pytest.mark.parametrize("plan", ["every layer alike"], indirect=True)
@pytest.mark.parametrize(
    ("outcome", "utilization", "kv_bytes"),
    [
        ({"applied_kv_bytes": 70_000}, 0.9, 70_000),
        ({"applied_kv_bytes": 70_000, "applied_utilization": 0.01}, 0.01, 70_000),
        ({"applied_utilization": 0.01}, 0.01, None),
    ],
)
def test_the_engine_core_starts_with_a_size_of_ours(
    core: Any, plan: Any, outcome: dict[str, Any], utilization: float, kv_bytes: int | None
) -> None:
    config, layers, _ = plan
    config.cache_config.gpu_memory_utilization, config.cache_config.kv_cache_memory_bytes = utilization, kv_bytes
    remember(**outcome)
    # Where a model takes pictures, less than what was asked for is left.
    available = -300_000 if kv_bytes is None else kv_bytes - 10_000
    (planned,) = core.get_kv_cache_configs(config, [layers], [available])
    floor = config.model_config.max_model_len // BLOCK_TOKENS + 1
    assert planned.num_blocks == floor
    recalled = override.recall(os.environ)
    assert recalled is not None
    assert recalled.state == names.OVERRIDE_RAISED
    pool = geometry.pool_bytes(planned)
    if kv_bytes is None:
        assert (recalled.raised_kv_bytes, config.cache_config.kv_cache_memory_bytes) == (pool, None)
    else:
        assert recalled.raised_kv_bytes == config.cache_config.kv_cache_memory_bytes == pool + 10_000


@pytest.mark.parametrize("plan", ["every layer alike"], indirect=True)
@pytest.mark.parametrize(
    ("outcome", "utilization", "kv_bytes"),
    [
        ({}, 0.9, 70_000),
        ({"applied_utilization": 0.01}, 0.01, 70_000),
        ({"applied_kv_bytes": 60_000}, 0.9, 70_000),
        ({"applied_utilization": 0.02}, 0.01, None),
    ],
)
def test_a_size_of_the_users_is_refused_as_ever(
    core: Any, plan: Any, outcome: dict[str, Any], utilization: float, kv_bytes: int | None
) -> None:
    config, layers, planned = plan
    config.cache_config.gpu_memory_utilization, config.cache_config.kv_cache_memory_bytes = utilization, kv_bytes
    remember(**outcome)
    with pytest.raises(ValueError, match="max seq len") as ours:
        core.get_kv_cache_configs(config, [layers], [70_000])
    with pytest.raises(ValueError, match="max seq len") as theirs:
        planned(config, [layers], [70_000])
    assert str(ours.value) == str(theirs.value)
    recalled = override.recall(os.environ)
    assert recalled is not None
    assert recalled.state == names.OVERRIDE_APPLIED


@pytest.mark.parametrize("plan", ["every layer alike"], indirect=True)
def test_older_releases_plan_each_rank_by_itself(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_plugin.hooks import kv_sizes

    config, layers, planned = plan

    def get_kv_cache_config(vllm_config: Any, specs: Layers, available: int) -> Any:
        return planned(vllm_config, [specs], [available])[0]

    module: Any = SimpleNamespace(
        __name__="core", get_kv_cache_config=get_kv_cache_config, EngineCore=type("EngineCore", (), {})
    )
    kv_sizes.patch(module)
    monkeypatch.setenv(override.ENV_OUTCOME, "")
    remember(applied_kv_bytes=70_000)
    config.cache_config.kv_cache_memory_bytes = 70_000
    floor = config.model_config.max_model_len // BLOCK_TOKENS + 1
    sizes = [module.get_kv_cache_config(config, dict(layers), 70_000) for _ in range(2)]
    assert [size.num_blocks for size in sizes] == [floor, floor]
    assert config.cache_config.kv_cache_memory_bytes == geometry.pool_bytes(sizes[0])


@pytest.mark.parametrize(
    ("outcome", "kv_bytes", "left"),
    [
        ({"applied_kv_bytes": 1 << 20}, 1 << 20, (1 << 20) - (1 << 30)),
        ({"applied_utilization": 0.3}, None, (9 << 20) - (1 << 30)),
        # The user's own are refused as ever.
        ({"applied_utilization": 0.3}, 1 << 20, None),
        ({}, None, None),
    ],
)
def test_what_is_kept_for_pictures_is_no_reason_to_refuse_a_size_of_ours(
    monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any], kv_bytes: int | None, left: int | None
) -> None:
    """A GPU's worker, which takes a gigabyte off what it has for the KV cache, by vLLM's own rule."""
    from vllm.config.multimodal import MultiModalConfig
    from vllm.multimodal.gpu_ipc_memory import reserve_mm_ipc_gpu_memory

    from vllm_plugin import process
    from vllm_plugin.hooks import worker as hooks

    pictures = MultiModalConfig(mm_ipc_gpu_memory_gb=1)
    config = SimpleNamespace(
        cache_config=SimpleNamespace(kv_cache_memory_bytes=kv_bytes, gpu_memory_utilization=0.3),
        device_config=SimpleNamespace(device_type="cuda"),
        model_config=SimpleNamespace(multimodal_config=pictures),
        parallel_config=SimpleNamespace(_api_process_count=1),
    )

    class Worker:
        vllm_config = config
        available_kv_cache_memory_bytes = 9 << 20

        def determine_available_memory(self) -> int:
            had = self.available_kv_cache_memory_bytes if kv_bytes is None else kv_bytes
            return reserve_mm_ipc_gpu_memory(had, pictures, 1)

    monkeypatch.setenv(override.ENV_OUTCOME, "")
    remember(**outcome)
    monkeypatch.setattr(process, "track_worker", lambda _: None)
    worker = Worker()
    hooks._built(None, None, worker)
    if left is None:
        with pytest.raises(ValueError, match="reserves"):
            worker.determine_available_memory()
    else:
        assert worker.determine_available_memory() == left
