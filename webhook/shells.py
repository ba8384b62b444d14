"""What a shell would start: a script cut into its simple commands, as far as can be told without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SEPARATORS = frozenset(";|&()\n`")
_REDIRECTIONS = frozenset("<>")
_BLANKS = frozenset(" \t\r")
_KEYWORDS = frozenset(
    (
        *("if", "then", "elif", "else", "fi", "while", "until", "do", "done", "!", "{", "}", "time"),
        *("export", "local", "readonly"),
    )
)
_PREFIXES = frozenset(("exec", "command", "builtin"))
_LONGEST = 128 * 1024
"""Characters. Linux starts nothing with a longer argument."""


@dataclass(frozen=True)
class Script:
    """A script as it reads, not as it runs: expansions stay as written (`$MODEL`), functions are not followed, and
    the text of here-documents counts as commands.
    """

    commands: list[list[str]]
    """Lists of words, without quotes, comments, keywords and leading assignments."""
    assignments: Mapping[str, str]
    """What the script's variables are set to, the last of several."""


def simple_commands(text: str) -> list[list[str]]:
    """Lists of words without quotes and comments; keywords and assignments stand where they are."""
    commands: list[list[str]] = [[]]
    for word in _words(text[:_LONGEST]):
        if word is None:
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def read_script(text: str) -> Script:
    assignments: dict[str, str] = {}
    stripped = [_without_preface(words, assignments) for words in simple_commands(text)]
    return Script([words for words in stripped if words], assignments)


def _without_preface(words: list[str], assignments: dict[str, str]) -> list[str]:
    start = 0
    while start < len(words):
        word = words[start]
        name, equals, value = word.partition("=")
        is_assignment = bool(equals) and name.isidentifier()
        if is_assignment:
            assignments[name] = value
        elif word not in _KEYWORDS and word not in _PREFIXES:
            break
        start += 1
    return words[start:]


def _words(script: str) -> list[str | None]:
    """Words in order; None ends a command."""
    found: list[str | None] = []
    word: list[str] = []
    started = False
    at, end = 0, len(script)

    def finish(*, command: bool = False) -> None:
        nonlocal started
        if started:
            found.append("".join(word))
            word.clear()
            started = False
        if command:
            found.append(None)

    while at < end:
        char = script[at]
        if char == "\\":
            # A backslash before the line's end joins two lines, elsewhere it stands for the next character.
            if script[at + 1 : at + 2] not in ("\n", ""):
                word.append(script[at + 1])
                started = True
            at += 2
            continue
        if char == "'":
            closing = script.find("'", at + 1)
            closing = end if closing < 0 else closing
            word.append(script[at + 1 : closing])
            started = True
            at = closing
        elif char == '"':
            text, at = _double_quoted(script, at + 1)
            word.append(text)
            started = True
        elif char == "$" and script[at + 1 : at + 2] in ("(", "{"):
            closing = _closing(script, at + 1)
            word.append(script[at : closing + 1])
            started = True
            at = closing
        elif char == "#" and not started:
            newline = script.find("\n", at)
            at = end if newline < 0 else newline
            continue
        elif char in _SEPARATORS:
            finish(command=True)
        elif char in _BLANKS or char in _REDIRECTIONS:
            finish()
        else:
            word.append(char)
            started = True
        at += 1
    finish(command=True)
    return found


def _double_quoted(script: str, at: int) -> tuple[str, int]:
    """The text from `at` to the closing quote, and where that stands."""
    text: list[str] = []
    while at < len(script) and script[at] != '"':
        if script[at] == "\\" and at + 1 < len(script):
            at += 1
            if script[at] not in '$`"\\\n':
                text.append("\\")
            if script[at] == "\n":
                at += 1
                continue
        text.append(script[at])
        at += 1
    return "".join(text), at


def _closing(script: str, at: int) -> int:
    """Where the bracket that opens at `at` is closed; the script's end where it is not."""
    opening, closing = script[at], ")" if script[at] == "(" else "}"
    depth = 0
    for index in range(at, len(script)):
        if script[index] == opening:
            depth += 1
        elif script[index] == closing:
            depth -= 1
            if depth == 0:
                return index
    return len(script) - 1
