"""Faults put into the plugin's functions, and vLLM without the plugin: what either does must be the same.

Standard library only: used in each release's own environment, and by the tests on the project's own vLLM.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import patch

import vllm_plugin.hooks
from vllm_plugin import guard

HOOKS = tuple(sorted(f"hooks.{one.name}" for one in pkgutil.iter_modules(vllm_plugin.hooks.__path__)))
"""Every module that stands between vLLM's functions and ours, by looking: one that is added is among them."""

CALL_THE_ORIGINAL = {
    "hooks.pool": ("_Admission._watched", "_follow_hand_outs", "_follow_evictions"),
    "hooks.metrics": ("_Collector.describe", "_Collector.collect"),
    "hooks.engine_process": ("run_engine_core",),
}
"""What vLLM calls in place of its own, or hands its own to: all that these call is listed by itself, and may break."""


class WithoutTextError(Exception):
    """Cannot even be put into a log."""

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
RAISES, RETURNS_NOTHING = len(RAISED) - 1, len(RAISED)
"""The outcomes of a function that breaks for good."""
FOR_GOOD = 10**9


@dataclass(frozen=True)
class Fault:
    """After its `first` calls the function raises or returns something, `times` times."""

    function: str
    outcome: int
    first: int = 0
    times: int = FOR_GOOD

    @property
    def raises(self) -> bool:
        """Whether it raises."""
        return self.outcome < len(RAISED)


@dataclass
class Calls:
    """Of a function with a fault: how often it was called, and how often the fault struck."""

    made: int = 0
    struck: int = 0


def functions(modules: Sequence[str]) -> list[str]:
    """Every function of these modules of the plugin that can break, as `module:qualified name`, by looking.

    `patch` is none of them: it runs when vLLM's module is imported, under a guard of its own.
    """
    found = []
    for name in modules:
        module = importlib.import_module(f"vllm_plugin.{name}")
        for owner in [module, *(one for one in vars(module).values() if _is_ours(one, module))]:
            prefix = "" if owner is module else f"{owner.__name__}."
            for attribute, value in vars(owner).items():
                function = _function(value)
                if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                    found.append((name, f"{prefix}{attribute}"))
    return sorted(
        f"{name}:{qualified}"
        for name, qualified in found
        if qualified != "patch" and qualified not in CALL_THE_ORIGINAL.get(name, ())
    )


def _place(function: str) -> tuple[Any, str]:
    """The module or class in which it stands, and its name there."""
    module, _, qualified = function.partition(":")
    *outer, attribute = qualified.split(".")
    return functools.reduce(getattr, outer, importlib.import_module(f"vllm_plugin.{module}")), attribute


def _function(declared: Any) -> Any:
    return declared.fget if isinstance(declared, property) else getattr(declared, "__func__", declared)


def _is_ours(value: Any, module: ModuleType) -> bool:
    return inspect.isclass(value) and value.__module__ == module.__name__


@contextlib.contextmanager
def counted(names: Sequence[str]) -> Iterator[dict[str, Calls]]:
    """No fault in any of `functions`; how often each is called."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(injected(Fault(name, RAISES, times=0))) for name in names}


@contextlib.contextmanager
def injected(fault: Fault) -> Iterator[Calls]:
    """The fault in place."""
    owner, attribute = _place(fault.function)
    declared = vars(owner)[attribute]
    original = _function(declared)
    calls = Calls()

    @functools.wraps(original)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        calls.made += 1
        if not fault.first < calls.made <= fault.first + fault.times:
            return original(*args, **kwargs)
        calls.struck += 1
        if fault.raises:
            raise RAISED[fault.outcome]()
        return RETURNED[fault.outcome - len(RAISED)]

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(owner, attribute, _as_declared(declared, faulty)))
        for module, name in _imported(original):
            stack.enter_context(patch.object(module, name, faulty))
        stack.enter_context(_inside_wrappers(original, faulty))
        yield calls


def _as_declared(declared: Any, function: Any) -> Any:
    kind = type(declared)
    return kind(function) if kind in (staticmethod, classmethod, property) else function


def _imported(function: Any) -> list[tuple[ModuleType, str]]:
    """Where else in the plugin it stands, by `from ... import`."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("vllm_plugin.")]
    return [(module, name) for module in ours for name, value in vars(module).items() if value is function]


@contextlib.contextmanager
def _inside_wrappers(original: Any, faulty: Any) -> Iterator[None]:
    """What stands before vLLM's functions already has its observers at hand: there too."""
    wrappers = [wrapped for _, _, wrapped in wrapped_functions()]
    cells = [cell for wrapped in wrappers for cell in wrapped.__closure__ or () if cell.cell_contents is original]
    for cell in cells:
        cell.cell_contents = faulty
    try:
        yield
    finally:
        for cell in cells:
            cell.cell_contents = original


def fresh() -> None:
    """Every hook of this process is on, and has counted nothing."""
    for hook in list(guard.hooks.values()):
        hook.active, hook.errors, hook._strain = True, 0, 0.0


def errors() -> int:
    """What all hooks of this process have counted."""
    return sum(hook.errors for hook in guard.hooks.values())


def wrapped_functions() -> list[tuple[Any, str, Any]]:
    """Every function of vLLM that a hook has replaced in this process: where it stands, its name, and it."""
    found = []
    for module in [sys.modules[name] for name in vllm_plugin.hooks.PATCHES if name in sys.modules]:
        owners = [module, *(one for one in vars(module).values() if inspect.isclass(one))]
        for owner in owners:
            for name, value in list(vars(owner).items()):
                function = getattr(value, "__func__", value)
                if isinstance(function, FunctionType) and getattr(function, guard.MARK, False):
                    found.append((owner, name, function))
    return found


@contextlib.contextmanager
def without_the_plugin() -> Iterator[None]:
    """vLLM's own functions in their places again."""
    with contextlib.ExitStack() as stack:
        for owner, name, wrapped in wrapped_functions():
            stack.enter_context(patch.object(owner, name, _as_declared(vars(owner)[name], wrapped.__wrapped__)))
        yield
