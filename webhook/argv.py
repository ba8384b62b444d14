"""How an argument list is rewritten: the sizing flags go last, where vLLM's parser lets them win over everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recommender.api.sizing_flags import GPU_MEMORY_UTILIZATION, KV_CACHE_MEMORY_BYTES, sizing_flag

NUM_GPU_BLOCKS_OVERRIDE = "--num-gpu-blocks-override"
_SHORTEST_BLOCKS_OVERRIDE = len("--num-g")
TERMINATOR = "--"
_OPTION_IN_TEXT = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Arguments:
    """A container's `command` and `args`, as two lists."""

    command: tuple[str, ...]
    args: tuple[str, ...]

    @property
    def vector(self) -> tuple[str, ...]:
        """What exec gets. Where there is no command, the image's entrypoint stands before it."""
        return self.command + self.args


def sizing_flags(kv_bytes: int | None, utilization: str | None) -> tuple[str, ...]:
    """The tokens that set the two sizes, each in one piece: `--flag=value` is read the same wherever it stands, also
    after an option that takes any number of values, and never as the model.
    """
    flags = []
    if utilization is not None:
        flags.append(f"{GPU_MEMORY_UTILIZATION}={utilization}")
    if kv_bytes is not None:
        flags.append(f"{KV_CACHE_MEMORY_BYTES}={kv_bytes}")
    return tuple(flags)


def rewrite(
    arguments: Arguments,
    start: int,
    flags: Sequence[str],
    previous: Sequence[str] = (),
    *,
    behind_separator: bool = False,
) -> Arguments:
    """`arguments` with `flags` last among vLLM's own, which begin at `start` of the vector.

    `previous`: what an earlier pass appended; it is replaced. Doing it again changes nothing.

    Last means before a `--`: what follows that is no option any more; or after it, where `behind_separator` says that
    the engine reads only that. New tokens go to `args`, also where only
    `command` is set: Kubernetes then runs both in a row, and the image's own CMD is out of play already.
    """
    command, args = list(arguments.command), list(arguments.args)
    end = _end(arguments.vector, start, behind_separator)
    if tuple(previous) != tuple(flags) or not _ends_with(arguments.vector, start, end, flags):
        # Somebody may have added to the list since then: what we wrote is not always last.
        _take_out(command, args, start, end, previous)
        end = _end((*command, *args), start, behind_separator)
    if _ends_with((*command, *args), start, end, flags):
        return Arguments(tuple(command), tuple(args))
    if end < len(command):
        # The `--` stands in the command, so the flags have to go there too.
        command[end:end] = flags
    else:
        args[end - len(command) : end - len(command)] = flags
    return Arguments(tuple(command), tuple(args))


def _end(vector: Sequence[str], start: int, behind_separator: bool) -> int:
    """Where vLLM's options end."""
    if behind_separator:
        return len(vector)
    return next((at for at in range(start, len(vector)) if vector[at] == TERMINATOR), len(vector))


def _ends_with(vector: Sequence[str], start: int, end: int, flags: Sequence[str]) -> bool:
    begin = end - len(flags)
    return begin >= start and tuple(vector[begin:end]) == tuple(flags)


def _take_out(command: list[str], args: list[str], start: int, end: int, previous: Sequence[str]) -> None:
    """Take the last of each of `previous` out of the two lists, between `start` and `end` of the vector."""
    for flag in reversed(previous):
        vector = [*command, *args]
        at = next((at for at in range(min(end, len(vector)) - 1, start - 1, -1) if vector[at] == flag), None)
        if at is None or (flag == TERMINATOR and at < len(vector) - 1):
            continue
        if at < len(command):
            del command[at]
        else:
            del args[at - len(command)]
        end -= 1


def explicit_kv_option(tokens: Sequence[str]) -> str | None:
    """The first option by which the user fixed the KV cache in `tokens` (a list, or pieces of a shell string), as it
    is spelt in full; None where there is none.
    """
    for token in tokens:
        for option in _OPTION_IN_TEXT.findall(token) if not token.startswith("--") else (token,):
            if sizing_flag(option) == KV_CACHE_MEMORY_BYTES:
                return KV_CACHE_MEMORY_BYTES
            name = option.partition("=")[0].replace("_", "-")
            if len(name) >= _SHORTEST_BLOCKS_OVERRIDE and NUM_GPU_BLOCKS_OVERRIDE.startswith(name):
                return NUM_GPU_BLOCKS_OVERRIDE
    return None


def without(tokens: Sequence[str], flags: Sequence[str]) -> list[str]:
    """`tokens` less the last occurrence of each of `flags`; of a `--` only where nothing stands behind it."""
    kept = list(tokens)
    for flag in reversed(flags):
        at = next((at for at in range(len(kept) - 1, -1, -1) if kept[at] == flag), None)
        if at is not None and (flag != TERMINATOR or at == len(kept) - 1):
            del kept[at]
    return kept
