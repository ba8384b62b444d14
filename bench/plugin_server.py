"""A real vLLM server with the plugin and without it: the hooks of one server switched on and off, in turn."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.engines import Prompt, traffic
from bench.figures import Figure, bootstrapped, ratio_of_99th_percentiles, ratio_of_means
from bench.in_vllm import OFF, ON
from bench.servers import Server, serving
from vllm_plugin import names
from vllm_rightsizer.demo.model import write_model

_BLOCKS = 600
_CLIENTS = 8
_REQUESTS = 20
_OUTPUT = 200
"""Half of it on average, as chats have."""
_PAIRS = 20
"""Short rounds: what else the machine does seldom changes within a pair."""
_UNIT = "with / without"


@dataclass(frozen=True)
class _Round:
    """What the clients saw of one round of requests."""

    seconds: float
    first_token_seconds: Sequence[float]


def figures() -> Iterator[Figure]:
    """Throughput and time to first token, with ÷ without; and the plugin's own time."""
    with tempfile.TemporaryDirectory(prefix="bench-server-") as name:
        folder = Path(name)
        model = folder / "tiny"
        write_model(model)
        with serving(model, folder, _BLOCKS) as server:
            yield from _compared(server)


def _compared(server: Server) -> Iterator[Figure]:
    prompts = traffic(1, _REQUESTS, prefixes=30, output=_OUTPUT)
    # What is compiled or loaded at the first request, and a cache as it is from then on.
    for _ in range(3):
        _round(server, prompts)
    before = server.page()
    on: list[_Round] = []
    off: list[_Round] = []
    for pair in range(_PAIRS):
        # First one, then the other is first: what drifts falls upon both.
        for state in (ON, OFF) if pair % 2 == 0 else (OFF, ON):
            server.switch_hooks(state)
            (on if state == ON else off).append(_round(server, prompts))
    server.switch_hooks(ON)
    after = server.page()
    value, low, high = bootstrapped([(b.seconds, a.seconds) for a, b in zip(on, off, strict=True)], ratio_of_means)
    yield Figure("server_throughput_ratio", value, _UNIT, _PAIRS, 0.99, "at least", low, high)
    late = [(a.first_token_seconds, b.first_token_seconds) for a, b in zip(on, off, strict=True)]
    value, low, high = bootstrapped(late, ratio_of_99th_percentiles)
    yield Figure("server_ttft_p99_ratio", value, _UNIT, _PAIRS, 1.02, low=low, high=high)
    seconds = sum(one.seconds for one in on)
    own = after[names.HOOK_SECONDS] - before[names.HOOK_SECONDS]
    yield Figure("server_hook_seconds_share", 100 * own / seconds, "%", _PAIRS * _REQUESTS, 0.5)
    yield Figure("server_requests_per_second", _PAIRS * _REQUESTS / seconds, "1/s", _PAIRS * _REQUESTS)


def _round(server: Server, prompts: Sequence[Prompt]) -> _Round:
    return asyncio.run(_serve(server, prompts))


async def _serve(server: Server, prompts: Sequence[Prompt]) -> _Round:
    pending = iter(prompts)
    start = time.perf_counter()
    async with (
        httpx.AsyncClient(base_url=server.base_url, timeout=120.0, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(_client(client, pending)) for _ in range(_CLIENTS)]
    return _Round(time.perf_counter() - start, [waited for task in tasks for waited in task.result()])


async def _client(client: httpx.AsyncClient, pending: Iterator[Prompt]) -> list[float]:
    waits = []
    for prompt in pending:
        body: dict[str, Any] = {
            "model": "bench",
            "prompt": list(prompt.tokens),
            "max_tokens": prompt.output,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        start = time.perf_counter()
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            first = True
            async for _ in answer.aiter_raw():
                if first:
                    waits.append(time.perf_counter() - start)
                    first = False
    return waits
