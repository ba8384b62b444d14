"""A V0 engine's KV pool as the plugin sees it (vLLM up to 0.10): fed by `hooks.block_manager`, read by the exporter.

V0 hands out blocks without a hash first and evicts the others in the order of their last use, a sequence's tail before
its head, as V1 does since 0.23. Equal blocks share one place. A block whose prompt is not computed yet is a miss for
others, though they share its place.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from vllm_plugin.geometry import ceil_div
from vllm_plugin.guard import hook
from vllm_plugin.layout import PLAIN
from vllm_plugin.tracker import EngineTracker


class BlockManagerTracker(EngineTracker):
    """Counters, peaks and reuse distances of one engine's `SelfAttnBlockSpaceManager`s.

    There is one for each stage of a pipeline; their pools are equal, and a request stays in one of them.
    """

    engine_version = "V0"

    def __init__(self, schedulers: Sequence[Any], vllm_config: Any, block_bytes: int) -> None:
        managers = [scheduler.block_manager for scheduler in schedulers]
        reuse = hook("reuse")
        if len(managers) > 1:
            reuse.switch_off(f"V0 has {len(managers)} KV pools here, so its reuse distances are not known")
        super().__init__(
            blocks=sum(int(manager.num_total_gpu_blocks) for manager in managers),
            block_bytes=block_bytes,
            block_tokens=int(managers[0].block_size),
            caching=bool(managers[0].enable_caching),
            layout=PLAIN if len(managers) == 1 else None,
        )
        self.vllm_config = vllm_config
        self._schedulers = [weakref.ref(scheduler) for scheduler in schedulers]
        self._allocators = [weakref.ref(_device_allocator(manager)) for manager in managers]
        # Released blocks without a hash that were not handed out again yet: those go first.
        self._spare = 0
        self._allotted: dict[int, int] = {}
        """Blocks of each sequence when it was admitted."""

    # --- In the scheduler's thread --------------------------------------------------------------------------------

    def active_and_free(self) -> tuple[int, int]:
        """Blocks that requests hold, and free ones."""
        free = sum(int(allocator.get_num_free_blocks()) for one in self._allocators if (allocator := one()) is not None)
        return (self.blocks - free, free) if self.alive() else (0, 0)

    def standing(self) -> tuple[int, int]:
        """Blocks that requests hold, and spare ones: what a lookup's distances begin with."""
        return self.active_and_free()[0], self._spare

    def sought(self, manager: Any, group: Any, refused: bool) -> None:
        """The scheduler looks whether a request can be admitted: V0 wants room for all of it, cached or not."""
        sequence = group.get_seqs()[0]
        wanted = ceil_div(int(sequence.get_len()), self.block_tokens)
        window = manager.max_block_sliding_window
        self.note_demand(self.active_and_free()[0] + (wanted if window is None else min(wanted, window)))
        if refused:
            self.refused(str(sequence.seq_id))

    def admitted(self, manager: Any, group: Any, before: tuple[int, int]) -> None:
        """A request got its blocks. `before`: from `standing`."""
        sequence = group.get_seqs()[0]
        active, spare = before
        blocks = manager.block_tables[sequence.seq_id].blocks
        hit_tokens = manager._computed_blocks_tracker._seq_id_to_num_tokens_computed.get(sequence.seq_id, 0)
        hit_blocks = int(hit_tokens) // self.block_tokens
        self._allotted[sequence.seq_id] = len(blocks)
        self._spare = max(self._spare - max(len(blocks) - hit_blocks, 0), 0)
        tokens = int(sequence.get_len())
        counted = self.count_admission(str(sequence.seq_id), tokens, int(hit_tokens), looked_up=self.caching)
        if self._estimator is not None and self.caching:
            self._backlog.add(
                0,
                self._estimator.lookup,
                str(sequence.seq_id),
                _hashes(blocks),
                # The last block can hit here, also where it ends the prompt.
                tokens + 1,
                active,
                hit_blocks=hit_blocks,
                spare=spare,
                counted=counted,
            )

    def before_free(self, manager: Any, sequence: Any) -> tuple[list[int], int, int, int] | None:
        """What is lost when a sequence is freed: its hashes and blocks, and what was free and reusable before."""
        table = manager.block_tables.get(sequence.seq_id)
        if table is None:
            self.gone(str(sequence.seq_id))
            return None
        active, free = self.active_and_free()
        self.note_active(active)
        blocks = table.blocks
        return _hashes(blocks) if self.caching else [], len(blocks), free, self.reusable()

    def freed(self, sequence: Any, before: tuple[list[int], int, int, int]) -> None:
        """A sequence's blocks went back to the pool. `before`: from `before_free`."""
        hashes, blocks, free, reusable = before
        name = str(sequence.seq_id)
        self.count_release(name, preempted=not sequence.is_finished())
        released = self.reusable() - reusable
        grown = blocks - self._allotted.pop(sequence.seq_id, blocks)
        self._spare = max(self._spare - grown, 0) + max(self.active_and_free()[1] - free - released, 0)
        if self._estimator is not None and self.caching:
            self._backlog.add(
                len(hashes),
                self._estimator.free,
                name,
                hashes,
                len(hashes) * self.block_tokens,
                released=max(released, 0),
            )

    def reset(self) -> None:
        """The prefix cache was emptied."""
        self._spare = 0
        if self._estimator is not None:
            self._backlog.add(0, self._estimator.reset)

    # --- In any thread --------------------------------------------------------------------------------------------

    def reusable(self) -> int:
        """Cached blocks that no request holds."""
        evictors = [getattr(one(), "evictor", None) for one in self._allocators]
        return sum(int(evictor.num_blocks) for evictor in evictors if evictor is not None)

    def alive(self) -> bool:
        """False once vLLM has dropped the pool."""
        return all(one() is not None for one in self._allocators)

    def floor_blocks(self) -> int:
        """The least number of blocks that vLLM starts with: one request of the longest kind in each pool."""
        config: Any = self.vllm_config
        longest = int(config.model_config.max_model_len)
        return len(self._allocators) * ceil_div(longest, self.block_tokens)

    def report(self) -> dict[str, Any]:
        """Everything as plain values, sizes in bytes."""
        # V0 counts groups that it preempted, also those that it swapped out.
        counts = [getattr(one(), "num_cumulative_preemption", 0) for one in self._schedulers]
        self.preemptions = sum(counts)
        return super().report()


def _device_allocator(manager: Any) -> Any:
    """The allocator of the device's blocks; the other one is that of the swap space."""
    allocators = manager.block_allocator._allocators
    return next(allocator for device, allocator in allocators.items() if device.name == "GPU")


def _hashes(blocks: Sequence[Any]) -> list[int]:
    """The chained hashes of the full blocks; the last one of a sequence may have none yet."""
    return [value for block in blocks if (value := block.content_hash) is not None]
