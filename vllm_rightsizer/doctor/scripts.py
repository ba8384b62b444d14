"""Which variables does a container's command line set anew for the vLLM that it starts? Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile

from vllm_rightsizer.doctor.facts import Raw
from webhook.detection import variable
from webhook.shells import simple_commands

_EXPORTS = frozenset(("export", "declare", "typeset"))
_PREFACE = _EXPORTS | {"env", "/usr/bin/env", "exec", "command", "time", "if", "then", "else", "do", "{", "!"}
"""What may stand before an assignment, beside options."""
_VLLM = re.compile(r"(^|[\s/])vllm(\s|$|\.entrypoints)")


def set_for_vllm(container: Raw, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each assignment to one of `names` that reaches vLLM, in order. Of what other commands make
    (`$(…)`) nobody knows the value: it is left out."""
    line = [str(word) for key in ("command", "args") for word in container.get(key) or ()]
    # A word alone is no script; backquotes would be taken for the ends of commands.
    scripts = [simple_commands(text) for text in line if re.search(r"\s", text) and "`" not in text]
    for commands in ([line], *scripts):
        exported = {name for name in names if variable(container, name) is not None}
        exported |= {word for words in commands if words[:1] == ["export"] for word in words}
        named = any(map(_VLLM.search, (word for words in commands for word in words)))
        for words in commands:
            for name, value in _assigned(words, exported, named=named):
                if name in names and "$(" not in value:
                    yield name, value


def _assigned(words: Sequence[str], exported: Collection[str], *, named: bool) -> Iterator[tuple[str, str]]:
    """Those of one simple command: for the command that follows them, which is vLLM, or may start it where no command
    of the script is `named` so; or for all that come after it."""
    before = list(takewhile(lambda word: word in _PREFACE or word.startswith("-") or _is_assignment(word), words))
    follows = words[len(before) :]
    exports = not _EXPORTS.isdisjoint(before)
    reached = any(map(_VLLM.search, follows)) or not named
    for word in filter(_is_assignment, before):
        name, _, value = word.partition("=")
        if exports or (reached if follows else name in exported):
            yield name, value


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()
