"""What OpenCost says an hour of a GPU costs, node by node; asked in the background, kept while it does not answer.

Its `/assets` are what the cluster's parts cost over a window. Of an asset of type Node `gpuCost` is the cost of its
GPUs over the window and `GPUHours` their hours there; the node's CPU and RAM are costs of their own, and not in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from recommender.prices import NodePrices, Prices

logger = logging.getLogger(__name__)

WINDOW = "24h"
ASK_AGAIN_SECONDS = 3600.0
TRY_AGAIN_SECONDS = 60.0
DEADLINE_SECONDS = 30.0
TRUSTED_SECONDS = 86_400.0
"""For so long the last answer counts where no newer one comes."""
LARGEST_ANSWER_BYTES = 64 << 20


class OpenCostError(Exception):
    """No prices can be had; the message says from where, why, and what to do."""


@dataclass(frozen=True)
class OpenCostSettings:
    """`url`: under which `/assets` lies, such as http://opencost.opencost:9003 ."""

    url: str
    ask_again_seconds: float = ASK_AGAIN_SECONDS
    try_again_seconds: float = TRY_AGAIN_SECONDS
    deadline_seconds: float = DEADLINE_SECONDS


def gpu_hour_prices(answer: Any) -> dict[str, float]:
    """The price of one GPU for an hour, by node, in an answer of `/assets`. Raises `OpenCostError`.

    A node without GPUs or without a cost of them is left out, as is one whose name several clusters have.
    """
    sets = answer.get("data") if isinstance(answer, dict) else None
    if isinstance(sets, dict):
        sets = [sets]
    if not isinstance(sets, list) or not all(isinstance(one, dict) for one in sets):
        raise OpenCostError("what answers is no list of assets: is it OpenCost's API?")
    costs: dict[str, tuple[float, float]] = {}
    clusters: dict[str, set[str]] = {}
    for asset in (asset for assets in sets for asset in assets.values() if isinstance(asset, dict)):
        properties = asset.get("properties")
        name = properties.get("name") if isinstance(properties, dict) else None
        cost, hours = _amount(asset.get("gpuCost")), _amount(asset.get("GPUHours"))
        if asset.get("type") != "Node" or not isinstance(properties, dict) or not name:
            continue
        if cost is None or hours is None:
            continue
        clusters.setdefault(str(name), set()).add(str(properties.get("cluster")))
        before = costs.get(str(name), (0.0, 0.0))
        costs[str(name)] = (before[0] + cost, before[1] + hours)
    prices = {name: _amount(cost / hours) for name, (cost, hours) in costs.items() if len(clusters[name]) == 1}
    return {name: price for name, price in prices.items() if price is not None}


def _amount(value: Any) -> float | None:
    """A number above 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


async def ask(settings: OpenCostSettings) -> NodePrices:
    """Ask once. Raises `OpenCostError`."""
    where = _shown(settings.url)
    try:
        async with asyncio.timeout(settings.deadline_seconds), aiohttp.ClientSession() as session:
            answer = await _answer(session, settings.url)
        prices = gpu_hour_prices(await asyncio.to_thread(json.loads, answer))
    except TimeoutError:
        raise OpenCostError(f"{where} does not answer within {settings.deadline_seconds:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise OpenCostError(f"{where} cannot be asked: {error}: see whether it runs there") from error
    except OpenCostError as error:
        raise OpenCostError(f"{where}: {error}") from error
    return NodePrices(prices, _today(), where)


async def _answer(session: aiohttp.ClientSession, url: str) -> bytes:
    body = bytearray()
    async with session.get(f"{url.rstrip('/')}/assets", params={"window": WINDOW}, allow_redirects=False) as response:
        if response.status != 200:
            raise OpenCostError(f"it answers with HTTP {response.status}")
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > LARGEST_ANSWER_BYTES:
                raise OpenCostError(f"its answer is longer than {LARGEST_ANSWER_BYTES >> 20} MiB")
    return bytes(body)


class OpenCost:
    """Prices as `before` has them, and OpenCost's for what the user's map does not name."""

    def __init__(self, settings: OpenCostSettings, before: Callable[[], Prices] = Prices) -> None:
        self._settings = settings
        self._before = before
        self._found: NodePrices | None = None
        self._found_at = -math.inf
        self._fault: str | None = None

    def __call__(self) -> Prices:
        if time.monotonic() - self._found_at > TRUSTED_SECONDS:
            return self._before()
        return self._before().with_nodes(self._found)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks for the length of the block."""
        asking = asyncio.create_task(self._ask_on(), name="opencost")
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_on(self) -> None:
        while True:
            try:
                self._found = await ask(self._settings)
                self._found_at = time.monotonic()
                if self._fault is not None:
                    logger.info("OpenCost answers again")
                self._fault, pause = None, self._settings.ask_again_seconds
            except OpenCostError as error:
                if str(error) != self._fault:
                    logger.warning("%s; what it said before goes on for a day, then the table", error)
                self._fault, pause = str(error), self._settings.try_again_seconds
            except Exception:
                logger.exception("OpenCost cannot be asked")
                pause = self._settings.try_again_seconds
            await asyncio.sleep(pause)


def _shown(url: str) -> str:
    """Where it is, without a name and password that may stand there."""
    parts = urlsplit(url)
    return f"OpenCost at {parts.hostname or url}" + (f":{parts.port}" if parts.port else "")


def _today() -> date:
    return datetime.now(UTC).date()
