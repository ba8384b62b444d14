"""Options that were meant to be one of vLLM's sizes, and that vLLM does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from recommender.api.sizing_flags import GPU_MEMORY_UTILIZATION, KV_CACHE_MEMORY_BYTES
from webhook.argv import NUM_GPU_BLOCKS_OVERRIDE

_MEANT = (GPU_MEMORY_UTILIZATION, KV_CACHE_MEMORY_BYTES, NUM_GPU_BLOCKS_OVERRIDE)
_CLOSE = 0.87
"""Likeness by difflib. None of vLLM's other options comes nearer to one of the three than 0.75."""
_FARTHEST = 4
"""Letters that a misspelt option may have too many or too few."""
_MOST_ITEMS = 1000
_MOST_OPTIONS = 200
"""List items that are looked at, and different options that are compared: one that was never seen costs 0.1 ms."""
_MOST_REMEMBERED = 2048
"""Comparisons whose outcome is kept. Pods speak of the same options again and again."""
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212-"
_OPTION = re.compile(rf"(?<![\w{_DASHES}])[{_DASHES}]{{1,2}}[A-Za-z][\w-]*")
_TWO_IN_ONE = re.compile(r"^(--[A-Za-z][\w-]*)\s+\S")


def misspelt(tokens: Sequence[str]) -> list[str]:
    """A sentence for each option in `tokens` (list items, or pieces of a shell string) that vLLM will refuse."""
    found: list[str] = []
    seen: set[str] = set()
    for token in tokens[:_MOST_ITEMS]:
        joined = _TWO_IN_ONE.match(token)
        if joined is not None:
            # Its value may be a secret, and the sentence is shown and logged wherever pods are made.
            found.append(f"one item holds {joined[1]} and its value: write two items, or {joined[1]}=…")
            continue
        for piece in _options(token):
            if piece in seen:
                continue
            seen.add(piece)
            if len(seen) > _MOST_OPTIONS:
                return list(dict.fromkeys(found))
            meant = _meant_by(piece)
            if meant is not None:
                found.append(f"{piece} is no option of vLLM's: {meant} is")
    return list(dict.fromkeys(found))


def _options(token: str) -> Iterator[str]:
    if token[:1] in tuple(_DASHES):
        yield token.partition("=")[0]
    else:
        yield from (match[0] for match in _OPTION.finditer(token))


def _meant_by(written: str) -> str | None:
    name = "--" + written.lstrip(_DASHES).replace("_", "-")
    dashes = written[: len(written) - len(written.lstrip(_DASHES))]
    for option in _MEANT:
        if option.startswith(name):
            # An abbreviation, which vLLM takes; with other dashes than two plain ones it is none.
            return option if dashes != "--" and name == option else None
        if abs(len(name) - len(option)) <= _FARTHEST and _alike(name, option):
            return option
    return None


@lru_cache(_MOST_REMEMBERED)
def _alike(name: str, option: str) -> bool:
    """Only names of about the length of one of vLLM's come here, so that what is remembered stays small."""
    matcher = SequenceMatcher(None, name, option)
    # The first is never below the second, and cheap.
    return matcher.quick_ratio() >= _CLOSE and matcher.ratio() >= _CLOSE
