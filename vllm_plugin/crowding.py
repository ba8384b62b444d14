"""What a lookup would find in pools that are too small for the requests that ran at once when it was made.

A pool admits a request only when the whole prompt fits beside what is active. Where `demand`, the active blocks and
those that the prompt adds, is more than the pool has, `demand - pool` of the active blocks cannot be held at the same
time there: the requests run one after the other. Either such a block is freed after the one looked up was, and counts
in its distance as before, or it is freed before, and does not. With nothing known of their order it is half of each:

    hit in a pool of C < demand   when   distance - (demand - C) / 2 <= C,   that is   2 distance - demand <= C

No pool smaller than the prompt serves the request at all, so below that distances stay as they are.
"""

from __future__ import annotations

from vllm_plugin.histogram import ReuseHistogram


def crowded(distance: int, prompt: int, demand: int) -> int:
    """The smallest pool in which a block at this distance hits. All in blocks; `prompt` is all of the prompt's."""
    if distance >= demand or distance <= prompt:
        return distance
    return max(2 * distance - demand, prompt)


def add_crowded_run(histogram: ReuseHistogram, distance: int, blocks: int, prompt: int, demand: int) -> None:
    """`ReuseHistogram.add_run` with the `crowded` values of the distances."""
    if distance >= demand or prompt >= demand:
        histogram.add_run(distance, blocks)
        return
    as_it_is = min(max(prompt - distance + 1, 0), blocks)
    histogram.add_run(distance, as_it_is)
    distance += as_it_is
    blocks -= as_it_is
    with_the_prompt = min(max((prompt + demand) // 2 - distance + 1, 0), blocks)
    histogram.add(prompt, with_the_prompt)
    distance += with_the_prompt
    blocks -= with_the_prompt
    between = min(max(demand - distance, 0), blocks)
    histogram.add_run(2 * distance - demand, between, step=2)
    histogram.add_run(distance + between, blocks - between)
