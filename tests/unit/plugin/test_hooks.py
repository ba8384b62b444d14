"""The plugin's code can fail as it likes: vLLM's own calls return what they always did."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import guard
from vllm_plugin.guard import Hook, wrap
from vllm_plugin.imports import PostImportFinder


class Engine:
    """Stands for a class of vLLM."""

    def step(self, tokens: int, *, twice: bool = False) -> int:
        """vLLM's docstring."""
        if tokens < 0:
            raise ValueError("vLLM's own error")
        return tokens * (2 if twice else 1)


@pytest.fixture
def engine_class(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr(guard, "hooks", {})
    return type("Engine", (Engine,), {"step": Engine.step})


def test_a_wrapped_method_sees_everything_and_changes_nothing(engine_class: type[Engine]) -> None:
    seen: list[Any] = []
    hook = Hook("step")
    wrap(
        engine_class,
        "step",
        hook,
        before=lambda _, tokens, **__: tokens + 1,
        after=lambda result, noted, _, *args, **kwargs: seen.append((result, noted, args, kwargs)),
    )
    assert engine_class().step(3, twice=True) == 6
    assert seen == [(6, 4, (3,), {"twice": True})]
    assert engine_class.step.__doc__ == "vLLM's docstring."
    assert hook.seconds > 0


def test_errors_are_counted_and_repeated_ones_end_the_hook(
    engine_class: type[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("ours")

    hook = Hook("step")
    wrap(engine_class, "step", hook, before=fail, after=fail)
    assert [engine_class().step(number) for number in range(20)] == list(range(20))
    assert (hook.errors, hook.active) == (5, False)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_an_error_now_and_then_does_not_end_it(engine_class: type[Engine]) -> None:
    calls = iter(range(1000))

    def fail_sometimes(*_: Any) -> None:
        if next(calls) % 15 == 0:
            raise KeyError("ours")

    hook = Hook("step")
    wrap(engine_class, "step", hook, after=fail_sometimes)
    for number in range(300):
        engine_class().step(number)
    assert (hook.errors, hook.active) == (20, True)


def test_vllms_own_errors_pass_through(engine_class: type[Engine]) -> None:
    hook = Hook("step")
    wrap(engine_class, "step", hook, after=lambda *_: None)
    with pytest.raises(ValueError, match="vLLM's own error"):
        engine_class().step(-1)
    assert hook.errors == 0


def test_a_missing_method_switches_the_hook_off(engine_class: type[Engine]) -> None:
    hook = Hook("gone")
    wrap(engine_class, "no_such_method", hook, after=lambda *_: None)
    assert not hook.active


def test_wrapping_twice_is_wrapping_once(engine_class: type[Engine]) -> None:
    seen: list[int] = []
    for _ in range(2):
        wrap(engine_class, "step", Hook("step"), after=lambda *_: seen.append(1))
    engine_class().step(1)
    assert seen == [1]


class SilentError(Exception):
    """Cannot even be put into a log."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__


def test_an_error_without_text_is_counted_like_others(
    engine_class: type[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SilentError

    hook = Hook("step")
    wrap(engine_class, "step", hook, before=fail, after=fail)
    with caplog.at_level("DEBUG", "vllm.rightsizer"):
        assert [engine_class().step(number) for number in range(9)] == list(range(9))
    assert (hook.errors, hook.active) == (5, False)
    assert "SilentError" in caplog.text


def test_a_log_that_fails_is_no_reason_to_fail(engine_class: type[Engine]) -> None:
    """A filter that somebody put on vLLM's log: what raises there raises where the line is written."""

    def raising(_: Any) -> bool:
        raise RuntimeError("theirs")

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("ours")

    hook = Hook("step")
    wrap(engine_class, "step", hook, after=fail)
    guard.logger.addFilter(raising)
    try:
        assert [engine_class().step(number) for number in range(9)] == list(range(9))
    finally:
        guard.logger.removeFilter(raising)
    assert not hook.active


def test_an_error_that_passes_by_itself_is_counted_and_ends_nothing(engine_class: type[Engine]) -> None:
    assert engine_class
    hook = Hook("snapshots")
    for _ in range(50):
        hook.count(OSError(28, "No space left on device"))
    assert (hook.errors, hook.active) == (50, True)


class Various:
    """Functions of every kind."""

    @classmethod
    def of_class(cls, value: int) -> tuple[str, int]:
        """Class method."""
        return cls.__name__, value

    @staticmethod
    def of_none(value: int) -> int:
        """Static method."""
        return value

    async def awaited(self, value: int) -> int:
        """Coroutine."""
        if value < 0:
            raise ValueError("vLLM's own error")
        return value

    def named(self, *, observe: int = 0, hook: int = 0) -> int:
        """With arguments called like those of the guard."""
        return observe + hook


class Derived(Various):
    """Inherits them all."""


@pytest.mark.parametrize("owner", [Various, Derived])
async def test_functions_of_every_kind_stay_what_they_are(
    owner: type[Various], engine_class: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_class
    seen: list[Any] = []
    hook = Hook("various")
    for name in ("of_class", "of_none", "awaited", "named"):
        monkeypatch.setattr(owner, name, vars(Various)[name])
        wrap(
            owner,
            name,
            hook,
            before=lambda *_, **__: seen.append("before"),
            after=lambda *_, **__: seen.append("after"),
        )
    assert owner.of_class(1) == owner().of_class(1) == (owner.__name__, 1)
    assert owner.of_none(2) == owner().of_none(2) == 2
    assert await owner().awaited(3) == 3
    assert owner().named(observe=4, hook=1) == 5
    assert seen == ["before", "after"] * 6
    with pytest.raises(ValueError, match="vLLM's own error"):
        await owner().awaited(-1)
    assert inspect.iscoroutinefunction(owner.awaited)
    for name in ("of_class", "of_none", "awaited", "named"):
        assert inspect.signature(getattr(owner, name)) == inspect.signature(getattr(Untouched, name))
    assert (hook.errors, hook.active) == (0, True)


class Untouched(Various):
    """To compare with."""

    of_class = classmethod(Various.of_class.__func__)
    of_none = staticmethod(Various.of_none)
    awaited = Various.awaited
    named = Various.named


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_the_plugin_looks_passes(engine_class: type[Engine], error: type[BaseException]) -> None:
    """A signal does not choose whose code it meets; swallowed, vLLM could not be stopped."""

    def interrupted(*_: Any) -> None:
        raise error

    hook = Hook("step")
    wrap(engine_class, "step", hook, after=interrupted)
    with pytest.raises(error):
        engine_class().step(1)
    assert hook.errors == 0


def test_what_is_no_function_switches_the_hook_off(engine_class: type[Engine]) -> None:
    engine_class.size = 5  # type: ignore[attr-defined]
    hook = Hook("size")
    wrap(engine_class, "size", hook, after=lambda *_: None)
    assert not hook.active
    assert engine_class.size == 5  # type: ignore[attr-defined]


@pytest.fixture
def finder() -> Iterator[PostImportFinder]:
    finder = PostImportFinder()
    sys.meta_path.insert(0, finder)
    yield finder
    sys.meta_path.remove(finder)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that nobody has imported."""
    name = "package_to_watch"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "inner.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_a_module_imported_later_is_patched_after_its_execution(finder: PostImportFinder, package: str) -> None:
    patched: list[types.ModuleType] = []
    finder.watch(f"{package}.inner", lambda module: patched.append(module.value))
    assert not patched
    __import__(f"{package}.inner")
    assert patched == [1]
    module = sys.modules[f"{package}.inner"]
    assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert "exec_module" not in vars(module.__spec__.loader)


def test_a_module_imported_before_is_patched_at_once(finder: PostImportFinder, package: str) -> None:
    __import__(f"{package}.inner")
    patched: list[int] = []
    for _ in range(2):
        finder.watch(f"{package}.inner", lambda module: patched.append(module.value))
    assert patched == [1]


def test_a_missing_module_is_still_missing(finder: PostImportFinder) -> None:
    finder.watch("no_such_module_anywhere", lambda _: None)
    with pytest.raises(ModuleNotFoundError):
        __import__("no_such_module_anywhere")


def in_a_process(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3]), **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REGISTERED = """
import sys, threading, os
import vllm_plugin
vllm_plugin.register()
vllm_plugin.register()
vllms = [name for name in sys.modules if name == "vllm" or name.startswith(("vllm.", "torch"))]
hooked = [type(finder).__name__ for finder in sys.meta_path].count("PostImportFinder")
print(vllms, threading.active_count(), len(os.listdir("/proc/self/fd")), hooked, "http.server" in sys.modules)
"""


def test_registering_imports_nothing_and_starts_nothing() -> None:
    files = in_a_process("import os; print(len(os.listdir('/proc/self/fd')))")
    assert in_a_process(REGISTERED) == f"[] 1 {files} 1 False"


def test_a_disabled_plugin_hooks_nothing() -> None:
    assert in_a_process(REGISTERED, VLLM_RIGHTSIZER_DISABLED="1").split()[-2] == "0"


def test_registering_never_raises() -> None:
    broken = (
        "import sys; sys.modules['vllm_plugin.hooks'] = None\nimport vllm_plugin; vllm_plugin.register(); print('on')"
    )
    assert in_a_process(broken) == "on"


GONE = """
import os, sys, types
import vllm_plugin
vllm_plugin.register()
os.remove(sys.argv[1])
from vllm.engine import arg_utils
print(arg_utils.VALUE, arg_utils.EngineArgs().create_engine_config())
"""


def test_a_plugin_that_vanishes_after_registering_is_no_reason_to_fail(tmp_path: Path) -> None:
    """Its volume goes, or is made anew, while vLLM starts: the hooks can no longer be imported."""
    from recommender.api.plugin_wheel import plugin_wheel

    wheel = tmp_path / "plugin.whl"
    wheel.write_bytes(plugin_wheel())
    module = tmp_path / "vllm" / "engine" / "arg_utils.py"
    module.parent.mkdir(parents=True)
    module.write_text("VALUE = 1\nclass EngineArgs:\n    def create_engine_config(self):\n        return 2\n")
    done = subprocess.run(
        [sys.executable, "-S", "-c", GONE, str(wheel)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{wheel}:{tmp_path}"},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1 2"), done.stderr


UNKNOWN_EXECUTOR = """
import vllm_plugin
vllm_plugin.register()
from vllm.v1.core import kv_cache_manager
from vllm.v1.executor import abstract
from vllm_plugin.guard import hooks
print(abstract.VALUE, hooks["executor"].active, hooks["executor"].errors)
"""


def test_an_executor_that_nobody_has_seen_can_be_imported(tmp_path: Path) -> None:
    """It is looked for where a manager does not take its configuration, as in old releases; so may a new one's."""
    engine = tmp_path / "vllm" / "v1"
    for folder in (engine.parent, engine, engine / "core", engine / "executor"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (engine / "core" / "kv_cache_manager.py").write_text("class KVCacheManager:\n    def __init__(self, *args): pass\n")
    (engine / "executor" / "abstract.py").write_text("VALUE = 1\n")
    path = f"{Path(__file__).parents[3]}:{tmp_path}"
    assert in_a_process(UNKNOWN_EXECUTOR, PYTHONPATH=path) == "1 False 1"
