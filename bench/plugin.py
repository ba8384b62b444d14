"""What does the plugin get right, and what does it cost? `python -m bench.plugin [PART...] --json`.

PARTs: exactness (vLLM's own figures), curve (hit rates at other sizes), cost (time and memory of the estimator),
request (of hashing and scheduling), server (throughput and latency with and without). All without a name.
One JSON object a figure; ends with 1 where one misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import plugin_cost, plugin_curve, plugin_exactness, plugin_server
from bench.engines import quiet_environment
from bench.figures import Figure
from bench.referee import JudgeMissingError
from bench.servers import ServerError
from vllm_rightsizer.demo.model import write_model


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    missed = False
    with tempfile.TemporaryDirectory(prefix="bench-plugin-") as name:
        folder = Path(name)
        model = folder / "tiny"
        write_model(model)
        parts = _parts(model, options.judge, options.workloads)
        unknown = [part for part in options.parts if part not in parts]
        if unknown:
            print(f"bench.plugin: no part {', '.join(unknown)}; there are {', '.join(parts)}", file=sys.stderr)
            return 2
        # vLLM's own lines would stand between the figures.
        os.environ |= {**quiet_environment(folder / "snapshots"), "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
        import vllm_plugin

        vllm_plugin.register()
        try:
            for part in options.parts or parts:
                for figure in parts[part]():
                    _print(figure, options.json)
                    missed |= figure.ok is False
        except (JudgeMissingError, ServerError) as error:
            print(f"bench.plugin: {error}", file=sys.stderr)
            return 2
    return 1 if missed else 0


def _parts(model: Path, judge: Path | None, workloads: Path | None) -> dict[str, Callable[[], Iterator[Figure]]]:
    def curve() -> Iterator[Figure]:
        if judge is not None:
            yield from plugin_curve.against_judge(judge, workloads or judge.parent / "workloads")
        else:
            yield from plugin_curve.own_workloads(model)
        yield from plugin_curve.against_vllm(model)

    return {
        "exactness": lambda: plugin_exactness.figures(model),
        "curve": curve,
        "cost": plugin_cost.of_estimator,
        "request": lambda: plugin_cost.of_requests(model),
        "server": plugin_server.figures,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.plugin", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--judge", type=Path, help="the judge's simulator, kvsim.py; without it own seeded traffic")
    parser.add_argument("--workloads", type=Path, metavar="DIR", help="default: workloads beside the judge")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _print(figure: Figure, as_json: bool) -> None:
    found = figure.as_json()
    line = json.dumps(found, ensure_ascii=False) if as_json else "  ".join(f"{k} {v}" for k, v in found.items())
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
