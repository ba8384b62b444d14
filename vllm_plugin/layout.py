"""What a chain of blocks takes of the pool where a model has several KV cache groups, which share it.

A group with full attention keeps a block for each block of the chain. One with a sliding window keeps those of the last
window, and releases the others as it goes on. A request finds a prefix if every full group still has all of it and
every window group its last blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_plugin.geometry import ceil_div, device_groups


@dataclass(frozen=True)
class Layout:
    """`chains`: groups with full attention. `windows`: the blocks that a hit needs of each of the other groups."""

    chains: int = 1
    windows: tuple[int, ...] = ()

    def blocks(self, length: int, released: int) -> int:
        """What the last `released` blocks of a chain of this length take, windows included."""
        taken = self.chains * released
        for window in self.windows:
            taken += min(window, length)
        return taken

    def passed_after(self, stop: int, end: int) -> int:
        """Blocks that windows released after those that a hit at `stop` needs of them, of a chain that went to `end`.

        0 where the windows still hold those.
        """
        released = 0
        for window in self.windows:
            released += max(end - max(stop, window), 0)
        return released

    def taken(self, stop: int, end: int) -> tuple[int, int]:
        """What a hit at `stop` takes of the windows of a chain that went to `end`: held to its end, released before."""
        held = passed = 0
        for window in self.windows:
            still = max(stop - max(end - window, 0), 0)
            held += still
            passed += min(window, stop) - still
        return held, passed


PLAIN = Layout()
"""One group with full attention."""


def layout_of_pool(config: Any) -> Layout | None:
    """The layout of a `KVCacheConfig`; None where a part of what a request holds lies in the host's memory, too."""
    groups = device_groups(config)
    return layout_of([group.kv_cache_spec for group in groups]) if len(groups) == len(config.kv_cache_groups) else None


def layout_of(specs: Sequence[Any]) -> Layout | None:
    """The layout of groups with these `KVCacheSpec`s; None where their blocks do not follow one order of release."""
    windows = [window_of(spec) for spec in specs]
    if len(specs) > 1 and not all(window or _keeps_all(spec) for spec, window in zip(specs, windows)):
        return None
    if len({int(getattr(spec, "block_size", 0)) for spec in specs}) != 1:
        return None
    return Layout(windows.count(0), tuple(window for window in windows if window))


def window_of(spec: Any) -> int:
    """Blocks that a hit needs of a group with a sliding window; 0 for every other group."""
    layer = _layer(spec)
    if "SlidingWindowSpec" not in _kinds(layer):
        return 0
    return max(ceil_div(int(layer.sliding_window) - 1, int(layer.block_size)), 1)


def _keeps_all(spec: Any) -> bool:
    kinds = _kinds(_layer(spec))
    return "FullAttentionSpec" in kinds and "RSWASpec" not in kinds


def _layer(spec: Any) -> Any:
    """That of a layer, where a group's has one for each, all of a kind (`UniformTypeKVCacheSpecs`)."""
    layers = getattr(spec, "kv_cache_specs", None)
    return next(iter(layers.values())) if layers else spec


def _kinds(spec: Any) -> set[str]:
    return {kind.__name__ for kind in type(spec).__mro__}
