"""Reuse distances in vLLM's block pool: which pool size would have made each looked-up block a hit.

Pure bookkeeping without clock or vLLM: the hooks feed it, benchmarks and tests use it as a library. All sizes are in
blocks of one pool; the histogram turns them into bytes.

vLLM pins the blocks of running requests and evicts the others in the order of their last release, whole requests at a
time and the tail of a chain before its head. So for block `j` of a chain that was freed by event `e`

    distance = active + spare + blocks freed after e + blocks of e up to and including j

is the number of usable blocks from which on the lookup hits; it does not depend on the pool's present size. What a
chain takes where a model has several cache groups is said in `layout`. Only a pool that could not hold what was active
and the prompt besides would have run its requests in another order: see `crowding`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import repeat

from vllm_plugin.crowding import add_crowded_run, crowded
from vllm_plugin.histogram import ReuseHistogram
from vllm_plugin.layout import PLAIN, Layout
from vllm_plugin.parting import FORGOTTEN, Owner, Parting, Stretch
from vllm_plugin.sampling import position, sampled, samples_in
from vllm_plugin.stack import Event, FreeStack
from vllm_plugin.windows import Windows

_FEW_KEYS = 5376
"""So many samples, about 0.6 MB, are kept however deep they lie: a pool that was made small then still knows what the
larger one had."""
_MAX_KEYS = 65_536
"""So many are kept of what lies within `depth` times the pool."""


class ReuseEstimator:
    """One pool's reuse histogram, from the requests' first lookups and releases alone.

    Only samples of a chain are remembered, but distances and weights are those of whole stretches: an event knows
    which blocks it covers, so nothing is scaled up from a sample. What samples cannot tell is where between two of
    them two chains part: see `parting`.
    """

    def __init__(
        self,
        *,
        block_bytes: int,
        block_tokens: int,
        pool_blocks: int,
        layout: Layout = PLAIN,
        depth: float = 4.0,
        slots: int = 4096,
    ) -> None:
        """`pool_blocks`: today's pool; what lies deeper than `depth` times that is forgotten from 5,376 samples on.

        With more than 65,536 samples everything deeper than the pool goes. What lies within it is always known, so
        that memory grows with the pool: at worst (no chain longer than 4 blocks) by one sample a block.
        """
        self.block_tokens = block_tokens
        self.histogram = ReuseHistogram(block_bytes)
        self._usable_blocks = pool_blocks - 1
        self._depth_blocks = max(int(depth * pool_blocks), 1)
        self._layout = layout
        self._stack = FreeStack(slots, layout.chains)
        self._table: dict[int, Owner] = {}
        self._held: dict[str, list[int]] = {}
        self._windows = Windows(layout, self._stack) if layout.windows else None
        self._parting = Parting(self._table, self._stack, self._windows, self._usable_blocks)

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
        keys = self._held[request_id] = sampled(hashes, full)
        owners = list(map(self._table.get, keys))
        if owners[0] is None and hit_blocks <= 0:
            # Never seen, as at least the first request of each chat.
            self._table.update(zip(keys, repeat(1)))
            if counted:
                self.histogram.add_unseen(limit)
            return
        stretches = self._parting.stretches(hashes, keys, owners, full, hit_blocks, active + spare)
        if counted:
            self._count(stretches, tokens, limit, hit_blocks, active, spare)
        if self._windows is not None and stretches:
            self._windows.begin(request_id, min(stretches[-1][1], limit), stretches[-1][0])
        self._take(stretches, limit, owners)
        self._pin(keys, owners)

    def free(
        self,
        request_id: str,
        hashes: Sequence[Hashable],
        computed_tokens: int,
        *,
        released: int | None = None,
        weight: int | None = None,
        passed: int = 0,
    ) -> None:
        """A request ends or is preempted: its blocks with a hash go on top of the stack.

        `computed_tokens`: tokens whose KV was computed. `released`: full blocks that no other request holds, counted
        by the pool; estimated from the samples if None. `weight`: what went back in all, those of windows included;
        `passed`: what windows had released before.
        """
        held = self._held.pop(request_id, None) or []
        full = min(len(hashes), max(computed_tokens, 0) // self.block_tokens)
        if held and samples_in(full) == len(held):
            # What it generated added no sample.
            keys = held
        else:
            keys = sampled(hashes, full)
            # Preempted before all of its prompt was computed.
            for key in held[len(keys) :]:
                self._unpin(key)
        event = Event(0, full)
        if self._windows is not None:
            self._windows.end(request_id, event, passed)
        shared = self._release(keys, min(len(held), len(keys)), event)
        if full > 0 and (not keys or position(len(keys) - 1) != full - 1):
            # The chain's last block is known too: a longer chain then shows whether it goes on from here.
            tail = hash(hashes[full - 1])
            if self._table.get(tail).__class__ is not int:
                self._table[tail] = event
                event.keys.append(tail)
        event.start = self._start(full, shared, len(keys)) if released is None else max(full - released, 0)
        if event.start < full:
            event.weight = self._layout.blocks(full, full - event.start) if weight is None else weight
            self._stack.push(event)
            self._forget()
        else:
            self._lose(event)

    def bury(self, blocks: int) -> None:
        """So many dead blocks went on top: releases that evict them in their turn, not before all others."""
        if blocks > 0:
            self._stack.push(Event(0, blocks))

    def reset(self) -> None:
        """The pool's cache was emptied (`reset_prefix_cache`); vLLM does that only while no request holds a block."""
        self._stack.clear()
        self._table.clear()
        self._held.clear()
        if self._windows is not None:
            self._windows.clear()

    def _count(
        self,
        stretches: Sequence[Stretch],
        tokens: int,
        limit: int,
        hit_blocks: int,
        active: int,
        spare: int,
    ) -> None:
        """Put the first `limit` blocks of a chain into the histogram."""
        histogram = self.histogram
        layout = self._layout
        before = active + spare
        prompt = -(-tokens // self.block_tokens)
        prompt = layout.blocks(prompt, prompt)
        pinned = stretches[0][1] * layout.chains if stretches and stretches[0][0] is None else 0
        # It was admitted, so there was room for it.
        demand = min(active + prompt - pinned, self._usable_blocks)
        done = 0
        for event, end in stretches:
            stop = min(limit, end)
            if stop <= done:
                continue
            if event is None:
                histogram.add(crowded(active, prompt, demand), stop - done)
            elif event is FORGOTTEN:
                # Below all that is known, but the real pool had it.
                depth = before + self._stack.total + stop - done
                histogram.add(min(depth, self._usable_blocks), stop - done)
            else:
                whole = self._windows.depth(event, stop) if self._windows is not None else None
                if whole is None:
                    distance = before + self._stack.depth(event, max(done, event.start))
                    self._count_run(distance, stop - done, hit_blocks - done, prompt, demand)
                else:
                    self._count_whole(before + whole, stop - done, hit_blocks - done)
            done = stop
        if limit > done:
            histogram.add_unseen(limit - done)

    def _count_run(self, distance: int, blocks: int, hits: int, prompt: int, demand: int) -> None:
        """Count a stretch, of which the observed pool had the first `hits` blocks: that much is certain."""
        histogram = self.histogram
        usable = self._usable_blocks
        if (hits >= blocks and distance + blocks - 1 <= usable) or (hits <= 0 and distance > usable):
            add_crowded_run(histogram, distance, blocks, prompt, demand)
            return
        hits = min(max(hits, 0), blocks)
        inside = min(hits, max(usable - distance + 1, 0))
        add_crowded_run(histogram, distance, inside, prompt, demand)
        histogram.add(usable, hits - inside)
        distance += hits
        blocks -= hits
        beyond = min(blocks, max(usable - distance + 1, 0))
        histogram.add(usable + 1, beyond)
        histogram.add_run(distance + beyond, blocks - beyond)

    def _count_whole(self, distance: int, blocks: int, hits: int) -> None:
        """Count a stretch that is found as a whole or not at all, for a window had passed over a part of it.

        Of it the observed pool had the first `hits` blocks. Where it should have had more, vLLM had not kept the
        window's blocks at that point, and no pool would have had them: newer releases keep those that a prompt ended
        with, or at which two had parted before.
        """
        hits = min(max(hits, 0), blocks)
        self.histogram.add(min(distance, self._usable_blocks), hits)
        if distance <= self._usable_blocks:
            self.histogram.add_unseen(blocks - hits)
        else:
            self.histogram.add(distance, blocks - hits)

    def _take(self, stretches: Sequence[Stretch], limit: int, owners: Sequence[Owner | None]) -> None:
        """The first `limit` blocks of a chain leave their events: its request holds them, and stands for them."""
        done = 0
        for event, end in stretches:
            stop = min(limit, end)
            if stop <= done:
                continue
            done = stop
            if event is None or event is FORGOTTEN:
                continue
            if self._windows is not None and stop < event.end:
                self._windows.take(event, stop)
            self._stack.take(event, stop)
            if event.start < event.end:
                del event.keys[: owners.count(event)]
            else:
                # All of its samples are the request's now, but its last block need not be one.
                if event.keys and self._table.get(event.keys[-1]) is event:
                    del self._table[event.keys[-1]]
                event.keys.clear()

    def _pin(self, keys: list[int], owners: Sequence[Owner | None]) -> None:
        table = self._table
        table.update(zip(keys, repeat(1)))
        # Who holds a block holds all before it.
        for key, owner in zip(keys, owners):
            if owner.__class__ is not int:
                break
            table[key] = owner + 1

    def _release(self, keys: list[int], pinned: int, event: Event) -> int:
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
            table.update(zip(event.keys, repeat(event)))
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

    def _unpin(self, key: int) -> None:
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
        while (depth := stack.oldest_depth()) > self._usable_blocks:
            most = _MAX_KEYS if depth <= self._depth_blocks else _FEW_KEYS
            if len(self._table) <= most:
                break
            self._lose(stack.drop_oldest())

    def _lose(self, event: Event) -> None:
        """The event is gone, and with it the samples that still stand for it."""
        table = self._table
        keys = event.keys
        owners = list(map(table.pop, keys, repeat(None)))
        if owners.count(event) < len(owners):
            # The others are somebody else's by now.
            table.update((key, owner) for key, owner in zip(keys, owners) if owner is not None and owner is not event)
        # Where windows are, the events of those who went on from this one still know it.
        keys.clear()
        event.past = None
