"""What an engine does while the plugin's hooks stand beside it, from its environment to its last step, without a model.

Each part calls this release's own functions, and comes out as plain values: two lives can be compared.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import engines
import torch
from engines import traffic
from executor_without_model import ExecutorWithoutModel

from vllm_plugin import names, override
from vllm_plugin.hooks import guarded

HAS_V0 = engines.has("vllm.core.block_manager")
KINDS = [engines.V1, engines.V0] if HAS_V0 else [engines.V1]
BLOCKS = 66
PROMPTS = traffic(12, 12, output=220)
CORE = importlib.import_module("vllm.v1.engine.core")
START = importlib.import_module("vllm.v1.engine.core_client")
PLATFORM = importlib.import_module("vllm.platforms").current_platform


def absent() -> set[str]:
    """The hook modules for which this release has no place."""
    manager = importlib.import_module("vllm.v1.core.kv_cache_manager").KVCacheManager
    there = {
        "hooks.environ": validation() is not None,
        "hooks.executor": "kv_cache_config" not in inspect.signature(manager.__init__).parameters,
        "hooks.engine_process": hasattr(START, "EngineCoreProc"),
        "hooks.engine_v0": HAS_V0,
        "hooks.block_manager": HAS_V0,
        "hooks.weights": finisher() is not None,
    }
    return {module for module, place in there.items() if not place}


def parts(model: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """The parts of a life, each to be called for what becomes of it. `folder`: an empty one."""
    return {
        "environment": environment,
        "process": engine_process,
        **{f"requests of {kind.__name__}": lambda kind=kind: requests(kind, model) for kind in KINDS},
        "user's plan": lambda: planned(model, ours=False),
        "plan": lambda: planned(model, ours=True),
        "core": lambda: engine_core(model),
        "workers": lambda: workers(model),
        "weights": lambda: weights(model),
        "pages": lambda: pages(folder),
    }


def environment() -> Any:
    """vLLM looks at the names of all variables."""
    before = dict(os.environ)
    look = validation()
    return look(hard_fail=False) if look is not None else None, dict(os.environ) == before


def validation() -> Any:
    """vLLM's function for it, or None: platforms answer None for what they have not got."""
    return getattr(PLATFORM, "validate_environ", None)


def engine_process() -> Any:
    """Somebody is about to start one: until 0.8 it gets another function to run."""
    guarded("engine_process")(START)
    return callable(getattr(getattr(START, "EngineCoreProc", None), "run_engine_core", callable))


def requests(kind: Any, model: Path) -> Any:
    """Arguments, a scheduler and its pool: hits, waiting, preemptions, and a cache that is emptied."""
    engine = kind(model, BLOCKS)
    steps = [
        (engine.scan(), engine.unfinished(), engine.hit_tokens, engine.preemptions) for _ in engine.run(PROMPTS, 16)
    ]
    assert engine.preemptions
    return steps, bool(engine.manager.reset_prefix_cache())


def planned(model: Path, ours: bool) -> Any:
    """The engine core plans a KV cache for which there is too little; `ours`: because the plugin has set the size."""
    config = engines.configured(model)
    name = next(name for name in ("get_kv_cache_configs", "get_kv_cache_config") if hasattr(CORE, name))
    with variables_kept():
        if ours:
            applied = config.cache_config.gpu_memory_utilization
            override.remember(override.Outcome(names.OVERRIDE_APPLIED, applied_utilization=applied))
        try:
            blocks = int(engines.planned(getattr(CORE, name), config, 3 * engines.BLOCK_BYTES).num_blocks)
            return blocks, config.model_config.max_model_len
        except ValueError as refusal:
            return str(refusal)


def engine_core(model: Path) -> Any:
    """The engine core, which plans with room enough and builds its scheduler."""
    config = v1_configured(model)
    # It would look four times through all that is imported, and then leave it alone: most of the time of a life.
    with patch("gc.collect"), patch("gc.freeze"):
        core = CORE.EngineCore(config, ExecutorWithoutModel, log_stats=True)
        core.shutdown()
    getattr(importlib.import_module("vllm.envs"), "disable_envs_cache", lambda: None)()
    return int(config.cache_config.num_gpu_blocks), type(core.scheduler).__name__


def v1_configured(model: Path) -> Any:
    """A configuration whose scheduler is V1's."""
    config = engines.configured(model)
    if HAS_V0 and hasattr(config.scheduler_config, "scheduler_cls"):
        config.scheduler_config.scheduler_cls = engines.v1_scheduler()
    return config


def workers(model: Path) -> Any:
    """Workers of every base class, on the CPU and as on a GPU: what their caller gets, and what they were asked."""
    bases = [name for name in ("vllm.v1.worker.worker_base", "vllm.worker.worker_base") if engines.has(name)]
    return [worker(name, model, device) for name in bases for device in ("cpu", "cuda")]


def worker(module: str, model: Path, device: str) -> Any:
    """One of them, from its start to its sleep."""
    asked: list[Any] = []

    class Runner:
        kv_caches = ()
        model = torch.nn.Linear(4, 4)

        def capture_model(self) -> int:
            asked.append("graphs")
            return 1000

    class Worker(importlib.import_module(module).WorkerBase):  # type: ignore[misc]  # vLLM is untyped here
        room: Any = 4096
        available_kv_cache_memory_bytes = -1
        requested_cpu_memory = 0

        def determine_available_memory(self) -> Any:
            asked.append("room")
            if self.room is None:
                raise ValueError("no room")
            return self.room

        def compile_or_warm_up_model(self) -> Any:
            asked.append("warm up")
            return self.model_runner.capture_model()

        def initialize_cache(self, *blocks: int) -> None:
            asked.append(blocks)

        def sleep(self, level: int = 1) -> None:
            asked.append(level)

        def wake_up(self, tags: Any = None) -> None:
            asked.append(tags)

    config = engines.configured(model)
    config.device_config = SimpleNamespace(device_type=device, device=torch.device("cpu"))
    one = engines.built(
        Worker, vllm_config=config, local_rank=0, rank=0, distributed_init_method="", is_driver_worker=True
    )
    one.device, one.model_runner = torch.device("cpu"), Runner()
    results = [one.determine_available_memory(), one.compile_or_warm_up_model(), one.initialize_cache(7, 0)]
    results += [one.sleep(level=2), one.wake_up(["weights"])]
    one.room = None
    try:
        results.append(one.determine_available_memory())
    except ValueError as refusal:
        results.append(str(refusal))
    return asked, results


def finisher() -> Any:
    """The function by which a loader finishes a model; none until 0.7."""
    loader = engines.first("vllm.model_executor.model_loader.base_loader", "vllm.model_executor.model_loader.loader")
    for name in ("_process_weights_after_loading", "process_weights_after_loading"):
        if hasattr(loader, name):
            return getattr(loader, name)
    return None


def weights(model: Path) -> Any:
    """A loader hands each layer to its method, which packs it."""
    finish = finisher()
    if finish is None:
        return None
    base = importlib.import_module("vllm.model_executor.layers.quantization.base_config").QuantizeMethodBase
    packed = []

    class Method(base):  # type: ignore[misc,valid-type]  # vLLM is untyped here
        def create_weights(self, *_: Any, **__: Any) -> None:
            raise AssertionError

        def apply(self, *_: Any, **__: Any) -> None:
            raise AssertionError

        def process_weights_after_loading(self, layer: Any) -> None:
            packed.append(tuple(layer.weight.shape))

    layer = torch.nn.Linear(8, 4)
    layer.quant_method = Method()
    config = engines.configured(model).model_config
    return finish(layer, config, torch.device("cpu")), packed


def pages(folder: Path) -> Any:
    """vLLM's own page, from the registry and from its processes' files: what stands there that is not ours."""
    from prometheus_client import REGISTRY, CollectorRegistry, multiprocess

    of_files = multiprocess.MultiProcessCollector(CollectorRegistry(), path=str(folder))
    found = [family.name for source in (REGISTRY, of_files) for family in source.collect()]
    return sorted(name for name in found if not name.startswith(names.PREFIX))


@contextlib.contextmanager
def variables_kept() -> Iterator[None]:
    """The environment as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
