"""A pool that several KV cache groups share, some with sliding windows, written down naively from how it behaves.

A group with full attention keeps each block of a request. One with a window keeps the last ones, and releases a block
as soon as the window has passed it. A hit is the longest prefix of which every full group has all, and every window
its last blocks. At its end a request's blocks are released group by group, tail first; those without a hash go first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from vllm_plugin.layout import Layout

from .poolmodel import Block


@dataclass(eq=False)
class Request:
    """A request while it runs: by group its blocks, None for those that its window has passed."""

    blocks: list[list[Block | None]]
    hashes: list[Hashable] = field(default_factory=list)
    full: int = 0
    passed: int = 0
    """Blocks that its windows have released so far."""


class WindowModel:
    """A pool of `size` usable blocks."""

    def __init__(self, size: int, block_tokens: int, layout: Layout) -> None:
        self.size = size
        self.block_tokens = block_tokens
        self.chains = layout.chains
        self.windows = [0] * layout.chains + list(layout.windows)
        """By group; 0 for full attention."""
        self.free_queue: list[Block] = [Block() for _ in range(size)]
        self.cached: dict[Hashable, list[Block]] = {}
        self.running: dict[str, Request] = {}
        self.spare = 0
        self.hit_blocks = 0

    @property
    def active(self) -> int:
        return self.size - len(self.free_queue)

    @property
    def reusable(self) -> int:
        return sum(block.hash is not None for block in self.free_queue)

    def hits(self, hashes: Sequence[Hashable], tokens: int) -> int:
        for length in range(min(len(hashes), (tokens - 1) // self.block_tokens), 0, -1):
            needed = (
                (group, hashes[index])
                for group, window in enumerate(self.windows)
                for index in range(max(length - window, 0) if window else 0, length)
            )
            if all(self.cached.get(key) for key in needed):
                return length
        return 0

    def admit(self, name: str, hashes: Sequence[Hashable], tokens: int) -> int:
        """Look up, take what is cached, allocate the rest; says how many blocks hit."""
        found = self.hits(hashes, tokens)
        request = self.running[name] = Request([[] for _ in self.windows], full=found)
        for group, window in enumerate(self.windows):
            for index in range(found):
                if window and index < found - window:
                    request.blocks[group].append(None)
                    continue
                block = self.cached[group, hashes[index]][0]
                if block.holders == 0:
                    self.free_queue.remove(block)
                block.holders += 1
                request.blocks[group].append(block)
        self.extend(name, hashes, tokens)
        self.hit_blocks += found
        return found

    def extend(self, name: str, hashes: Sequence[Hashable], tokens: int) -> None:
        """The request computes tokens, block by block: `hashes` and `tokens` are those of all of it."""
        request = self.running[name]
        request.hashes = list(hashes)
        for index in range(request.full, -(-tokens // self.block_tokens)):
            for blocks in request.blocks:
                if len(blocks) == index:
                    blocks.append(self._new_block())
            if index < tokens // self.block_tokens:
                self._fill(request, index)

    def _new_block(self) -> Block:
        block = self.free_queue.pop(0)
        if block.hash is None:
            self.spare = max(self.spare - 1, 0)
        else:
            self.cached[block.hash].remove(block)
            block.hash = None
        block.holders = 1
        return block

    def _fill(self, request: Request, index: int) -> None:
        """The block at this index is full in all groups: it gets its hash, and windows move on."""
        request.full = index + 1
        for group, (blocks, window) in enumerate(zip(request.blocks, self.windows, strict=True)):
            block = blocks[index]
            assert block is not None
            block.hash = (group, request.hashes[index])
            self.cached.setdefault(block.hash, []).append(block)
            gone = index - window
            if window and gone >= 0 and (old := blocks[gone]) is not None:
                blocks[gone] = None
                request.passed += 1
                self._release([old])

    def _release(self, blocks: Sequence[Block]) -> int:
        """In this order; says how many with a hash nobody holds any more."""
        released = 0
        for block in blocks:
            block.holders -= 1
            if block.holders:
                continue
            if block.hash is None:
                self.free_queue.insert(0, block)
                self.spare += 1
            else:
                self.free_queue.append(block)
                released += 1
        return released

    def free(self, name: str) -> dict[str, int]:
        """Release the request; says how many of its blocks nobody holds any more.

        `released`: of its chain in each full group, all where there is none. `weight`: in all groups. `passed`: what
        windows had released before.
        """
        request = self.running.pop(name)
        weight = in_windows = 0
        for blocks, window in zip(request.blocks, self.windows, strict=True):
            held = [block for block in blocks if block is not None]
            in_windows += sum(block.hash is not None for block in held) if window else 0
            weight += self._release(held[::-1])
        whole = max(weight - in_windows, 0) // self.chains if self.chains else request.full
        return {"released": whole, "weight": weight, "passed": request.passed}
