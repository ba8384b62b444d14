"""Whatever breaks in the plugin or around it, vLLM does the same as without it: step by step, token by token."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin import guard, names
from vllm_plugin.hooks import PATCHES

from . import answers
from .harness import Engine, Prompt, traffic

pytestmark = pytest.mark.engine
Make = Callable[..., Engine]

MEASURING = ("pool", "estimator", "stack", "histogram", "peaks", "curve", "geometry", "process", "override")
"""Modules of which any function may break while vLLM runs."""
OBSERVERS = ("hooks.pool", "hooks.scheduler", "hooks.arguments")
"""Those that stand between vLLM's functions and ours: all but what calls vLLM's own."""
CALL_THE_ORIGINAL = ("patch", "_watched", "_follow_hand_outs", "_follow_evictions")
BLOCKS = 258
"""What one longest request needs, and so little that requests wait, and lose their blocks."""


@pytest.fixture(autouse=True)
def fresh_hooks(monkeypatch: pytest.MonkeyPatch, engines: Make) -> None:
    """Each test counts its own errors, and what it switches off is on for the next one."""
    assert engines
    for hook in list(guard.hooks.values()):
        monkeypatch.setattr(hook, "active", True)
        monkeypatch.setattr(hook, "errors", 0)
        monkeypatch.setattr(hook, "_strain", 0.0)


def fresh() -> None:
    for hook in list(guard.hooks.values()):
        hook.active, hook.errors, hook._strain = True, 0, 0.0


def errors() -> int:
    return sum(hook.errors for hook in guard.hooks.values())


@contextlib.contextmanager
def without_the_plugin() -> Iterator[None]:
    """vLLM's own functions in their places again."""
    with contextlib.ExitStack() as stack:
        for owner, name, wrapped in wrapped_functions():
            stack.enter_context(patch.object(owner, name, wrapped.__wrapped__))
        yield


def wrapped_functions() -> list[tuple[Any, str, Any]]:
    """Every function of vLLM that a hook has replaced in this process."""
    found = []
    for module in [sys.modules[name] for name in PATCHES if name in sys.modules]:
        owners = [module, *(one for one in vars(module).values() if inspect.isclass(one))]
        for owner in owners:
            for name, value in list(vars(owner).items()):
                function = getattr(value, "__func__", value)
                if isinstance(function, FunctionType) and getattr(function, "_vllm_rightsizer", False):
                    found.append((owner, name, function))
    return found


def decisions(make: Make, prompts: Sequence[Prompt]) -> list[Any]:
    """All that the scheduler decides, step by step: who runs, with how many tokens, in which blocks; who must go."""
    engine = make(BLOCKS)
    steps: list[Any] = []
    schedule = engine.scheduler.schedule

    def noted() -> Any:
        output = schedule()
        cached = output.scheduled_cached_reqs
        steps.append(
            (
                dict(output.num_scheduled_tokens),
                [(new.req_id, new.block_ids, new.num_computed_tokens) for new in output.scheduled_new_reqs],
                (list(cached.req_ids), list(cached.new_block_ids), list(cached.num_computed_tokens)),
                sorted(output.finished_req_ids),
                sorted(output.preempted_req_ids or ()),
            )
        )
        return output

    engine.scheduler.schedule = noted
    for number, _ in enumerate(engine.run(prompts, 20)):
        if number % 10 == 0 and hasattr(engine.pool, "evict_blocks"):
            # As a connector does, though no block.
            engine.pool.evict_blocks(set())
    steps.append((engine.queries, engine.hits, engine.preemptions, engine.scheduler.reset_prefix_cache()))
    return steps


PROMPTS = traffic(8, 36, output=60)


@pytest.fixture(scope="module")
def reference(engines: Make) -> list[Any]:
    with without_the_plugin():
        found = decisions(engines, PROMPTS)
    assert any(step[4] for step in found[:-1]), "this traffic should preempt"
    return found


def test_the_reference_is_vllm_alone(engines: Make, reference: list[Any]) -> None:
    assert len(wrapped_functions()) >= 5
    with without_the_plugin():
        assert engines(BLOCKS).tracker is None
    assert decisions(engines, PROMPTS) == reference
    assert errors() == 0


# --- Random faults ----------------------------------------------------------------------------------------------------


class WithoutTextError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no text either")

    __str__ = __repr__


RAISED = (
    lambda: AttributeError("gone in this vLLM"),
    lambda: TypeError("takes 3 arguments now"),
    lambda: MemoryError(),
    lambda: RecursionError("too deep"),
    lambda: StopIteration(),
    lambda: OSError(28, "No space left on device"),
    lambda: WithoutTextError(),
)
RETURNED = (None, -1, 10**30, float("nan"), "text", b"", (), (1, 2, 3, 4), {}, object(), [None], lambda *_: None)


@dataclass(frozen=True)
class Fault:
    """From its `first` call on, `times` times, the function raises or returns something."""

    function: str
    outcome: int
    first: int
    times: int

    @property
    def raises(self) -> bool:
        return self.outcome < len(RAISED)


def functions() -> list[str]:
    """Every function of ours that can break, as `module:qualified name`, by looking."""
    found = []
    for name in (*MEASURING, *OBSERVERS):
        module = importlib.import_module(f"vllm_plugin.{name}")
        for owner in [module, *(one for one in vars(module).values() if _is_ours(one, module))]:
            prefix = "" if owner is module else f"{owner.__name__}."
            for attribute, value in vars(owner).items():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                    found.append(f"{name}:{prefix}{attribute}")
    return sorted(one for one in found if one.rpartition(":")[2].rpartition(".")[2] not in CALL_THE_ORIGINAL)


def _is_ours(value: Any, module: ModuleType) -> bool:
    return inspect.isclass(value) and value.__module__ == module.__name__


@contextlib.contextmanager
def injected(fault: Fault) -> Iterator[list[int]]:
    """The fault in place; yields a list with one entry for each time that it struck."""
    module_name, _, qualified = fault.function.partition(":")
    owner: Any = importlib.import_module(f"vllm_plugin.{module_name}")
    *outer, attribute = qualified.split(".")
    for name in outer:
        owner = getattr(owner, name)
    declared = vars(owner)[attribute]
    original = declared.fget if isinstance(declared, property) else getattr(declared, "__func__", declared)
    calls, struck = iter(range(10**9)), []

    @functools.wraps(original)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if not fault.first <= call < fault.first + fault.times:
            return original(*args, **kwargs)
        struck.append(call)
        if fault.raises:
            raise RAISED[fault.outcome]()
        return RETURNED[fault.outcome - len(RAISED)]

    kind = type(declared) if isinstance(declared, (staticmethod, classmethod, property)) else None
    with patch.object(owner, attribute, kind(faulty) if kind is not None else faulty):
        yield struck


FAULTS = st.builds(
    Fault,
    st.sampled_from(functions()),
    st.integers(0, len(RAISED) + len(RETURNED) - 1),
    st.integers(0, 60),
    st.sampled_from([1, 3, 10**9]),
)


@settings(max_examples=60)
@given(st.lists(FAULTS, min_size=1, max_size=3, unique_by=lambda fault: fault.function))
def test_random_faults_change_no_decision(engines: Make, reference: list[Any], faults: list[Fault]) -> None:
    fresh()
    with contextlib.ExitStack() as stack:
        struck = [stack.enter_context(injected(fault)) for fault in faults]
        assert decisions(engines, PROMPTS) == reference
        raised = [fault.function for fault, times in zip(faults, struck, strict=True) if times and fault.raises]
    assert errors() > 0 or not raised, raised


@pytest.mark.parametrize("outcome", [len(RAISED) - 1, len(RAISED)], ids=["raises", "returns nothing"])
def test_each_function_may_break_for_good(engines: Make, reference: list[Any], outcome: int) -> None:
    """Not left to chance: every one of them, from its first call on."""
    struck_at_all = 0
    for function in functions():
        fresh()
        with injected(Fault(function, outcome, 0, 10**9)) as struck:
            assert decisions(engines, PROMPTS) == reference, function
        assert errors() > 0 or not struck or outcome == len(RAISED), function
        struck_at_all += bool(struck)
    assert struck_at_all > 30


# --- vLLM's own errors, and what it sees of its functions -------------------------------------------------------------


class OutOfBlocksError(Exception):
    """vLLM's own."""


@pytest.mark.parametrize("error", [OutOfBlocksError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("place", ["get_cached_block", "get_new_blocks", "free_blocks"])
def test_vllms_own_errors_pass_as_they_are(engines: Make, place: str, error: type[BaseException]) -> None:
    """From below a lookup, a hand-out and a release, each under one of our wrappers."""
    from vllm.v1.core.block_pool import BlockPool

    original, calls = getattr(BlockPool, place), iter(range(10**9))
    instance = error("vLLM's own words")

    def fails(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 20:
            raise instance
        return original(*args, **kwargs)

    with patch.object(BlockPool, place, fails), pytest.raises(error) as caught:
        decisions(engines, PROMPTS)
    assert caught.value is instance
    assert instance.__cause__ is None
    assert instance.__context__ is None
    assert traceback.extract_tb(instance.__traceback__)[-1].name == "fails"
    assert errors() == 0


def test_functions_look_as_they_did() -> None:
    """Signature, name, documentation and the way to pickle them."""
    for module in PATCHES:
        # Some are those of other releases.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    found = wrapped_functions()
    assert {owner.__name__.rpartition(".")[2] for owner, _, _ in found} >= {
        "EngineArgs",
        "KVCacheManager",
        "Scheduler",
        "WorkerBase",
        "base_loader",
        "Platform",
    }
    for owner, name, wrapped in found:
        original = wrapped.__wrapped__
        assert inspect.signature(wrapped) == inspect.signature(original)
        assert (wrapped.__name__, wrapped.__qualname__, wrapped.__module__) == (
            (original.__name__, original.__qualname__, original.__module__)
        )
        assert wrapped.__doc__ == original.__doc__
        if owner.__name__ != wrapped.__module__ and inspect.ismodule(owner):
            # A function of another module that this one has imported: by name, the original is found there.
            continue
        assert pickle.loads(pickle.dumps(getattr(owner, name))) == getattr(owner, name)


@pytest.mark.parametrize("when", ["before the first lookup", "between a lookup and its allocation"])
def test_who_else_wraps_the_managers_functions_is_called_each_time(
    engines: Make, reference: list[Any], when: str
) -> None:
    """Another plugin that replaces a function on the object, as ours does."""
    calls = []

    def make(blocks: int) -> Engine:
        engine = engines(blocks)
        manager = engine.scheduler.kv_cache_manager

        def replace() -> None:
            inner = manager.allocate_slots

            def theirs(*args: Any, **kwargs: Any) -> Any:
                calls.append("theirs")
                return inner(*args, **kwargs)

            manager.allocate_slots = theirs

        if when == "before the first lookup":
            replace()
        else:
            lookup = manager.get_computed_blocks

            def looked_up(*args: Any, **kwargs: Any) -> Any:
                result = lookup(*args, **kwargs)
                del manager.get_computed_blocks
                replace()
                return result

            manager.get_computed_blocks = looked_up
        return engine

    from vllm.v1.core.kv_cache_manager import KVCacheManager

    allocate, all_calls = KVCacheManager.allocate_slots, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        all_calls.append("vLLM's")
        return allocate(*args, **kwargs)

    with patch.object(KVCacheManager, "allocate_slots", counted):
        assert decisions(make, PROMPTS) == reference
    assert len(calls) == len(all_calls) > 100


# --- Neighbours: plugins of the same group, and their metadata -------------------------------------------------------

REGISTER = """
import sys
from importlib import metadata
from vllm.plugins import load_general_plugins
try:
    load_general_plugins()
except Exception as error:
    print("raised", repr(error))
print("hooks", [type(finder).__name__ for finder in sys.meta_path].count("PostImportFinder"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as every pod gets it."""
    path = tmp_path_factory.mktemp("wheel") / WHEEL_FILE
    path.write_bytes(plugin_wheel())
    return path


def neighbour(folder: Path, name: str, code: str) -> Path:
    """Another plugin of vLLM's group, in a folder of its own."""
    info = folder / name / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{names.ENTRY_POINT_GROUP}]\n{name} = {name}:register\n")
    (folder / name / f"{name}.py").write_text(code)
    return folder / name


def garbage(folder: Path) -> Path:
    """Distributions of which nothing can be made: no metadata, and bytes that are no text."""
    for name in ("empty", "binary"):
        (folder / "garbage" / f"{name}-1.0.dist-info").mkdir(parents=True)
    (folder / "garbage" / "binary-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00Name")
    return folder / "garbage"


def environment(path: Sequence[Path], **more: str) -> dict[str, str]:
    """Nothing of this test's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTEST", "PYTHON"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ":".join(map(str, path)), **more}


def test_neighbours_fail_as_they_do_without_us(wheel: Path, tmp_path: Path) -> None:
    """One that cannot be imported is passed over by vLLM; one that raises ends it, with and without this plugin."""
    unimportable = neighbour(tmp_path, "unimportable", "raise ImportError('for another vLLM')")
    raising = neighbour(tmp_path, "raising", "def register():\n    raise RuntimeError('theirs')\n")

    def said(*path: Path) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", REGISTER], env=environment(path), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith(("raised", "hooks"))]

    assert said(unimportable, garbage(tmp_path), wheel) == ["hooks 1"]
    assert said(raising, wheel)[0] == said(raising)[0] == "raised RuntimeError('theirs')"


# --- A whole vLLM -----------------------------------------------------------------------------------------------------

SABOTEUR = """
def register():
    from vllm_plugin import geometry, override, worker
    from vllm_plugin.hooks import scheduler

    def fail(*_, **__):
        raise RuntimeError("sabotage")

    geometry.model_bytes = override.remember = scheduler._built = worker.WorkerTracker.__init__ = fail
"""
LONGEST_SECONDS = 500
UNCOUNTED = ("sound", "pages are slow", "clients are silent", "the process forks")
"""In these nothing of the plugin raises."""
MAY_COUNT = "the folder is removed"
"""Before it is made anew, a write may fail."""


def answered(model: Path, path: Sequence[Path], faults: Sequence[str], folder: Path, **more: str) -> Any:
    """What a vLLM answers while these faults are there, one after the other."""
    settings_ = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONFAULTHANDLER": "1", **more}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, answers.__file__, str(model), *faults],
            env=environment(path, **settings_),
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        process.wait(LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        # It says where it hangs.
        process.send_signal(signal.SIGABRT)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text(errors="replace")
    found = [line for line in said.splitlines() if line.startswith("FOUND")]
    assert found, said[-8000:]
    return json.loads(found[0].removeprefix("FOUND"))


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """vLLM without the plugin: the same answers twice, then what it says when its worker is killed."""
    found = answered(model, [], ["sound", "sound"], tmp_path_factory.mktemp("alone"), VLLM_PLUGINS="")
    first, second = found["runs"]
    assert first["answers"] == second["answers"]
    assert first["reset"]
    assert not any(first["errors"])
    return found


def test_answers_are_the_same_whatever_fails_while_it_runs(
    alone: Any, model: Path, wheel: Path, tmp_path: Path
) -> None:
    settings_ = {names.ENV_PORT: str(free_port()), names.ENV_DIR: str(tmp_path / "snapshots")}
    found = answered(model, [wheel], list(answers.FAULTS), tmp_path, **settings_)
    assert found["start"] == {}
    expected = alone["runs"][0]
    for run in found["runs"]:
        assert run["answers"] == expected["answers"], run["fault"]
        assert run["reset"], run["fault"]
        assert bool(run["errors"]) == (run["fault"] not in UNCOUNTED) or run["fault"] == MAY_COUNT, run
    failed_lookups = next(run for run in found["runs"] if run["fault"] == "lookups fail")
    assert f'{names.HOOK_ERRORS}{{hook="lookup"}} 5' in failed_lookups["page"]
    assert f'{names.HOOKS_ACTIVE}{{hook="lookup"}} 0' in failed_lookups["page"]
    # A killed worker takes its series along, and vLLM says of it what it always says.
    before, after = found["pages"]
    assert names.MODEL_WEIGHTS_BYTES in before
    assert names.MODEL_WEIGHTS_BYTES not in after
    assert names.KV_CACHE_ACTIVE_BYTES in after
    assert found["killed"] == alone["killed"] != "nothing"


def test_answers_are_the_same_whatever_fails_at_the_start(alone: Any, model: Path, wheel: Path, tmp_path: Path) -> None:
    """No port, no folder, nonsense in the environment, failing neighbours, and half of the hooks broken."""
    path = [
        neighbour(tmp_path, "unimportable", "raise ImportError('for another vLLM')"),
        neighbour(tmp_path, "saboteur", SABOTEUR),
        garbage(tmp_path),
        wheel,
    ]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        nonsense = {names.ENV_KV_BYTES: "many", names.ENV_ALLOCATION_BYTES: "-1", names.ENV_DIR: "/dev/null/folder"}
        nonsense[names.ENV_PORT] = str(taken.getsockname()[1])
        found = answered(model, path, ["sound"], tmp_path, **nonsense)
    (run,) = found["runs"]
    assert run["answers"] == alone["runs"][0]["answers"]
    assert {"engine_args", "scheduler"} <= found["start"].keys()
    assert {"exporter", "snapshots"} <= found["start"].keys() | run["errors"].keys()
    assert found["killed"] == alone["killed"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
