"""What a GPU worker took besides weights and pool, where vLLM does not measure it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import names, override, process
from vllm_plugin.hooks import worker as hooks
from vllm_plugin.worker import WorkerTracker

from .pages import render

MIB = 1 << 20
GIB = 1 << 30


class Storage:
    """Of the pool's one tensor."""

    def untyped_storage(self) -> Storage:
        return self

    def data_ptr(self) -> int:
        return 4096

    def nbytes(self) -> int:
        return 2 * GIB


def pool_of(size: int) -> SimpleNamespace:
    tensors = [SimpleNamespace(size=size)]
    return SimpleNamespace(num_blocks=1024, kv_cache_groups=[], kv_cache_tensors=tensors)


class WorkerBase:
    """Stands for vLLM's."""

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config
        self.cache_config = vllm_config.cache_config
        self.device = "cuda:0"
        self.init_snapshot = SimpleNamespace(total_memory=80 * GIB, free_memory=79 * GIB)
        self.requested_memory = 72 * GIB
        self.model_runner = SimpleNamespace(
            kv_cache_config=pool_of(2 * GIB),
            kv_caches=[Storage()],
            model_memory_usage=5 * GIB,
            capture_model=lambda: 500 * MIB,
        )

    def determine_available_memory(self) -> int:
        if self.cache_config.kv_cache_memory_bytes is not None:
            return int(self.cache_config.kv_cache_memory_bytes)
        return int(self.requested_memory - 6 * GIB)

    def compile_or_warm_up_model(self) -> str:
        torch: Any = sys.modules["torch"]
        torch.reserved += 700 * MIB
        self.model_runner.capture_model()
        return "times"

    def sleep(self, level: int = 1) -> None:
        """As vLLM's."""

    def wake_up(self, tags: list[str] | None = None) -> None:
        """As vLLM's."""

    def discard(self, tags: tuple[str, ...]) -> None:
        """As vLLM's."""


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device on which this process reserved 8 GiB, and neighbours have most of the rest."""
    fake: Any = SimpleNamespace(reserved=8 * GIB)
    fake.cuda = SimpleNamespace(
        memory_reserved=lambda device: fake.reserved if device == "cuda:0" else 0,
        mem_get_info=lambda _: (10 * GIB, 80 * GIB),
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[WorkerTracker]:
    made: list[WorkerTracker] = []
    monkeypatch.setattr(process, "track_worker", made.append)
    module: Any = ModuleType("worker_base")
    module.WorkerBase = WorkerBase
    monkeypatch.setattr(WorkerBase, "__init__", WorkerBase.__init__)
    hooks.patch(module)
    return made


def config(**cache: Any) -> Any:
    given = {"kv_cache_memory_bytes": None, "num_gpu_blocks_override": None, **cache}
    return SimpleNamespace(cache_config=SimpleNamespace(**given), device_config=SimpleNamespace(device_type="cuda"))


def report_of(tracker: WorkerTracker) -> dict[str, Any]:
    report = tracker.report()
    assert report is not None
    return report


def snapshot_of(report: dict[str, Any]) -> dict[str, Any]:
    worker = {**report, "server": "1-0", "engine": 0}
    parts = {"version": "1", "loaded_from": "here", "engines": [], "hooks": {}}
    return {"pid": 1, "started": 1, "workers": [worker], **parts}


def test_overhead_is_this_processs_own_and_known_after_the_warm_up(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(kv_cache_memory_bytes=2 * GIB))
    (tracker,) = trackers
    report = report_of(tracker)
    assert (report["capacity_bytes"], report["weights_bytes"]) == (2 * GIB, 5 * GIB)
    assert (report["allocated_bytes"], report["overhead_bytes"]) == (None, {})
    text = render([snapshot_of(report)])
    assert names.MODEL_WEIGHTS_BYTES in text
    assert names.GPU_MEMORY_ALLOCATED_BYTES not in text
    assert names.RUNTIME_OVERHEAD_BYTES not in text
    assert worker.compile_or_warm_up_model() == "times"
    report = report_of(tracker)
    assert report["allocated_bytes"] == 8 * GIB + 700 * MIB
    # Of what torch holds the graphs' part is known.
    assert report["overhead_bytes"]["cuda_graphs"] == 500 * MIB
    assert report["overhead_bytes"]["other"] == GIB + 200 * MIB


def test_what_vllm_measured_besides_torch_is_added(trackers: list[WorkerTracker]) -> None:
    worker: Any = WorkerBase(config(num_gpu_blocks_override=1024))
    worker.non_torch_memory = 300 * MIB
    worker.compile_or_warm_up_model()
    report = report_of(trackers[0])
    assert report["allocated_bytes"] == 8 * GIB + 1000 * MIB
    assert report["overhead_bytes"]["non_torch"] == 300 * MIB


def test_where_the_utilization_counts_the_claim_is_known_at_once(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    report = report_of(trackers[0])
    assert report["allocated_bytes"] == worker.requested_memory
    assert report["overhead_bytes"]["other"] == 65 * GIB


def test_since_0_27_activations_come_with_the_graphs_estimate_and_the_rest_with_the_weights(
    trackers: list[WorkerTracker],
) -> None:
    worker: Any = WorkerBase(config(gpu_memory_utilization=0.9))
    worker.total_consumed = 5 * GIB + 300 * MIB
    worker.cudagraph_memory_estimate = 400 * MIB
    worker.peak_activation_memory = 2 * GIB + 400 * MIB
    assert report_of(trackers[0])["overhead_bytes"]["cuda_graphs"] == 400 * MIB
    worker.compile_or_warm_up_model()
    overhead = report_of(trackers[0])["overhead_bytes"]
    # What the graphs really took stands there once they were captured.
    assert (overhead["activations"], overhead["cuda_graphs"]) == (2 * GIB, 500 * MIB)
    assert overhead["non_torch"] == 300 * MIB
    assert sum(overhead.values()) == worker.requested_memory - 7 * GIB


def test_an_estimate_that_vllm_does_not_apply_is_not_in_the_activations(
    trackers: list[WorkerTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = SimpleNamespace(VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=False)
    monkeypatch.setitem(sys.modules, "vllm.envs", envs)  # type: ignore[arg-type]  # no module
    worker: Any = WorkerBase(config(gpu_memory_utilization=0.9))
    worker.total_consumed = 5 * GIB
    worker.cudagraph_memory_estimate = 400 * MIB
    worker.peak_activation_memory = 2 * GIB
    assert report_of(trackers[0])["overhead_bytes"]["activations"] == 2 * GIB


@pytest.mark.parametrize(
    # Torch holds 8.7 GiB, pool and weights among them.
    ("cache", "allocated"),
    [({"kv_cache_memory_bytes": 3 * GIB}, 9 * GIB + 700 * MIB), ({}, 72 * GIB)],
)
def test_what_is_kept_for_pictures_is_told_and_claimed(
    trackers: list[WorkerTracker], monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any], allocated: int
) -> None:
    """By vLLM's own rule, which is that of a release with one."""
    rule = SimpleNamespace(reserve_mm_ipc_gpu_memory=lambda available, multimodal, _: available - multimodal)
    monkeypatch.setitem(sys.modules, "vllm.multimodal.gpu_ipc_memory", rule)  # type: ignore[arg-type]  # no module
    given = config(gpu_memory_utilization=0.9, **cache)
    given.model_config = SimpleNamespace(multimodal_config=1 * GIB)
    given.parallel_config = SimpleNamespace(_api_process_count=1)
    WorkerBase(given).compile_or_warm_up_model()
    report = report_of(trackers[0])
    assert report["reserved_bytes"] == 1 * GIB
    assert report["allocated_bytes"] == allocated
    assert f'{names.KV_CACHE_RESERVED_BYTES}{{engine="0",rank="0"}} {1 << 30}' in render([snapshot_of(report)])


def test_what_sleeps_is_not_on_the_device(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    (tracker,) = trackers
    awake = report_of(tracker)

    def there() -> tuple[int, int, int]:
        report = report_of(tracker)
        assert report["overhead_bytes"] == awake["overhead_bytes"]
        assert report["block_bytes"] == awake["block_bytes"]
        return report["weights_bytes"], report["capacity_bytes"], report["allocated_bytes"]

    worker.sleep(level=1)
    assert there() == (0, 0, 65 * GIB)
    worker.wake_up(tags=["weights"])
    assert there() == (5 * GIB, 0, 70 * GIB)
    worker.wake_up()
    assert there() == (5 * GIB, 2 * GIB, 72 * GIB)
    worker.discard(("kv_cache",))
    assert there() == (5 * GIB, 0, 70 * GIB)
    worker.wake_up(["kv_cache"])
    assert report_of(tracker) == awake


def test_a_model_without_a_pool_claims_what_it_took(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    worker.model_runner.kv_cache_config = SimpleNamespace(num_blocks=1, kv_cache_groups=[object()], kv_cache_tensors=[])
    worker.model_runner.kv_caches = []
    assert report_of(trackers[0])["allocated_bytes"] is None
    worker.compile_or_warm_up_model()
    report = report_of(trackers[0])
    assert (report["capacity_bytes"], report["block_bytes"]) == (0, 0)
    assert report["allocated_bytes"] == 8 * GIB + 700 * MIB == 5 * GIB + sum(report["overhead_bytes"].values())


def test_a_worker_that_was_shut_down_is_not_told(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    worker.model_runner.model = None
    assert trackers[0].report() is None


def test_a_pool_that_is_not_allocated_yet_is_not_told(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    worker.model_runner.kv_caches = []
    assert trackers[0].report() is None


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Leaves an outcome of the override to workers built after."""

    def leave(**values: Any) -> None:
        monkeypatch.setenv(override.ENV_OUTCOME, "")
        override.remember(override.Outcome(names.OVERRIDE_APPLIED, **values))

    return leave


@pytest.mark.parametrize(
    ("outcome", "cache", "allocated", "raised"),
    [
        # 6 GiB are no KV cache; the engine core gave a pool of 2 GiB where this worker had 1.2 GiB less than none.
        ({"applied_utilization": 0.06}, {"gpu_memory_utilization": 0.06}, 8 * GIB, 2 * GIB),
        ({"applied_utilization": 0.9}, {"gpu_memory_utilization": 0.9}, 72 * GIB, None),
        # The user's own, which nobody raises.
        ({}, {"gpu_memory_utilization": 0.06}, int(4.8 * GIB), None),
        ({"applied_kv_bytes": 1 * GIB}, {"kv_cache_memory_bytes": 1 * GIB}, 8 * GIB + 700 * MIB, 2 * GIB),
    ],
)
def test_what_was_raised_counts_into_the_claim(
    trackers: list[WorkerTracker],
    applied: Any,
    outcome: dict[str, Any],
    cache: dict[str, Any],
    allocated: int,
    raised: int | None,
) -> None:
    applied(**outcome)
    worker: Any = WorkerBase(config(**cache))
    worker.requested_memory = int(cache.get("gpu_memory_utilization", 0.9) * 80 * GIB)
    worker.determine_available_memory()
    worker.compile_or_warm_up_model()
    report = report_of(trackers[0])
    assert report["allocated_bytes"] == allocated
    assert trackers[0].outcome.raised_kv_bytes == raised
    assert (trackers[0].outcome.state == names.OVERRIDE_RAISED) == (raised is not None)


def test_kvcacheds_pool_is_not_counted(trackers: list[WorkerTracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_KVCACHED", "true")
    WorkerBase(config(gpu_memory_utilization=0.9))
    report = report_of(trackers[0])
    assert (report["weights_bytes"], report["total_bytes"]) == (5 * GIB, 80 * GIB)
    assert "capacity_bytes" not in report
    assert "allocated_bytes" not in report
