"""The two vLLM options that size its memory, as people and we write them on a command line."""

from __future__ import annotations

from collections.abc import Sequence

GPU_MEMORY_UTILIZATION = "--gpu-memory-utilization"
KV_CACHE_MEMORY_BYTES = "--kv-cache-memory-bytes"

_SHORTEST = {GPU_MEMORY_UTILIZATION: len("--gp"), KV_CACHE_MEMORY_BYTES: len("--kv-cache-m")}
"""vLLM's parser takes any unambiguous beginning of an option: shorter ones than these are ambiguous in all releases."""

FIRST_VERSION_WITH_KV_BYTES = (0, 10, 2)
"""Before this release `--kv-cache-memory-bytes` is unknown, and an unknown option ends vLLM."""


def sizing_flag(token: str) -> str | None:
    """Which of the two options `token` is (`--flag`, `--flag=value`, underscores, abbreviations), or None."""
    if not token.startswith(("--g", "--k")):
        return None
    option = token.partition("=")[0].replace("_", "-")
    for flag, shortest in _SHORTEST.items():
        if len(option) >= shortest and flag.startswith(option):
            return flag
    return None


def without_sizing_flags(arguments: Sequence[str]) -> list[str]:
    """`arguments` less both options and their values, in whatever form they stand.

    A `--` at the end says nothing, and goes too: some front ends hand on only what follows one, so that the options
    may have come with a `--` of their own.
    """
    kept: list[str] = []
    value_follows = False
    for token in arguments:
        if value_follows:
            value_follows = False
        elif sizing_flag(token):
            value_follows = "=" not in token
        else:
            kept.append(token)
    return kept[:-1] if kept[-1:] == ["--"] else kept


def parse_version(text: str) -> tuple[int, ...] | None:
    """The release numbers at the start of a vLLM version (`0.10.2`, `v0.11.0rc1`, `0.32.0+cpu`), or None."""
    numbers: list[int] = []
    for part in text.removeprefix("v").split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers) or None
