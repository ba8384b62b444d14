"""Sends a sequence of requests to vLLM's OpenAI API, in order, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from vllm_rightsizer.demo.pattern import Request
from vllm_rightsizer.errors import UserError

CONCURRENCY = 6
OUTPUT_TOKENS = 2
"""The demo is about prompts: answers are short and of one length."""

_REQUEST_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class LoadResult:
    """What the client saw."""

    requests: int
    prompt_tokens: int
    seconds: float

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds


def send(base_url: str, model: str, requests: Sequence[Request], advance: Callable[[], None]) -> LoadResult:
    """Send all `requests`; `advance` is called after each answer. The first failure ends it with a `UserError`."""
    try:
        return asyncio.run(_send(base_url, model, requests, advance))
    except ExceptionGroup as failures:
        # Where vLLM is gone, all clients say so; once is enough.
        raise failures.exceptions[0] from None


async def _send(base_url: str, model: str, requests: Sequence[Request], advance: Callable[[], None]) -> LoadResult:
    # One iterator for all clients: requests start in their order, each as soon as one of the earlier ones is answered.
    pending = iter(requests)
    started = time.monotonic()
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=_REQUEST_TIMEOUT_SECONDS, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        clients = [group.create_task(_client(client, model, pending, advance)) for _ in range(CONCURRENCY)]
    prompt_tokens = sum(task.result() for task in clients)
    return LoadResult(len(requests), prompt_tokens, time.monotonic() - started)


async def _client(
    client: httpx.AsyncClient, model: str, pending: Iterator[Request], advance: Callable[[], None]
) -> int:
    prompt_tokens = 0
    for request in pending:
        path, body = call_of(request, model)
        try:
            answer = await client.post(path, json=body)
        except httpx.HTTPError as error:
            raise UserError(f"vLLM at {client.base_url} stopped answering: {error or type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise UserError(f"vLLM answered {path} with {answer.status_code}: {answer.text[:300]}")
        prompt_tokens += answer.json()["usage"]["prompt_tokens"]
        advance()
    return prompt_tokens


def call_of(request: Request, model: str) -> tuple[str, dict[str, Any]]:
    """Path and body of the OpenAI call that `request` stands for."""
    body: dict[str, Any] = {"model": model, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "temperature": 0}
    if request.kind == "chat":
        messages = [{"role": role, "content": content} for role, content in request.messages]
        return "/v1/chat/completions", {**body, "messages": messages}
    return "/v1/completions", {**body, "prompt": request.prompt}
