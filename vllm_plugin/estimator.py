"""Reuse distances in vLLM's block pool: which pool size would have made each looked-up block a hit.

Pure bookkeeping without clock or vLLM: the hooks feed it, benchmarks and tests use it as a library. All sizes are in
blocks of one pool; the histogram turns them into bytes.

vLLM pins the blocks of running requests and evicts the others in the order of their last release, whole requests at a
time and the tail of a chain before its head. So for block `j` of a chain that was freed by event `e`

    distance = active + spare + blocks freed after e + blocks of e up to and including j

is the number of usable blocks from which on the lookup hits; it does not depend on the pool's present size.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Optional, Union

from vllm_plugin.histogram import ReuseHistogram
from vllm_plugin.stack import Event, FreeStack

_Owner = Union[int, Event]
"""What the table knows of a block: how many running requests hold it, or the event that freed it."""
_Run = tuple[Optional[Event], int]
"""A stretch of a chain with one owner (None: running requests), and the index at which it ends."""

_DENSE = 8
_WIDEST_GAP = 32
_REMEMBERED_BLOCKS = 1 << 20
"""So many blocks of settled gaps, then the older half fades: prompts change."""
_MAX_KEYS = 65_536
_FORGOTTEN = Event(0, 0)
"""Stands for blocks that the real pool still has, but the table does not know."""


def sampled(hashes: Sequence[Hashable], blocks: int) -> list[Hashable]:
    """The hashes of a chain's first `blocks` blocks by which the estimator knows it.

    All of the first 8, then every 8th, 16th and 32nd. A chained hash fixes its position, so two requests that share
    a prefix sample the same blocks of it.
    """
    if blocks <= _DENSE:
        return list(hashes[:blocks])
    return [
        *hashes[:_DENSE],
        *hashes[15 : min(blocks, 32) : 8],
        *hashes[47 : min(blocks, 64) : 16],
        *hashes[95:blocks:32],
    ]


def position(sample: int) -> int:
    """Index in the chain of the given sample."""
    if sample < _DENSE:
        return sample
    if sample < 11:
        return 15 + 8 * (sample - 8)
    if sample < 13:
        return 47 + 16 * (sample - 11)
    return 95 + 32 * (sample - 13)


class ReuseEstimator:
    """One pool's reuse histogram, from the requests' first lookups and releases alone.

    Only samples of a chain are remembered, but distances and weights are those of whole stretches: an event knows
    which blocks it covers, so nothing is scaled up from a sample. What samples cannot tell is where between two of
    them two chains part. What the observed pool hit settles that; where it had evicted, the share of a gap that
    settled ones had in common is assumed. That is not half: prompts are built of parts, and gaps behind them are long.
    """

    def __init__(
        self,
        *,
        block_bytes: int,
        block_tokens: int,
        pool_blocks: int,
        depth: float = 4.0,
        slots: int = 4096,
    ) -> None:
        """`pool_blocks`: today's pool; what lies deeper than `depth` times that is forgotten.

        With more than 65,536 samples everything deeper than the pool goes. What lies within it is always known, so
        that memory grows with the pool: at worst (no chain longer than 8 blocks) by one sample a block.
        """
        self.block_tokens = block_tokens
        self.histogram = ReuseHistogram(block_bytes)
        self._usable_blocks = pool_blocks - 1
        self._depth_blocks = max(int(depth * pool_blocks), 1)
        self._max_keys = _MAX_KEYS
        self._stack = FreeStack(slots)
        self._table: dict[Hashable, _Owner] = {}
        self._held: dict[str, list[Hashable]] = {}
        # Blocks in common, and in all, of gaps that were settled; to begin with, one gap of which half is.
        self._settled_common = _WIDEST_GAP // 2
        self._settled_blocks = _WIDEST_GAP

    def lookup(
        self,
        request_id: str,
        hashes: Sequence[Hashable],
        tokens: int,
        active: int,
        *,
        hit_blocks: int,
        spare: int = 0,
        counted: bool = True,
    ) -> None:
        """A request is admitted: count what its lookup would find at any pool size, and pin its blocks.

        `hashes`: chained hashes of its full blocks. `tokens`: its length. `active`: blocks that other requests hold.
        `hit_blocks`: leading blocks that the observed pool had. `spare`: dead blocks (without a hash) that were
        released and not reused yet: they lie before every cached one in the eviction order. `counted`: False for the
        repeated lookup of a preempted request.
        """
        if request_id in self._held:
            self.free(request_id, hashes, 0, released=0)
        full = min(len(hashes), tokens // self.block_tokens)
        # vLLM computes the last token anew, so a block that ends the prompt cannot hit.
        limit = min(full, (tokens - 1) // self.block_tokens)
        if full <= 0:
            self._held[request_id] = []
            return
        table = self._table
        keys = sampled(hashes, full)
        owners = list(map(table.get, keys))
        done = taken = 0
        for event, end in self._runs(hashes, keys, owners, full, hit_blocks, active + spare):
            stop = min(end, limit)
            if event is None:
                if counted and stop > done:
                    self.histogram.add(active, stop - done)
            elif event is _FORGOTTEN:
                if counted and stop > done:
                    # Below all that is known, but the real pool had it.
                    depth = active + spare + taken + self._stack.total + stop - done
                    self.histogram.add(min(depth, self._usable_blocks), stop - done)
            elif stop > done:
                distance = active + spare + taken + self._stack.newer(event) + 1 + max(done - event.start, 0)
                if counted:
                    self._count(distance, stop - done, hit_blocks - done)
                taken += self._take(event, stop)
            done = max(done, stop)
        if counted and limit > done:
            self.histogram.add_unseen(limit - done)
        self._held[request_id] = keys
        self._pin(keys, owners)

    def free(
        self,
        request_id: str,
        hashes: Sequence[Hashable],
        computed_tokens: int,
        *,
        released: int | None = None,
    ) -> None:
        """A request ends or is preempted: its blocks with a hash go on top of the stack.

        `computed_tokens`: tokens whose KV was computed. `released`: full blocks that no other request holds, counted
        by the pool; estimated from the samples if None.
        """
        held = self._held.pop(request_id, [])
        full = max(min(len(hashes), computed_tokens // self.block_tokens), 0)
        keys = sampled(hashes, full)
        if len(held) > len(keys):
            # Preempted before all of its prompt was computed.
            for key in held[len(keys) :]:
                self._unpin(key)
        event = Event(0, full)
        shared = self._release(keys, min(len(held), len(keys)), event)
        if full > 0 and (not keys or position(len(keys) - 1) != full - 1):
            # The chain's last block is known too: a longer chain then shows whether it goes on from here.
            tail = hashes[full - 1]
            if self._table.get(tail).__class__ is not int:
                self._table[tail] = event
                event.keys.append(tail)
        event.start = self._start(full, shared, len(keys)) if released is None else max(full - released, 0)
        if full > 0:
            self._stack.push(event)
            self._forget()

    def reset(self) -> None:
        """The pool's cache was emptied (`reset_prefix_cache`); vLLM does that only while no request holds a block."""
        self._stack.clear()
        self._table.clear()
        self._held.clear()

    def _count(self, distance: int, blocks: int, hits: int) -> None:
        """Count a stretch, of which the observed pool had the first `hits` blocks: that much is certain."""
        histogram = self.histogram
        usable = self._usable_blocks
        if (hits >= blocks and distance + blocks - 1 <= usable) or (hits <= 0 and distance > usable):
            histogram.add_run(distance, blocks)
            return
        hits = min(max(hits, 0), blocks)
        inside = min(hits, max(usable - distance + 1, 0))
        histogram.add_run(distance, inside)
        histogram.add(usable, hits - inside)
        distance += hits
        blocks -= hits
        beyond = min(blocks, max(usable - distance + 1, 0))
        histogram.add(usable + 1, beyond)
        histogram.add_run(distance + beyond, blocks - beyond)

    def _runs(
        self,
        hashes: Sequence[Hashable],
        keys: list[Hashable],
        owners: Sequence[_Owner | None],
        full: int,
        hit_blocks: int,
        base: int,
    ) -> list[_Run]:
        """The known part of a chain as stretches of one owner each, from its head on."""
        runs: list[_Run] = []
        count = len(keys)
        sample = 0
        while sample < count:
            owner = owners[sample]
            if owner is None:
                break
            pinned = owner.__class__ is int
            event: Event | None = None if pinned else owner  # type: ignore[assignment]
            sample += 1
            while sample < count and (owners[sample].__class__ is int if pinned else owners[sample] is owner):
                sample += 1
            low = position(sample - 1) + 1
            high = position(sample) if sample < count else full
            following = owners[sample] if sample < count else None
            if pinned and hit_blocks < low:
                # Held, but not computed yet: a miss whatever the pool's size, and so is all that follows.
                runs.append((None, hit_blocks))
                return runs
            if following.__class__ is Event:
                runs.append((event, min(max(following.start, low), high)))
            elif following is None:
                self._end(runs, hashes, event, low, high, hit_blocks, base)
            else:
                runs.append((event, high))
        if hit_blocks > (runs[-1][1] if runs else 0):
            # The real pool has more than was seen here. A running request has generated it since if the known part
            # is held to its end.
            runs.append((None if runs and runs[-1][0] is None else _FORGOTTEN, hit_blocks))
        return runs

    def _end(
        self,
        runs: list[_Run],
        hashes: Sequence[Hashable],
        event: Event | None,
        low: int,
        high: int,
        hit_blocks: int,
        base: int,
    ) -> None:
        """Close the last known stretch, whose end lies between two samples: from `low` up to `high`."""
        first = low
        closed = event is not None and low <= event.end <= high and hashes[event.end - 1] == event.keys[-1]
        hit = min(hit_blocks, high)
        if event is not None and closed:
            runs.append((event, event.end))
            low = event.end
        elif hit >= low and not self._evicted(event, hit, base):
            other = self._table.get(hashes[hit - 1])
            if other.__class__ is Event and other is not event:
                runs.append((event, min(max(other.start, low), hit)))
                event = other
            runs.append((event, hit))
            self._settle(hit - first, high - first)
            return
        low = max(low, hit)
        for index in range(high - 1, low - 1, -1):
            other = self._table.get(hashes[index])
            if other.__class__ is Event and other is not event:
                # Another chain ends in this gap, and this one has it all.
                if not closed:
                    runs.append((event, min(max(other.start, low), index + 1)))
                runs.append((other, index + 1))
                return
        if not closed:
            common = self._settled_common / self._settled_blocks
            end = max(low, first + round(common * (high - first)))
            runs.append((event, end if event is None else min(end, max(event.end, low))))

    def _settle(self, common: int, blocks: int) -> None:
        """The real pool has shown how many `blocks` of a gap two chains have in common."""
        self._settled_common += common
        self._settled_blocks += blocks
        if self._settled_blocks > _REMEMBERED_BLOCKS:
            self._settled_common //= 2
            self._settled_blocks //= 2

    def _evicted(self, event: Event | None, index: int, base: int) -> bool:
        """Whether today's pool had to drop this block of the event, so that its absence says nothing."""
        return event is not None and base + self._stack.newer(event) + 1 + index - event.start > self._usable_blocks

    def _take(self, event: Event, stop: int) -> int:
        taken = self._stack.take(event, stop)
        if event.start >= event.end and event.keys and self._table.get(event.keys[-1]) is event:
            del self._table[event.keys[-1]]
        return taken

    def _pin(self, keys: list[Hashable], owners: Sequence[_Owner | None]) -> None:
        table = self._table
        table.update(dict.fromkeys(keys, 1))
        for key, owner in zip(keys, owners):
            if owner.__class__ is int:
                table[key] = owner + 1

    def _release(self, keys: list[Hashable], pinned: int, event: Event) -> int:
        """Give the samples to the event, but for those that others hold; says where the last of these ends.

        The request was one of the holders of its first `pinned` samples.
        """
        table = self._table
        owners = list(map(table.get, keys))
        shared = 0
        for owner in owners[:pinned]:
            if owner == 1 or owner.__class__ is not int:
                break
            table[keys[shared]] = owner - 1
            shared += 1
        if owners.count(1) == pinned - shared and len(owners) - owners.count(None) == pinned:
            # As nearly always: nobody holds the rest, and what was generated is new.
            event.keys = keys[shared:]
            table.update(dict.fromkeys(event.keys, event))
            return shared
        for sample in range(shared, len(keys)):
            owner = owners[sample]
            if owner.__class__ is int and (sample >= pinned or owner != 1):
                shared = sample + 1
                if sample < pinned:
                    table[keys[sample]] = owner - 1
            else:
                table[keys[sample]] = event
                event.keys.append(keys[sample])
        return shared

    def _unpin(self, key: Hashable) -> None:
        owner = self._table.get(key)
        if owner.__class__ is int:
            if owner > 1:
                self._table[key] = owner - 1
            else:
                del self._table[key]

    @staticmethod
    def _start(full: int, shared: int, count: int) -> int:
        """Where the freed part of a chain begins, when `shared` of its `count` samples are still held."""
        if shared == 0:
            return 0
        if shared == count:
            return full
        low = position(shared - 1) + 1
        return (low + position(shared) + 1) // 2 if position(shared) > low else low

    def _forget(self) -> None:
        stack = self._stack
        table = self._table
        while stack:
            depth = stack.total - stack.oldest_blocks()
            if depth <= self._usable_blocks or (depth <= self._depth_blocks and len(table) <= _MAX_KEYS):
                break
            event = stack.drop_oldest()
            for key in event.keys:
                if table.get(key) is event:
                    del table[key]
        if len(table) > self._max_keys:
            self._sweep()

    def _sweep(self) -> None:
        """Samples of events that became empty otherwise than by a lookup stay behind; remove them if they are many."""
        table = self._table
        known = self._stack.total + sum(map(len, self._held.values()))
        if len(table) > known + _MAX_KEYS:
            self._table = table = {
                key: owner
                for key, owner in table.items()
                if owner.__class__ is int or owner.start < owner.end  # type: ignore[union-attr]
            }
        self._max_keys = max(_MAX_KEYS, len(table) * 17 // 16)
