"""What does the recommender cost a fleet? `python -m bench.recommender [DIR] [--json] [--pods N...] [--plot FILE]`.

DIR: recorded workloads in the judge's format; the plugin's estimator watches them, and what it exports fills the store
and the pages of real HTTP servers on loopback, one address a pod. A recommender in a process of its own then scrapes
all of them and evaluates all workloads, ten pods each, from 48 hours of history. One JSON object a figure; ends with 1
where one misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from bench.cases import WORKLOADS
from bench.figures import Figure
from bench.recommender_fleet import (
    PODS_PER_WORKLOAD,
    SLOT,
    WINDOW_SECONDS,
    Template,
    closed_intervals,
    fleet_pod,
    pod_object,
    templates,
)
from bench.recommender_plot import plot
from bench.referee import JudgeMissingError
from recommender.discovery import seen_pod
from recommender.exposition import parse_page
from recommender.history import History
from recommender.keys import SeriesKey
from vllm_rightsizer.demo.ports import free_ports

SIZES = (1_000, 3_000, 10_000, 30_000)
STANDARD = 10_000
_PAGE_SERVERS = 2
_MIB = 1 << 20
_SECONDS_A_SCRAPE = 60.0
_TARGETS = {
    "round_seconds": 2.0,
    "resident_mib": 500.0,
    "disk_mib": 1024.0,
    "scrape_core_share": 0.5,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    missed = False
    with tempfile.TemporaryDirectory(prefix="bench-recommender-", dir=options.scratch) as name:
        try:
            for figure in _figures(options.folder, options.pods, Path(name), options.plot):
                missed |= figure.ok is False
                about = figure.as_json()
                print(json.dumps(about) if options.json else "  ".join(map(str, about.values())), flush=True)
        except JudgeMissingError as error:
            print(f"bench.recommender: {error}", file=sys.stderr)
            return 2
    return 1 if missed else 0


def _figures(workloads: Path, sizes: Sequence[int], scratch: Path, picture: Path | None) -> Iterator[Figure]:
    found = templates(workloads)
    for template in found:
        # The pages are what the replay's samples say, read by the recommender's own reader.
        assert parse_page(template.pages[0].decode()).engines[0].counters == template.samples[0].counters
    measured: dict[int, dict[str, float]] = {}
    with _serving(found, scratch) as port:
        for pods in sizes:
            path = scratch / f"{pods}.db"
            stored = _fill(path, pods, found, port)
            measured[pods] = _measured(path, pods, port, len(found)) | stored
            yield from _of_one_size(pods, measured[pods])
            path.unlink()
    if len(measured) > 1:
        for what in ("round_processor_seconds", "scrape_processor_seconds", "disk_mib"):
            exponent = _exponent([(pods, each[what]) for pods, each in measured.items()])
            yield Figure(
                f"growth_of_{what}",
                exponent,
                "exponent",
                len(measured),
                1.1,
                notes=f"{min(sizes)} to {max(sizes)} pods",
            )
    if picture is not None:
        plot(measured, picture)


def _of_one_size(pods: int, found: dict[str, float]) -> Iterator[Figure]:
    units = {"seconds": "s", "mib": "MiB", "share": "of a core"}
    for name, value in found.items():
        if name == "sized_share":
            # What nothing is recommended for costs less.
            yield Figure(f"{name}_{pods}_pods", value, "1", pods // PODS_PER_WORKLOAD, 1.0, "at least")
        else:
            target = _TARGETS.get(name) if pods == STANDARD else None
            yield Figure(f"{name}_{pods}_pods", value, units[name.rpartition("_")[2]], 1, target)


def _fill(path: Path, pods: int, found: Sequence[Template], port: int) -> dict[str, float]:
    """48 hours of history that end now, interval by interval; and what that took."""
    fleet = [fleet_pod(number, len(found)) for number in range(pods)]
    engines = [seen.engines[0] for seen in (seen_pod(pod_object(pod, port)) for pod in fleet) if seen is not None]
    keys = [SeriesKey(one.key, one.fingerprint, one.name, one.uid, "0") for one in engines]
    begin = math.floor(time.time() / SLOT) * SLOT - WINDOW_SECONDS
    took = []
    with History.open(path) as history:
        for place in range(96):
            closed = closed_intervals(fleet, keys, found, place, begin)
            began = time.perf_counter()
            history.append(closed)
            history.prune(begin)
            took.append(time.perf_counter() - began)
        disk = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return {"store_interval_seconds": median(took), "disk_mib": disk / _MIB}


def _measured(path: Path, pods: int, port: int, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.recommender_round", str(pods), str(port), str(path), str(count)]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    full, rounds = said["full"], [said["first"], *said["full"], said["quiet"]]
    workloads = pods // PODS_PER_WORKLOAD
    if said["answered"] != len(rounds) * pods or said["written"] != (len(rounds) - 1) * workloads:
        raise RuntimeError(f"{said['answered']} pages were read, {said['written']} recommendations written: not all")
    scrape = median(one["scrape_processor_seconds"] for one in rounds)
    return {
        "open_seconds": said["open_seconds"],
        "first_round_seconds": said["first"]["seconds"],
        "round_seconds": median(one["seconds"] for one in full),
        "round_processor_seconds": median(one["processor_seconds"] for one in full),
        "quiet_round_seconds": said["quiet"]["seconds"],
        "scrape_seconds": median(one["scrape_seconds"] for one in rounds),
        "scrape_processor_seconds": scrape,
        "scrape_core_share": scrape / _SECONDS_A_SCRAPE,
        "resident_mib": said["resident_bytes"] / _MIB,
        "sized_share": said["sized"] / workloads,
    }


@contextlib.contextmanager
def _serving(found: Sequence[Template], scratch: Path) -> Iterator[int]:
    """The servers of the pages; their port."""
    folder = scratch / "pages"
    folder.mkdir()
    (folder / "templates").write_text(str(len(found)))
    for number, template in enumerate(found):
        for look, body in enumerate(template.pages):
            (folder / f"{number}-{look}").write_bytes(body)
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "bench.recommender_pages", str(port), str(folder)]
    servers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_PAGE_SERVERS)]
    try:
        for server in servers:
            assert server.stdout is not None
            server.stdout.readline()
        yield port
    finally:
        for server in servers:
            server.kill()
            server.communicate()


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Of the power law through the points."""
    pods, values = np.array(points).T
    return float(np.polyfit(np.log(pods), np.log(values), 1)[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.recommender", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=WORKLOADS, metavar="DIR", help=f"default: {WORKLOADS}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--pods", type=int, nargs="+", default=SIZES, metavar="N", help=f"default: {SIZES}")
    parser.add_argument("--plot", type=Path, help="also draw the growth into this SVG")
    parser.add_argument(
        "--scratch", type=Path, help="folder for the stores: 4 GB are needed; default: the temporary one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
