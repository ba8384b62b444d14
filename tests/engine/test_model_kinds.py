"""Every kind of model and engine: the plugin's figures against vLLM's own objects, and vLLM's answers as without it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import names

from .kinds import BLOCK_TOKENS, FLOOR_BYTES, KV_BYTES, PROMPTS
from .models import write_models
from .scripts import Script

pytestmark = pytest.mark.engine

Runs = dict[str, dict[str, Any]]

KINDS = (
    "plain",
    "uncached",
    "pooling",
    "pooling_decoder",
    "adapters",
    "drafted",
    "kvcached",
    "sleeping",
    "quantized",
    "windows",
    # With what this one imports vLLM cannot start another engine in the process.
    "guessed",
)
AS_PLAIN = {"kvcached": 1, "sleeping": 2}
"""Without the plugin these are what `plain` is: so many times its answers."""
TOKENS = sum(map(len, PROMPTS))
BLOCK_BYTES = 131_072


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Runs, str]:
    """The kinds in one process with the plugin and in one without, side by side; and the log of the former."""
    folder = tmp_path_factory.mktemp("kinds")
    write_models(folder)
    one_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    file = Path(__file__).with_name("kinds.py")
    others = [kind for kind in KINDS if kind not in AS_PLAIN]
    with (
        closing(Script(file, [str(folder), *KINDS], folder / "measured", one_process)) as measured,
        closing(Script(file, [str(folder), *others], folder / "bare", one_process, plugin=False)) as bare,
    ):
        found = [{result["kind"]: result for result in script.results()} for script in (measured, bare)]
    return found[0], found[1], measured.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def measured(scripts: tuple[Runs, Runs, str]) -> Runs:
    return scripts[0]


def engine_of(run: dict[str, Any]) -> dict[str, Any]:
    (engine,) = run["plugin"]["engines"]
    return dict(engine)


def worker_of(run: dict[str, Any]) -> dict[str, Any]:
    (worker,) = run["plugin"]["workers"]
    return dict(worker)


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_without_the_plugin(scripts: tuple[Runs, Runs, str], kind: str) -> None:
    measured, bare, _ = scripts
    assert "error" not in measured[kind], measured[kind]["error"]
    without = bare["plain" if kind in AS_PLAIN else kind]
    assert measured[kind]["answers"] == without["answers"] * AS_PLAIN.get(kind, 1)
    assert measured[kind]["figures"]["blocks"] == without["figures"]["blocks"]
    assert without["plugin"] is None
    assert not [name for name, hook in measured[kind]["plugin"]["hooks"].items() if hook["errors"]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "kvcached"])
def test_the_bytes_are_those_of_vllms_tensors(measured: Runs, kind: str) -> None:
    figures, worker, engine = measured[kind]["figures"], worker_of(measured[kind]), engine_of(measured[kind])
    assert worker["weights_bytes"] == figures["weights"] > 0
    assert worker["capacity_bytes"] == engine["capacity_bytes"] == figures["pool"]
    assert worker["block_bytes"] * figures["blocks"] == figures["pool"]
    assert engine["blocks"] == figures["blocks"]
    assert engine["active_bytes"] == (figures["blocks"] - 1 - figures["free"]) * engine["block_bytes"] == 0
    overhead = worker["overhead_bytes"]
    assert set(overhead) == set(names.OVERHEAD_COMPONENTS)
    # In one process with the test's own Python: more than nothing, and not the tensors once more.
    assert worker["allocated_bytes"] == figures["weights"] + figures["pool"] + sum(overhead.values())
    assert 100_000_000 < overhead["other"] < 4_000_000_000


def test_a_plain_model_is_the_measure_of_the_others(measured: Runs) -> None:
    engine, figures = engine_of(measured["plain"]), measured["plain"]["figures"]
    assert (engine["block_bytes"], figures["blocks"]) == (BLOCK_BYTES, KV_BYTES // BLOCK_BYTES)
    assert (engine["lookup_tokens"], engine["hit_tokens"], engine["requests"]) == (TOKENS, 160, 3)
    assert engine["floor_bytes"] == FLOOR_BYTES
    assert engine["info"]["override"] == names.OVERRIDE_NONE


def test_without_prefix_caching_no_pool_would_hit_and_demand_is_known(measured: Runs) -> None:
    engine, plain = engine_of(measured["uncached"]), engine_of(measured["plain"])
    assert not any(engine["reuse_counts"])
    assert (engine["lookup_tokens"], engine["hit_tokens"], engine["reusable_bytes"]) == (TOKENS, 0, 0)
    assert engine["headroom_bytes"] == 0
    assert engine["demand_peak_bytes"] == plain["demand_peak_bytes"] == (-(-106 // BLOCK_TOKENS)) * BLOCK_BYTES
    assert engine["floor_bytes"] == plain["floor_bytes"]


def test_a_pooling_model_is_weights_and_overhead(measured: Runs) -> None:
    run = measured["pooling"]
    engine, worker = engine_of(run), worker_of(run)
    assert run["figures"]["groups"] == 0
    assert (worker["capacity_bytes"], worker["block_bytes"], engine["floor_bytes"]) == (0, 0, 0)
    assert engine["demand_peak_bytes"] == 0
    # vLLM asked for more, and takes nothing of it for a KV cache.
    assert worker["allocated_bytes"] < run["figures"]["requested"]
    assert names.KV_REUSE_DISTANCE_BYTES not in run["plugin"]["page"]


def test_a_decoder_that_pools_keeps_a_cache_like_others(measured: Runs) -> None:
    engine = engine_of(measured["pooling_decoder"])
    assert (engine["lookup_tokens"], engine["hit_tokens"]) == (TOKENS, 160)
    assert engine["floor_bytes"] == FLOOR_BYTES


def test_an_adapter_has_slots_in_the_weights_and_prefixes_of_its_own(measured: Runs) -> None:
    run = measured["adapters"]
    assert worker_of(run)["weights_bytes"] > sum(run["figures"]["loaded"])
    engine = engine_of(run)
    # The same prompt three times: what was computed without the adapter is no hit with it. Two more fill no block.
    assert (engine["lookup_tokens"], engine["hit_tokens"]) == (3 * len(PROMPTS[0]) + 2 * 20, 96)


def test_an_adapter_does_what_it_does_without_the_plugin(scripts: tuple[Runs, Runs, str]) -> None:
    measured, bare, _ = scripts
    without, adapted = bare["adapters"]["notes"]["logprobs"]
    assert max(abs(without[token] - adapted.get(token, -100.0)) for token in without) > 0.01
    assert measured["adapters"]["notes"]["logprobs"] == [without, adapted]


def test_a_draft_model_is_in_the_weights_and_in_the_pool(measured: Runs) -> None:
    run = measured["drafted"]
    model, draft = run["figures"]["loaded"]
    assert worker_of(run)["weights_bytes"] == model + draft
    # One more layer beside four.
    assert engine_of(run)["block_bytes"] == BLOCK_BYTES * 5 // 4
    assert run["answers"] == measured["plain"]["answers"]
    assert engine_of(run)["hit_tokens"] == 160


def test_guessed_tokens_take_no_memory(measured: Runs) -> None:
    run, plain = measured["guessed"], measured["plain"]
    assert worker_of(run)["weights_bytes"] == worker_of(plain)["weights_bytes"]
    assert engine_of(run)["block_bytes"] == engine_of(plain)["block_bytes"]


def test_windows_share_the_pool_with_full_attention(measured: Runs) -> None:
    run = measured["windows"]
    engine = engine_of(run)
    assert run["figures"]["groups"] == 4
    assert (engine["lookup_tokens"], engine["hit_tokens"]) == (TOKENS, 96)
    assert sum(engine["reuse_counts"][:-1]) * engine["block_tokens"] == 96
    assert 0 < engine["active_peak_bytes"] <= engine["demand_peak_bytes"]


def test_packed_weights_count_as_packed(measured: Runs) -> None:
    """Four bits instead of sixteen, beside embeddings that stay."""
    packed = worker_of(measured["quantized"])["weights_bytes"]
    assert packed < worker_of(measured["plain"])["weights_bytes"] / 2 * 0.6


def test_an_engine_that_sleeps_says_so_and_shows_no_demand(measured: Runs) -> None:
    run = measured["sleeping"]
    (asleep,), awake = run["notes"]["asleep"]["engines"], engine_of(run)
    assert (asleep["asleep"], awake["asleep"]) == (1, 0)
    page = run["notes"]["asleep"]["page"]
    assert f'{names.ENGINE_ASLEEP}{{engine="0"}} 1' in page
    for name in (names.KV_CACHE_ACTIVE_BYTES, names.KV_DEMAND_PEAK_BYTES, names.KV_CACHE_REUSABLE_BYTES):
        assert name not in page
        assert name in run["plugin"]["page"]
    # Its cache was emptied: the first prompt is computed again, and the next two hit as before.
    assert (awake["requests"], awake["hit_tokens"]) == (6, 2 * 160)
    assert run["answers"] == measured["plain"]["answers"] * 2


def test_kvcached_is_left_alone(scripts: tuple[Runs, Runs, str]) -> None:
    measured, _, log = scripts
    run = measured["kvcached"]
    engine, worker = engine_of(run), worker_of(run)
    assert run["figures"]["kv_bytes"] == KV_BYTES
    assert engine["info"]["override"] == names.OVERRIDE_KVCACHED
    assert engine["floor_bytes"] == FLOOR_BYTES
    assert worker["weights_bytes"] == run["figures"]["weights"]
    page = run["plugin"]["page"]
    assert f'override="{names.OVERRIDE_KVCACHED}"' in page
    for name in (names.KV_CACHE_CAPACITY_BYTES, names.GPU_MEMORY_ALLOCATED_BYTES, names.KV_CACHE_ACTIVE_BYTES):
        assert name not in page
    assert log.count("vllm-rightsizer sets no size here: kvcached") == 1
