"""What do the plugin's pages cost, and its start? `python -m bench.scrape [--no-server] --json`.

A pod of two data-parallel engines with two tensor-parallel ranks each, as six real processes on one page. One JSON
object a figure; ends with 1 where one misses its target. The start is that of a real vLLM server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Figure
from bench.servers import ServerError, serving
from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from recommender.exposition import parse_page
from vllm_plugin import formats, names
from vllm_rightsizer.demo.model import write_model
from vllm_rightsizer.demo.ports import free_ports

_SCRAPES = 300
_BLOCKS = 200
_PAGES = 100
_FORMS = {
    "text": "text/plain; version=0.0.4",
    "openmetrics": "application/openmetrics-text; version=1.0.0",
    "protobuf": formats.PROTOBUF_TYPE,
    "compact": names.COMPACT_TYPE,
}
_LARGEST_PAGE_BYTES = 40_000
_LARGEST_SCRAPE_MS = 5.0
_LARGEST_START_SECONDS = 0.3

_PROCESS = """
import json, sys, time
from vllm_plugin import exporter, guard, process
from vllm_plugin.override import Outcome

# Only scrapes are measured here; the snapshots need writing once.
exporter._PERIOD_SECONDS = 3600.0
engines, workers, hooks = json.loads(sys.argv[1])
for name in hooks:
    guard.hook(name).seconds = 1234.567890123

class Tracker:
    def __init__(self, report):
        self.outcome = Outcome(server="bench")
        self.vllm_config = self.parallel_config = self
        self.data_parallel_index = report["engine"]
        self.own = report
    def alive(self):
        return True
    def report(self):
        return dict(self.own)

for report in workers:
    process.track_worker(Tracker(report))
for report in engines:
    process.track_pool(Tracker(report))
print("tracked", flush=True)
time.sleep(3600)
"""
_HOOKS = [f"a_hook_of_{number}" for number in range(24)]
_COUNTED = (names.REQUESTS, names.MODEL_WEIGHTS_BYTES)

_VLLMS_PAGE = """
import json, sys, time
import vllm_plugin
vllm_plugin.register()
from prometheus_client import REGISTRY, generate_latest

def milliseconds():
    generate_latest(REGISTRY)
    began = time.thread_time()
    for _ in range(int(sys.argv[1])):
        generate_latest(REGISTRY)
    return 1e3 * (time.thread_time() - began) / int(sys.argv[1])

with_ours = milliseconds()
ours = next(one for one in REGISTRY._collector_to_names if type(one).__module__.startswith("vllm_plugin"))
REGISTRY.unregister(ours)
print(json.dumps(with_ours - milliseconds()))
"""

_INSPECTION = """
import vllm_plugin
vllm_plugin.register()
import vllm.model_executor.models.llama
from vllm_plugin.guard import hooks
print("SECONDS", sum(one.seconds for one in hooks.values()))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scrape", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--no-server", action="store_true", help="leave out the start of a real vLLM server")
    options = parser.parse_args(arguments)
    missed = False
    with tempfile.TemporaryDirectory(prefix="bench-scrape-") as name:
        folder = Path(name)
        try:
            for part in (_scrapes,) if options.no_server else (_scrapes, _start):
                for figure in part(folder):
                    missed |= figure.ok is False
                    about = figure.as_json()
                    print(json.dumps(about) if options.json else "  ".join(map(str, about.values())), flush=True)
        except ServerError as error:
            print(f"bench.scrape: {error}", file=sys.stderr)
            return 2
    return 1 if missed else 0


def _scrapes(folder: Path) -> Iterator[Figure]:
    """Length and cost of a page, for the process that serves it and for the recommender that reads it."""
    environment = _environment(folder, free_ports(1)[0])
    with ExitStack() as ends:
        for engine in (0, 1):
            for rank in (0, 1):
                ends.callback(_end, _started(environment, [[], [_worker(engine, rank)], _HOOKS]))
        leader = _started(environment, [[_engine(0)], [], _HOOKS])
        ends.callback(_end, leader)
        _wait_for(environment, engines=1, ranks=4)
        ends.callback(_end, _started(environment, [[_engine(1)], [], _HOOKS]))
        _wait_for(environment, engines=2, ranks=4)
        pages = {}
        for form, accept in _FORMS.items():
            pages[form] = _page(environment, accept)
            before = _processor_seconds(leader.pid)
            for _ in range(_SCRAPES):
                _page(environment, accept)
            cost = 1e3 * (_processor_seconds(leader.pid) - before) / _SCRAPES
            target = _LARGEST_PAGE_BYTES if form in ("text", "openmetrics") else None
            yield Figure(f"page_bytes_{form}", len(pages[form]), "bytes", 1, target)
            yield Figure(f"scrape_ms_{form}", cost, "ms", _SCRAPES, _LARGEST_SCRAPE_MS)
        added = _run([_VLLMS_PAGE, str(_PAGES)], environment)
        yield Figure("vllms_own_page_ms_more", float(added), "ms", _PAGES, _LARGEST_SCRAPE_MS)
    for form in ("text", "compact"):
        text = pages[form].decode()
        engines = len(parse_page(text).engines)
        cost = _milliseconds(lambda text=text: parse_page(text)) / engines  # type: ignore[misc]  # a default binds it
        yield Figure(f"recommender_parse_ms_{form}", cost, "ms an engine", _PAGES)


def _start(folder: Path) -> Iterator[Figure]:
    """The plugin's own time in all processes of a server until it is healthy, by its own count on vLLM's page."""
    model = folder / "tiny"
    write_model(model)
    with serving(model, folder, _BLOCKS) as server, urllib.request.urlopen(f"{server.base_url}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        running = next(sample.value for sample in samples if sample.name == names.HOOK_SECONDS)
    # vLLM looks at the model's class in a process that ends at once, and remembers what it saw.
    inspection = float(_run([_INSPECTION], _environment(folder, free_ports(1)[0])).split("SECONDS")[1])
    yield Figure("start_seconds", running + inspection, "s", 1, _LARGEST_START_SECONDS)


def _engine(number: int) -> dict[str, object]:
    """A pool after months: numbers as long as they get."""
    sizes = ["block_bytes", "capacity_bytes", "active_bytes", "active_peak_bytes", "demand_peak_bytes"]
    sizes += ["reusable_bytes", "headroom_bytes", "floor_bytes"]
    counters = ("preemptions", "admissions_blocked", "requests", "lookup_tokens", "hit_tokens")
    return {
        **dict.fromkeys(sizes, 123_456_789_012),
        **dict.fromkeys(counters, 1_234_567_890),
        "blocks": 123_456,
        "block_tokens": 16,
        "asleep": 0,
        "engine": number,
        "reuse_counts": [12_345_678 + at for at in range(len(names.REUSE_BUCKET_BOUNDS) + 1)],
        "reuse_sum_bytes": 10**18,
    }


def _worker(engine: int, rank: int) -> dict[str, object]:
    sizes = ("weights_bytes", "capacity_bytes", "block_bytes", "total_bytes", "allocated_bytes")
    overhead = dict.fromkeys(names.OVERHEAD_COMPONENTS, 12_345_678_901)
    return {**dict.fromkeys(sizes, 123_456_789_012), "engine": engine, "rank": rank, "overhead_bytes": overhead}


def _environment(folder: Path, port: int) -> dict[str, str]:
    """With the plugin as a pod has it: from its wheel."""
    wheel = folder / WHEEL_FILE
    wheel.write_bytes(plugin_wheel())
    ours = {names.ENV_PORT: str(port), names.ENV_DIR: str(folder / f"snapshots-{port}")}
    return {**os.environ, "PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1", **ours}


def _started(environment: dict[str, str], tracked: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", _PROCESS, json.dumps(tracked)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _run(arguments: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.check_output([sys.executable, "-c", *arguments], env=environment, text=True)


def _page(environment: dict[str, str], accept: str) -> bytes:
    url = f"http://127.0.0.1:{environment[names.ENV_PORT]}/metrics"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:
        return bytes(answer.read())


def _wait_for(environment: dict[str, str], engines: int, ranks: int) -> None:
    """Until the page shows so many. Raises `ServerError`."""
    for _ in range(100):
        with suppress(OSError):
            lines = _page(environment, _FORMS["text"]).decode().splitlines()
            shown = [sum(line.startswith(name + "{") for line in lines) for name in _COUNTED]
            if shown == [engines, ranks]:
                return
        time.sleep(0.1)
    raise ServerError(f"no page with {engines} engines and {ranks} ranks")


def _processor_seconds(pid: int) -> float:
    """All threads, user and system: an upper bound of what they hold the GIL for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _milliseconds(function: Callable[[], object]) -> float:
    function()
    began = time.thread_time()
    for _ in range(_PAGES):
        function()
    return 1e3 * (time.thread_time() - began) / _PAGES


if __name__ == "__main__":
    sys.exit(main())
