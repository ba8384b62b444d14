"""What the environment asks for, and what becomes of vLLM's arguments."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from vllm_plugin import override
from vllm_plugin.names import ENV_ALLOCATION_BYTES as ALLOCATION
from vllm_plugin.names import ENV_GPU_MEMORY_UTILIZATION as UTILIZATION
from vllm_plugin.names import ENV_KV_BYTES as KV_BYTES


def total() -> int:
    return 80_000_000_000


def arguments(utilization: float = 0.9, kv_bytes: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(gpu_memory_utilization=utilization, kv_cache_memory_bytes=kv_bytes)


@pytest.mark.parametrize(
    ("environ", "state", "utilization", "kv_bytes"),
    [
        ({}, "none", 0.9, None),
        ({KV_BYTES: "", UTILIZATION: ""}, "none", 0.9, None),
        ({KV_BYTES: "70000000"}, "applied", 0.9, 70_000_000),
        ({UTILIZATION: "0.25"}, "applied", 0.25, None),
        ({KV_BYTES: "70000000", UTILIZATION: "0.25"}, "applied", 0.25, 70_000_000),
        ({KV_BYTES: "7e7"}, "refused", 0.9, None),
        ({KV_BYTES: "1G"}, "refused", 0.9, None),
        ({KV_BYTES: "0"}, "refused", 0.9, None),
        ({KV_BYTES: "-5"}, "refused", 0.9, None),
        ({UTILIZATION: "1.5"}, "refused", 0.9, None),
        ({UTILIZATION: "0"}, "refused", 0.9, None),
        ({UTILIZATION: "nan"}, "refused", 0.9, None),
        ({ALLOCATION: "20000000001"}, "applied", 0.2501, None),
        ({ALLOCATION: "90000000000"}, "applied", 1.0, None),
        ({ALLOCATION: "20000000000", KV_BYTES: "70000000"}, "applied", 0.25, 70_000_000),
        ({ALLOCATION: "20000000000", UTILIZATION: "0.5"}, "applied", 0.5, None),
        ({ALLOCATION: "2e10", KV_BYTES: "70000000"}, "refused", 0.9, None),
        ({UTILIZATION: "half", KV_BYTES: "70000000"}, "refused", 0.9, None),
    ],
)
def test_outcomes(environ: dict[str, str], state: str, utilization: float, kv_bytes: int | None) -> None:
    given = arguments()
    outcome = override.apply(given, environ, total)
    assert (outcome.state, given.gpu_memory_utilization, given.kv_cache_memory_bytes) == (state, utilization, kv_bytes)
    assert (outcome.requested_utilization, outcome.requested_kv_bytes) == (0.9, None)


def test_a_vllm_without_kv_bytes_takes_the_utilization_or_refuses() -> None:
    old = SimpleNamespace(gpu_memory_utilization=0.9)
    assert override.apply(old, {KV_BYTES: "5"}, total).state == "refused"
    assert override.apply(old, {KV_BYTES: "5", UTILIZATION: "0.5"}, total).state == "applied"
    assert vars(old) == {"gpu_memory_utilization": 0.5}


def test_a_number_of_blocks_does_not_win_over_the_sizes() -> None:
    given = SimpleNamespace(gpu_memory_utilization=0.9, kv_cache_memory_bytes=None, num_gpu_blocks_override=512)
    override.apply(given, {}, total)
    assert given.num_gpu_blocks_override == 512
    override.apply(given, {KV_BYTES: "70000000"}, total)
    assert given.num_gpu_blocks_override is None


def test_doing_it_again_changes_nothing_and_remembers_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(override.ENV_OUTCOME, "")
    monkeypatch.setenv(KV_BYTES, "70000000")
    given = arguments(kv_bytes=100_000_000)

    for _ in range(3):
        override.remember(override.apply(given, os.environ, total))
        recalled = override.recall(os.environ)
        assert recalled is not None
        assert (recalled.state, recalled.requested_kv_bytes) == ("applied", 100_000_000)
        assert given.kv_cache_memory_bytes == 70_000_000


def test_each_engine_gets_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(override.ENV_OUTCOME, "")

    servers = set()
    for _ in range(2):
        override.remember(override.Outcome())
        recalled = override.recall(os.environ)
        assert recalled is not None
        servers.add(recalled.server)
    assert len(servers) == 2


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_kvcached_is_left_alone(value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(override.ENV_OUTCOME, "")
    monkeypatch.setenv("ENABLE_KVCACHED", value)
    monkeypatch.setenv(KV_BYTES, "70000000")
    given = arguments()
    for _ in range(3):
        override.remember(override.apply(given, os.environ, total))
    assert vars(given) == vars(arguments())
    recalled = override.recall(os.environ)
    assert recalled is not None
    assert recalled.state == "kvcached"
    assert sum("kvcached" in record.message for record in caplog.records) == 1


def test_kvcached_that_is_off_changes_nothing() -> None:
    given = arguments()
    assert override.apply(given, {"ENABLE_KVCACHED": "false", KV_BYTES: "70000000"}, total).state == "applied"


@pytest.mark.parametrize(
    ("outcome", "utilization", "kv_bytes", "decides"),
    [
        ({}, 0.9, None, False),
        ({}, 0.9, 5, False),
        ({"applied_utilization": 0.3}, 0.3, None, True),
        ({"applied_utilization": 0.3}, 0.9, None, False),
        # Bytes win in vLLM, whoever set them.
        ({"applied_utilization": 0.3}, 0.3, 5, False),
        ({"applied_utilization": 0.3, "applied_kv_bytes": 5}, 0.3, 5, True),
        ({"applied_kv_bytes": 5}, 0.9, 6, False),
        ({"applied_kv_bytes": 5, "raised_kv_bytes": 6}, 0.9, 6, True),
    ],
)
def test_whose_value_sizes_the_pool(
    outcome: dict[str, float], utilization: float, kv_bytes: int | None, decides: bool
) -> None:
    assert override.Outcome("applied", **outcome).decides(arguments(utilization, kv_bytes)) is decides


def test_a_raised_size_is_known_to_those_who_come_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(override.ENV_OUTCOME, "")
    monkeypatch.setenv(KV_BYTES, "700")
    given = arguments()
    override.remember(override.apply(given, os.environ, total))
    first = override.recall(os.environ)
    assert first is not None
    override.remember_raised(first, 70_000)
    raised = override.recall(os.environ)
    assert raised is not None
    assert (raised.state, raised.raised_kv_bytes, raised.server) == ("raised", 70_000, first.server)
    assert (raised.applied_kv_bytes, raised.requested_utilization) == (700, 0.9)
    # The next vLLM with these arguments starts from what was asked for.
    again = override.apply(given, os.environ, total)
    assert (again.state, again.applied_kv_bytes, again.raised_kv_bytes) == ("applied", 700, None)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"state": "applied", "unknown": 1}'])
def test_a_damaged_note_is_none(text: str) -> None:
    assert override.recall({override.ENV_OUTCOME: text}) is None
