"""One recommender over a fleet: `python -m bench.recommender_round PODS PORT HISTORY TEMPLATES`, one JSON object out.

The pods, their pages and the history are those of `bench.recommender`. Each round scrapes all pods, which is a figure
of its own. In the first one, and whenever the policy has changed, all workloads are evaluated from what the store
holds, and all recommendations written; in the last one, none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.recommender_fleet import NAMESPACE, MemoryStore, fleet_pod, pod_object, policy_object, settings
from recommender.discovery import Census, Pod, seen_pod
from recommender.history import History
from recommender.memory import collect_seldom, keep_freed_memory
from recommender.recommending import Recommender
from recommender.scraping import Scrape, Scraper
from recommender.telemetry import Telemetry
from vllm_plugin.names import PREFIX

_ROUNDS = 3


class _Timed(Scraper):
    """Notes what scraping costs."""

    processor_seconds = wall_seconds = 0.0

    async def scrape(self, pods: Sequence[Pod]) -> list[Scrape]:
        processor, wall = time.process_time(), time.perf_counter()
        found = await super().scrape(pods)
        self.processor_seconds, self.wall_seconds = time.process_time() - processor, time.perf_counter() - wall
        return found


def census(count: int, port: int, templates: int) -> Census:
    """The pods as watches would have told them."""
    seen = (seen_pod(pod_object(fleet_pod(number, templates), port)) for number in range(count))
    return Census(tuple(pod for pod in seen if pod is not None), frozenset((NAMESPACE,)), {})


async def _main(count: int, port: int, path: Path, templates: int) -> None:
    cluster = census(count, port, templates)
    store = MemoryStore(settings())
    began = time.perf_counter()
    history = History.open(path)
    opened = time.perf_counter() - began
    telemetry = Telemetry()
    full: list[dict[str, float]] = []
    with history:
        async with _Timed() as scraper:
            recommender = Recommender(store, history, scraper, telemetry, look=lambda: cluster)
            first = await _round(recommender, scraper)
            for margin in range(11, 11 + _ROUNDS):
                # A policy that changed: every workload is due, and there is something else to write of each.
                store.apply(policy_object(demandMarginPercent=margin))
                full.append(await _round(recommender, scraper))
            quiet = await _round(recommender, scraper)
    sample = telemetry.registry.get_sample_value
    found = {
        "open_seconds": opened,
        "first": first,
        "full": full,
        "quiet": quiet,
        "answered": sample(PREFIX + "recommender_scrapes_total", {"outcome": "ok"}),
        "written": sample(PREFIX + "recommender_evaluations_total", {"outcome": "written"}),
        "sized": sample(PREFIX + "recommender_workloads", {"recommended": "true"}),
        "resident_bytes": _resident_bytes(),
    }
    print(json.dumps(found))


async def _round(recommender: Recommender, scraper: _Timed) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    await recommender.round()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "seconds": wall - scraper.wall_seconds,
        "processor_seconds": processor - scraper.processor_seconds,
        "scrape_seconds": scraper.wall_seconds,
        "scrape_processor_seconds": scraper.processor_seconds,
    }


def _resident_bytes() -> int:
    """The most that was resident at any time."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    keep_freed_memory()
    collect_seldom()
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
