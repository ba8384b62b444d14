"""vLLM's block pool, written down naively from how it behaves: the estimator is judged against it.

Blocks are pinned while requests hold them; a request's blocks are freed together, tail first; blocks without a hash
are reused first; a hit is the longest cached prefix of full blocks and never covers the last token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    """One block: who holds it and what it caches."""

    holders: int = 0
    hash: Hashable | None = None


@dataclass(eq=False)
class Request:
    """A request while it runs."""

    hashes: list[Hashable]
    tokens: int
    blocks: list[Block] = field(default_factory=list)
    hashed: int = 0


class PoolModel:
    """A pool of `size` usable blocks."""

    def __init__(self, size: int, block_tokens: int) -> None:
        self.size = size
        self.block_tokens = block_tokens
        self.free_queue = OrderedDict.fromkeys(Block() for _ in range(size))
        self.cached: dict[Hashable, list[Block]] = {}
        self.running: dict[str, Request] = {}
        self.spare = 0
        self.hit_blocks = 0

    @property
    def active(self) -> int:
        return self.size - len(self.free_queue)

    def hits(self, hashes: Sequence[Hashable], tokens: int) -> int:
        limit = min(len(hashes), (tokens - 1) // self.block_tokens)
        found = 0
        while found < limit and self.cached.get(hashes[found]):
            found += 1
        return found

    def admit(self, name: str, hashes: Sequence[Hashable], tokens: int) -> int:
        """Look up, take what is cached, allocate the rest; says how many blocks hit."""
        found = self.hits(hashes, tokens)
        request = self.running[name] = Request(list(hashes), tokens)
        for key in hashes[:found]:
            block = self.cached[key][0]
            if block.holders == 0:
                del self.free_queue[block]
            block.holders += 1
            request.blocks.append(block)
        request.hashed = found
        self._fill(request)
        self.hit_blocks += found
        return found

    def extend(self, name: str, hashes: Sequence[Hashable], tokens: int) -> None:
        """The request generated tokens: `hashes` and `tokens` are those of all of it."""
        request = self.running[name]
        request.hashes, request.tokens = list(hashes), tokens
        self._fill(request)

    def free(self, name: str) -> dict[str, int]:
        """Release the request; says how many of its full blocks nobody holds any more (`released`)."""
        request = self.running.pop(name)
        released = 0
        dead = []
        for block in reversed(request.blocks):
            block.holders -= 1
            if block.holders:
                continue
            if block.hash is None:
                dead.append(block)
                self.spare += 1
            else:
                self.free_queue[block] = None
                released += 1
        for block in reversed(dead):
            self.free_queue[block] = None
            self.free_queue.move_to_end(block, last=False)
        return {"released": released}

    def _fill(self, request: Request) -> None:
        while len(request.blocks) * self.block_tokens < request.tokens:
            block, _ = self.free_queue.popitem(last=False)
            if block.hash is not None:
                self.cached[block.hash].remove(block)
                block.hash = None
            block.holders = 1
            request.blocks.append(block)
            self.spare = max(self.spare - 1, 0)
        for index in range(request.hashed, request.tokens // self.block_tokens):
            block = request.blocks[index]
            block.hash = request.hashes[index]
            self.cached.setdefault(block.hash, []).append(block)
            request.hashed = index + 1
