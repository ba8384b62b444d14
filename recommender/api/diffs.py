"""What a size changes in a container, line by line: alike in a dry run's warning and in a recommendation's status."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sizing_flags import sizing_flag


def size_diff(
    arguments: Sequence[str],
    flags: Sequence[str],
    environment: Sequence[tuple[str, str]] = (),
    shares: Sequence[str] = (),
) -> list[str]:
    """Lines with `-` for the author's own sizing options in `arguments`, which do not hold any more, and with `+` for
    what takes their place: `flags` behind the arguments, variables, and `shares` in the GPU scheduler's words.

    `arguments` are those that the author wrote: of a pod that was changed, those of its annotation `original-args`.
    """
    lines: list[str] = []
    at = 0
    while at < len(arguments):
        token = arguments[at]
        at += 1
        if sizing_flag(token) is None or token in flags:
            continue
        if "=" not in token and at < len(arguments):
            token, at = f"{token} {arguments[at]}", at + 1
        lines.append(f"- {token}")
    lines += [f"+ {flag}" for flag in flags]
    lines += [f"+ {name}={value}" for name, value in environment]
    return lines + [f"+ {share}" for share in shares]
