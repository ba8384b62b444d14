"""What the demo asks of vLLM: a fixed sequence of requests, drawn from a seed. Data only; `load` sends it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vllm_rightsizer.demo.model import words

Kind = Literal["document", "chat", "cold"]
Message = tuple[str, str]
"""Role and content."""


@dataclass(frozen=True)
class Request:
    """One call of the OpenAI API: a chat has messages, the others have a prompt."""

    kind: Kind
    prompt: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Pattern:
    """How a sequence of requests is made up. Ranges are inclusive, lengths are in tokens (one word is one token).

    Questions about shared documents (the popular ones more often, by Zipf's law) and the next turns of chats can be
    served from the prefix cache; one-off prompts never. A chat pauses between its turns for so many other requests
    that nothing of it is in use meanwhile: only a cache that is larger than what is in use still knows it.
    """

    requests: int
    documents: int
    document_tokens: int
    zipf_exponent: float
    question_tokens: tuple[int, int]
    cold_tokens: tuple[int, int]
    opening_tokens: tuple[int, int]
    turn_tokens: tuple[int, int]
    reply_tokens: tuple[int, int]
    pause_requests: tuple[int, int]
    turns: int
    weights: dict[Kind, float]
    """Share of each kind among the requests that no chat's next turn has claimed; `chat` opens a new one."""


DEMO = Pattern(
    requests=1500,
    documents=10,
    document_tokens=992,
    zipf_exponent=0.9,
    question_tokens=(24, 72),
    cold_tokens=(500, 1100),
    opening_tokens=(250, 450),
    turn_tokens=(40, 120),
    reply_tokens=(60, 140),
    pause_requests=(140, 180),
    turns=5,
    weights={"document": 0.5, "chat": 0.2, "cold": 0.3},
)


@dataclass
class _Chat:
    """A conversation under way: what was said, and how many turns are still to come."""

    messages: list[Message]
    turns_left: int


@dataclass
class _Author:
    """Writes texts: no two of them are alike, so that nothing is shared but what is meant to be."""

    rng: random.Random
    vocabulary: Sequence[str] = field(default_factory=words)

    def text(self, tokens: int | tuple[int, int]) -> str:
        count = tokens if isinstance(tokens, int) else self.rng.randint(*tokens)
        return " ".join(self.rng.choices(self.vocabulary, k=count))


def generate(pattern: Pattern, seed: int) -> list[Request]:
    """The requests of `pattern`, the same for the same seed."""
    return list(_requests(pattern, random.Random(seed)))


def _requests(pattern: Pattern, rng: random.Random) -> Iterator[Request]:
    author = _Author(rng)
    documents = [author.text(pattern.document_tokens) for _ in range(pattern.documents)]
    popularity = [1 / rank**pattern.zipf_exponent for rank in range(1, pattern.documents + 1)]
    kinds, shares = zip(*pattern.weights.items(), strict=True)
    waiting: list[tuple[int, int, _Chat]] = []
    serial = itertools.count()
    for position in range(pattern.requests):
        if waiting and waiting[0][0] <= position:
            chat = heapq.heappop(waiting)[2]
            chat.messages.append(("user", author.text(pattern.turn_tokens)))
        else:
            kind: Kind = rng.choices(kinds, shares)[0]
            if kind == "cold":
                yield Request("cold", prompt=author.text(pattern.cold_tokens))
                continue
            if kind == "document":
                document = rng.choices(documents, popularity)[0]
                yield Request("document", prompt=f"{document} {author.text(pattern.question_tokens)}")
                continue
            chat = _Chat([("user", author.text(pattern.opening_tokens))], pattern.turns)
        yield Request("chat", messages=tuple(chat.messages))
        chat.turns_left -= 1
        if chat.turns_left:
            # The reply is part of the script, not vLLM's: else the second run would ask something else than the first.
            chat.messages.append(("assistant", author.text(pattern.reply_tokens)))
            due = position + rng.randint(*pattern.pause_requests)
            heapq.heappush(waiting, (due, next(serial), chat))
