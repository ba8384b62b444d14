"""Call something when a module has been imported, now or later, without importing it.

The plugin's registration must not import vLLM's modules: that takes seconds in processes that never need them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable

Patch = Callable[[ModuleType], None]


class PostImportFinder:
    """A meta-path finder that finds nothing itself: it lets the others find, and adds a step after execution."""

    def __init__(self) -> None:
        self._patches: dict[str, Patch] = {}
        self._searching: set[str] = set()

    def watch(self, name: str, patch: Patch) -> None:
        """Call `patch(module)` once `name` is imported; at once if it is already. A second call changes nothing."""
        if name in self._patches:
            return
        self._patches[name] = patch
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            patch(module)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Part of the import system; answers only for watched modules."""
        if fullname not in self._patches or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: ModuleSpec | None = find(fullname, path, target)
                if spec is not None:
                    self._extend(spec)
                    return spec
            return None
        finally:
            self._searching.discard(fullname)

    def _extend(self, spec: ModuleSpec) -> None:
        """Let the loader itself call the patch: a loader of another type would hide the module's source."""
        loader: Any = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return
        patch = self._patches[spec.name]

        def exec_module(module: ModuleType) -> None:
            # A zip file's loader serves many modules, so this one is undone with its first use.
            vars(loader).pop("exec_module", None)
            execute(module)
            if module.__name__ == spec.name:
                patch(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            return


_finder = PostImportFinder()


def watch(name: str, patch: Patch) -> None:
    """Call `patch(module)` once the module `name` is imported; at once if it is already."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.watch(name, patch)
