"""What stands on the page, and under which labels."""

from __future__ import annotations

from vllm_plugin import names

from .pages import ENGINE_0, MIB, RANK_0, engine, render, samples, snapshot, worker


def test_every_metric_of_the_contract_is_on_the_page() -> None:
    text = render([snapshot(1, engines=[engine()]), snapshot(2, 2, workers=[worker()])])
    contract = {
        value
        for key, value in vars(names).items()
        if key.isupper() and isinstance(value, str) and value.startswith(names.PREFIX) and value != names.PREFIX
    }
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families == contract
    assert len(text) < 40_000


def test_values_and_labels() -> None:
    found = samples(render([snapshot(1, engines=[engine()]), snapshot(2, 2, workers=[worker()])]))
    assert found[names.KV_CACHE_CAPACITY_BYTES, RANK_0] == 100 * MIB
    assert found[names.MODEL_WEIGHTS_BYTES, RANK_0] == 200 * MIB
    assert found[names.KV_DEMAND_PEAK_BYTES, ENGINE_0] == 11 * MIB
    assert found[names.RUNTIME_OVERHEAD_BYTES, (("component", "non_torch"), *RANK_0)] == 3
    assert found[names.HOOK_SECONDS, ()] == 1.0
    assert found[names.ENGINE_INFO, (("engine", "0"), ("model", 'a "quoted"\\ name'), ("override", "none"))] == 1


def test_the_histogram_is_cumulative_and_complete() -> None:
    found = samples(render([snapshot(engines=[engine()])]))
    name = names.KV_REUSE_DISTANCE_BYTES
    buckets = {
        float(dict(labels)["le"]): value for (sample, labels), value in found.items() if sample == f"{name}_bucket"
    }
    assert len(buckets) == 146
    assert [buckets[bound] for bound in (2.0 * MIB, 4.0 * MIB, float("inf"))] == [5, 12, 15]
    assert found[f"{name}_count", ENGINE_0] == 15
    assert found[f"{name}_sum", ENGINE_0] == 12345


def test_an_engine_without_a_curve_has_no_histogram() -> None:
    bare = {**engine(), "reuse_counts": [], "reuse_sum_bytes": 0, "headroom_bytes": None}
    text = render([snapshot(engines=[bare])])
    assert names.KV_REUSE_DISTANCE_BYTES not in text
    assert names.PREFIX_CACHE_HEADROOM_BYTES not in text
    assert samples(text)[names.REQUESTS, ENGINE_0] == 30
    both = samples(render([snapshot(engines=[engine(), {**bare, "engine": 1}])]))
    counts = [labels for name, labels in both if name == f"{names.KV_REUSE_DISTANCE_BYTES}_count"]
    assert counts == [ENGINE_0]


def test_an_engine_stands_for_rank_0_until_its_worker_reports() -> None:
    found = samples(render([snapshot(engines=[engine()])]))
    assert found[names.KV_CACHE_CAPACITY_BYTES, RANK_0] == 100 * MIB
    assert (names.MODEL_WEIGHTS_BYTES, RANK_0) not in found


def test_ranks_engines_and_servers_are_told_apart() -> None:
    numbers = {"1-0": 0, "9-0": 1}
    snapshots = [
        snapshot(1, 1, engines=[engine(0), engine(1)], workers=[worker(0, 0), worker(0, 1), worker(1, 0)]),
        snapshot(9, 9, engines=[engine(0, "9-0")], workers=[worker(0, 0, "9-0")], servers=numbers),
    ]
    found = samples(render(snapshots))
    ranks = {labels for name, labels in found if name == names.MODEL_WEIGHTS_BYTES}
    assert {dict(labels)["engine"] + "/" + dict(labels)["rank"] for labels in ranks} == {"0/0", "0/1", "1/0", "1.0/0"}


def test_without_a_folder_a_process_numbers_its_own_servers() -> None:
    found = samples(render([snapshot(engines=[engine(0, "a"), engine(0, "b")])]))
    assert {dict(labels)["engine"] for name, labels in found if name == names.REQUESTS} == {"0", "1.0"}


def test_replicas_of_one_scheduler_count_once() -> None:
    """torchrun's ranks all run it; and vLLM may build one anew before the old one is gone."""
    newer = {**engine(), "requests": 31}
    replica = {**engine(), "requests": 29}
    snapshots = [
        snapshot(2, 2, engines=[replica], workers=[worker(0, 1)]),
        snapshot(1, 1, engines=[engine(), newer], workers=[worker(0, 0)]),
    ]
    found = samples(render(snapshots))
    assert found[names.REQUESTS, ENGINE_0] == 31
    assert {dict(labels)["rank"] for name, labels in found if name == names.KV_CACHE_CAPACITY_BYTES} == {"0", "1"}


def test_engines_and_ranks_stand_in_the_order_of_their_numbers() -> None:
    text = render([snapshot(workers=[worker(0, rank) for rank in (10, 2, 0)])])
    lines = [line for line in text.splitlines() if line.startswith(names.MODEL_WEIGHTS_BYTES)]
    assert [line.partition('rank="')[2].partition('"')[0] for line in lines] == ["0", "2", "10"]


def test_the_pods_identity_is_told_where_it_is_known() -> None:
    build = samples(render([snapshot(), snapshot(2, 2, pod_uid="")]))
    assert [labels for name, labels in build if name == names.BUILD_INFO] == [
        (("loaded_from", "here"), ("version", "1"))
    ]
    known = samples(render([snapshot(pod_uid="0b5e")]))
    assert known[names.BUILD_INFO, (("loaded_from", "here"), ("pod_uid", "0b5e"), ("version", "1"))] == 1


def test_a_hook_that_is_off_anywhere_is_off() -> None:
    off = {"lookup": {"active": False, "errors": 5, "seconds": 0.0}}
    found = samples(render([snapshot(1), snapshot(2, 2, hooks=off)]))
    assert found[names.HOOKS_ACTIVE, (("hook", "lookup"),)] == 0
    assert found[names.HOOK_ERRORS, (("hook", "lookup"),)] == 5
