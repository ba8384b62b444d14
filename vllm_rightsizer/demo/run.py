"""The story of the demo: a generous vLLM is measured, sized, and started again with what it needs."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from recommender.api.recommendations import Bound, Target, VLLMRecommendation
from recommender.api.units import format_bytes
from recommender.bounds import DEMAND, FLOOR, HIT_RATE, MIN_KV
from vllm_rightsizer.demo import pattern, report
from vllm_rightsizer.demo.cluster import Admitted
from vllm_rightsizer.demo.interrupts import StoppedError, stopping_on_signals
from vllm_rightsizer.demo.machine import utilization_for_pool, vllm_version
from vllm_rightsizer.demo.results import Result
from vllm_rightsizer.demo.stage import Stage
from vllm_rightsizer.errors import UsageError, UserError

_MARKER = ".vllm-rightsizer-demo"
"""Says that a folder is the demo's, to be emptied; and locked, that a demo runs in it."""


def run_demo(output: Path, seed: int) -> int:
    """Run the whole loop, write its results to `output`, and give the exit code: 0 where every check passed."""
    console = Console()
    started = time.monotonic()
    version = vllm_version()
    try:
        with stopping_on_signals(), workspace(output / "demo") as folder:
            console.print(f"The whole loop on vLLM {version}, on this machine's CPU.", highlight=False)
            sizing = [f"--gpu-memory-utilization={utilization_for_pool()}"]
            with Stage(folder, console, sizing) as stage:
                result = _tell(stage, seed, started)
    except StoppedError as stopped:
        print(f"vllm-rightsizer: stopped by {stopped}; nothing is left running", file=sys.stderr)
        return stopped.exit_code
    # Here: the first time on a machine Matplotlib looks through its fonts, and says so.
    from vllm_rightsizer.demo import picture

    report.write_json(result, output / "demo.json")
    picture.draw(result, output / "demo.svg")
    console.print()
    passed = report.print_result(console, result)
    console.print(f"\n{result.seconds:.0f} s in all. Written: {output}/demo.json, {output}/demo.svg", highlight=False)
    return 0 if passed else 1


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """`folder`, empty, and ours alone. What an earlier run left in it goes; what is not ours is never touched."""
    # What is started here works in folders of its own.
    folder = folder.absolute()
    marker = folder / _MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink() or (any(folder.iterdir()) and not marker.is_file()):
            raise UsageError(
                f"{folder} holds something that is not the demo's, and would be emptied: choose another --output"
            )
        lock = marker.open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another folder with --output") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another demo runs in {folder}: wait for it, or choose another --output") from error
        for entry in folder.iterdir():
            if entry == marker:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield folder


def _tell(stage: Stage, seed: int, started: float) -> Result:
    requests = pattern.generate(pattern.DEMO, seed)

    stage.say("\n1  A pod with a generous KV cache is admitted and started.")
    first = stage.admit()
    _say_sizes(stage, stage.arguments(first))
    pod = stage.start_pod(first)
    stage.wait_for(lambda: reporting(stage.recommendation()), "the recommender to read the plugin's page")

    stage.say(f"\n2  {len(requests)} requests: questions about shared documents, chats with long pauses, one-offs.")
    before = stage.measure(requests)
    stage.say(f"   hit rate {before.hit_rate:.2%}; in use at most {before.usage_p99:.1%} of the pool (p99)")

    stage.say("\n3  The recommender sizes what the plugin has measured.")
    target, asked_by = stage.wait_for(
        lambda: target_of(stage.recommendation(), before.plugin.requests), "a recommendation from all requests"
    )
    stage.say(f"   {format_bytes(target.kv_bytes)} instead of {format_bytes(before.pool_bytes)}")
    stage.say(f"   {asked_by.name}: {asked_by.message}")
    if target.kv_bytes != asked_by.kv_bytes:
        stage.say(f"   {format_bytes(target.kv_bytes)} after {target.bound_by}, in whole blocks")

    stage.say("\n4  The next pod is admitted: the webhook writes the sizes. vLLM starts again.")
    second, target = stage.wait_for(
        lambda: _admitted_as_recommended(stage, before.plugin.requests), "the webhook to apply the recommendation"
    )
    _say_sizes(stage, stage.arguments(second))
    pod.stop()
    stage.start_pod(second)

    stage.say("\n5  The same requests again.")
    after = stage.measure(requests)
    return Result(before, after, target, target.predicted_hit_rate or 0.0, time.monotonic() - started)


def _say_sizes(stage: Stage, arguments: list[str]) -> None:
    flags = [argument for argument in arguments if argument.startswith(("--gpu-memory", "--kv-cache-memory"))]
    stage.say(f"   vLLM gets {' '.join(flags)}")


def reporting(recommendation: VLLMRecommendation | None) -> VLLMRecommendation | None:
    """The recommendation, once the recommender has seen the plugin's counters: what it counts from begins there."""
    if recommendation is None or recommendation.status.measured is None:
        return None
    return recommendation


def target_of(recommendation: VLLMRecommendation | None, requests: int) -> tuple[Target, Bound] | None:
    """The recommended size and the rule that asked for most, once they are made from all `requests`."""
    if recommendation is None:
        return None
    status = recommendation.status
    if status.measured is None or status.target is None or status.measured.requests < requests:
        return None
    asking = [bound for bound in status.bounds if bound.name in (HIT_RATE, DEMAND, FLOOR, MIN_KV)]
    return (status.target, max(asking, key=lambda bound: bound.kv_bytes)) if asking else None


def _admitted_as_recommended(stage: Stage, requests: int) -> tuple[Admitted, Target] | None:
    """The next pod and the target that it starts with: the window moves on, and a target may rise meanwhile."""
    admitted = stage.admit_with_sizes()
    found = target_of(stage.recommendation(), requests)
    if admitted is None or found is None:
        return None
    target, _ = found
    return (admitted, target) if set(target.flags) <= set(stage.arguments(admitted)) else None
