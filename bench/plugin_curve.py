"""How far the predicted hit rate is from that of pools that were really run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.engines import BLOCK_TOKENS, Engine, traffic
from bench.figures import Figure
from bench.plugin_replay import PluginReplay
from bench.referee import JudgeMissingError, Referee, load_judge
from vllm_plugin.curve import hits_at

_FACTORS = tuple(2 ** (step / 2) for step in range(-4, 5))
"""From a quarter of the pool to four times."""
_REQUESTS = 5000
_CLIENTS = 6
_OBSERVED = 1600
_SIZES = (500, 800, 1200, 1600, 2400, 4000)
_WINDOWS = (8, 24)
_OWN_SEEDS = (11, 12, 13)
_OWN_REQUESTS = 1500


def against_judge(judge: Path, folder: Path) -> Iterator[Figure]:
    """Each of the folder's workloads, observed once at its default size, against the judge's runs at nine sizes.

    Sizes in which a request could never fit are left out. `worst` is the largest error of all.
    """
    module = load_judge(judge)
    index = folder / "workloads.json"
    if not index.is_file():
        raise JudgeMissingError(f"{index} is missing: {folder} holds no workloads in the judge's format")
    worst = 0.0
    names = list(json.loads(index.read_text()))
    for name in names:
        referee = Referee(module, module.Workload(name, str(folder)))
        errors = _errors(referee)
        referee.forget()
        worst = max(worst, *map(abs, errors))
        yield Figure(f"curve_error_{name}", _mean(errors), "points of hit rate, mean", len(errors), 0.1)
    yield Figure("curve_error_worst_size", worst, "points of hit rate", len(names))


def _errors(referee: Referee) -> list[float]:
    """Predicted minus real hit rate in points, size by size."""
    run = referee.run(referee.default_blocks)
    replay = PluginReplay(referee.workload, run)
    ended = float(run["evt"][-1]) + 1
    for _ in replay.samples(ended, ended):
        pass
    counts, block_bytes = replay.estimator.histogram.counts, replay.facts.block_bytes
    tokens = float(referee.workload.inl.sum())
    errors = []
    for factor in _FACTORS:
        blocks = int(referee.default_blocks * factor)
        real = referee.run(blocks)
        if real is not None:
            predicted = hits_at(counts, (blocks + 1) * block_bytes) * replay.facts.block_tokens
            errors.append(100 * (predicted - float(real["hit_tok"].sum())) / tokens)
    return errors


def against_vllm(model: Path) -> Iterator[Figure]:
    """One observation, six sizes, each really run by vLLM's scheduler and KV cache manager."""
    errors = _real_errors(model, 1, _REQUESTS, _SIZES)
    yield Figure("curve_error_vllm", _mean(errors), "points of hit rate, mean of six sizes", _REQUESTS, 1)
    yield Figure("curve_error_vllm_worst_size", max(map(abs, errors)), "points of hit rate", _REQUESTS, 1)
    for window in _WINDOWS:
        errors = _real_errors(model, 1, _OWN_REQUESTS, _SIZES, window)
        unit = f"points of hit rate, mean of six sizes, three of four groups with windows of {window} blocks"
        yield Figure(f"curve_error_vllm_window_{window}", _mean(errors), unit, _OWN_REQUESTS)


def own_workloads(model: Path) -> Iterator[Figure]:
    """Where there is no judge: seeded traffic through vLLM's scheduler, half and twice the pool."""
    for seed in _OWN_SEEDS:
        errors = _real_errors(model, seed, _OWN_REQUESTS, (_OBSERVED // 2, _OBSERVED, 2 * _OBSERVED))
        notes = "no judge given: seeded traffic of its own on vLLM's scheduler"
        yield Figure(
            f"curve_error_seed_{seed}", _mean(errors), "points of hit rate, mean", _OWN_REQUESTS, 1, notes=notes
        )


def _real_errors(model: Path, seed: int, requests: int, sizes: Sequence[int], window: int = 0) -> list[float]:
    # Long lists of prefixes, so that even the largest pool does not keep all.
    prompts = traffic(seed, requests, prefixes=150)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    observed = Engine(model, _OBSERVED, counting=False, window=window * BLOCK_TOKENS)
    observed.serve(prompts, _CLIENTS)
    errors = []
    for blocks in sizes:
        engine = observed
        if blocks != _OBSERVED:
            engine = Engine(model, blocks, counting=False, window=window * BLOCK_TOKENS)
            engine.serve(prompts, _CLIENTS)
        counts, block_bytes = observed.tracker.estimator.histogram.counts, observed.tracker.block_bytes
        errors.append(
            100 * (hits_at(counts, engine.tracker.blocks * block_bytes) * BLOCK_TOKENS - engine.hits) / tokens
        )
    return errors


def _mean(errors: Sequence[float]) -> float:
    return sum(map(abs, errors)) / len(errors)
