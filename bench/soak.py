"""Does the plugin's memory stay what it is? `python -m bench.soak --json [--requests 200000]`.

Real vLLM's scheduler and KV cache manager serve so many requests, with hits, preemptions and aborts, while the exporter
runs beside them. One JSON object a figure; ends with 1 where one misses its target.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import FunctionType, ModuleType

from bench.engines import Engine, Prompt, quiet_environment, traffic
from bench.figures import Figure
from vllm_rightsizer.demo.model import write_model

REQUESTS = 200_000
BLOCKS = 600
CLIENTS = 64
LOOKS = 16
"""How often memory is looked at. The first quarter is warm-up: tables fill, allocators find their sizes."""

_WARM = LOOKS // 4
_MEBIBYTE = 1 << 20
_LARGEST_PLUGIN_BYTES = 1_500_000
_FLAT_PLUGIN_BYTES = 150_000
"""A tenth: its tables are cleaned now and then, so single looks differ."""
_FLAT_RSS_BYTES = 8 * _MEBIBYTE
"""vLLM's own share included."""
_REQUESTS_OF_ONE_KIND = 200
"""Few, since what is prepared is looked at, too."""
_STEPS_BETWEEN_ABORTS = 50


@dataclass(frozen=True)
class Look:
    """Bytes that this process has resident, and of them those that the plugin's tracker keeps."""

    rss_bytes: int
    plugin_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        found = list(soak(Path(folder), options.requests))
    for figure in found:
        print(json.dumps(figure.as_json()) if options.json else figure, flush=True)
    return 1 if any(figure.ok is False for figure in found) else 0


def soak(folder: Path, requests: int) -> Iterator[Figure]:
    """Serve, looking at the memory now and then; the figures."""
    write_model(folder / "tiny")
    os.environ.update(quiet_environment(folder / "snapshots"))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm_plugin
    from vllm_plugin.guard import hooks

    vllm_plugin.register()
    engine = Engine(folder / "tiny", BLOCKS, counting=False)
    began = time.monotonic()
    looks = list(_looks(engine, requests))
    seconds = time.monotonic() - began
    served = engine.tracker.requests
    plugin = [look.plugin_bytes for look in looks[_WARM:]]
    rss = [look.rss_bytes for look in looks[_WARM:]]
    yield Figure("soak_requests", served, "requests", served, requests, "at least")
    yield Figure("soak_preemptions", engine.tracker.preemptions, "requests", served, 1, "at least")
    yield Figure("plugin_memory_peak", max(plugin), "bytes", len(plugin), _LARGEST_PLUGIN_BYTES)
    yield Figure("plugin_memory_growth", _growth(plugin), "bytes", len(plugin), _FLAT_PLUGIN_BYTES)
    yield Figure("process_memory_peak", max(rss), "bytes", len(rss))
    yield Figure("process_memory_growth", _growth(rss), "bytes", len(rss), _FLAT_RSS_BYTES)
    yield Figure("hook_errors", sum(hook.errors for hook in hooks.values()), "errors", served, 0)
    yield Figure("hooks_off", sum(not hook.active for hook in hooks.values()), "hooks", len(hooks), 0)
    yield Figure("soak_speed", served / seconds, "requests/s", served)


def _looks(engine: Engine, requests: int) -> Iterator[Look]:
    between = max(requests // LOOKS, 1)
    for step, _ in enumerate(engine.run(islice(_endless(), requests), CLIENTS)):
        if step % _STEPS_BETWEEN_ABORTS == 0:
            _abort_the_oldest(engine)
        if engine.tracker.requests >= between:
            between += max(requests // LOOKS, 1)
            yield _look(engine)
    yield _look(engine)


def _endless() -> Iterator[Prompt]:
    """Prompts of one kind after those of another, none of which was seen before."""
    for seed in count():
        yield from traffic(seed, _REQUESTS_OF_ONE_KIND, output=120)


def _abort_the_oldest(engine: Engine) -> None:
    from vllm.v1.request import RequestStatus

    running = engine.scheduler.running
    if running:
        engine.scheduler.finish_requests(running[0].request_id, RequestStatus.FINISHED_ABORTED)


def _look(engine: Engine) -> Look:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return Look(resident, kept_bytes(engine.tracker))


def kept_bytes(root: object) -> int:
    """Bytes of everything that lives by `root`; vLLM's own objects, to which it points, and types aside.

    tracemalloc would tell the same, and make vLLM ten times as slow.
    """
    seen, waiting, total = {id(root)}, [root], 0
    while waiting:
        one = waiting.pop()
        total += sys.getsizeof(one)
        for other in gc.get_referents(one):
            if id(other) not in seen and not _is_foreign(other):
                seen.add(id(other))
                waiting.append(other)
    return total


def _is_foreign(value: object) -> bool:
    home = type(value).__module__.partition(".")[0]
    return home in ("vllm", "torch") or isinstance(value, (type, ModuleType, FunctionType))


def _growth(values: Sequence[int]) -> int:
    """The mean of the last third above that of the first: single looks fall on busy and on calm moments."""
    third = max(len(values) // 3, 1)
    return (sum(values[-third:]) - sum(values[:third])) // third


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"default: {REQUESTS}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
