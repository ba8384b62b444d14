"""Snapshots, the page, and who serves it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_plugin import exporter as exporter_module
from vllm_plugin import names, page
from vllm_plugin.exporter import Exporter, port_of
from vllm_plugin.snapshots import SnapshotFolder, default_folder, start_time

MIB = 1 << 20


def engine(number: int = 0, server: str = "1-0") -> dict[str, Any]:
    counts = [0] * 146
    counts[8], counts[16], counts[-1] = 5, 7, 3
    return {
        "server": server,
        "engine": number,
        "block_bytes": MIB,
        "block_tokens": 16,
        "capacity_bytes": 100 * MIB,
        "active_bytes": 5 * MIB,
        "active_peak_bytes": 9 * MIB,
        "demand_peak_bytes": 11 * MIB,
        "reusable_bytes": 50 * MIB,
        "headroom_bytes": 4 * MIB,
        "floor_bytes": 33 * MIB,
        "preemptions": 1,
        "admissions_blocked": 2,
        "requests": 30,
        "lookup_tokens": 4000,
        "hit_tokens": 1000,
        "reuse_counts": counts,
        "reuse_sum_bytes": 12345,
        "info": {"model": 'a "quoted"\\ name', "override": "none"},
    }


def worker(number: int = 0, rank: int = 0, server: str = "1-0") -> dict[str, Any]:
    return {
        "server": server,
        "engine": number,
        "rank": rank,
        "weights_bytes": 200 * MIB,
        "capacity_bytes": 100 * MIB,
        "block_bytes": MIB,
        "total_bytes": 1000 * MIB,
        "allocated_bytes": 500 * MIB,
        "overhead_bytes": {"activations": 1, "cuda_graphs": 2, "non_torch": 3, "other": 4},
        "info": {},
    }


def snapshot(pid: int = 1, started: int = 1, **parts: Any) -> dict[str, Any]:
    hooks = {"lookup": {"active": True, "errors": 0, "seconds": 0.5}}
    base = {"pid": pid, "started": started, "version": "1", "loaded_from": "here", "engines": [], "workers": []}
    return {**base, "hooks": hooks, **parts}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


ENGINE_0 = (("engine", "0"),)
RANK_0 = (("engine", "0"), ("rank", "0"))


def test_every_metric_of_the_contract_is_on_the_page() -> None:
    text = page.render([snapshot(1, engines=[engine()]), snapshot(2, 2, workers=[worker()])])
    contract = {
        value
        for key, value in vars(names).items()
        if key.isupper() and isinstance(value, str) and value.startswith(names.PREFIX) and value != names.PREFIX
    }
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families == contract
    assert len(text) < 40_000


def test_values_and_labels() -> None:
    found = samples(page.render([snapshot(1, engines=[engine()]), snapshot(2, 2, workers=[worker()])]))
    assert found[names.KV_CACHE_CAPACITY_BYTES, RANK_0] == 100 * MIB
    assert found[names.MODEL_WEIGHTS_BYTES, RANK_0] == 200 * MIB
    assert found[names.KV_DEMAND_PEAK_BYTES, ENGINE_0] == 11 * MIB
    assert found[names.RUNTIME_OVERHEAD_BYTES, (("component", "non_torch"), *RANK_0)] == 3
    assert found[names.HOOK_SECONDS, ()] == 1.0
    assert found[names.ENGINE_INFO, (("engine", "0"), ("model", 'a "quoted"\\ name'), ("override", "none"))] == 1


def test_the_histogram_is_cumulative_and_complete() -> None:
    found = samples(page.render([snapshot(engines=[engine()])]))
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
    text = page.render([snapshot(engines=[bare])])
    assert names.KV_REUSE_DISTANCE_BYTES not in text
    assert names.PREFIX_CACHE_HEADROOM_BYTES not in text
    assert samples(text)[names.REQUESTS, ENGINE_0] == 30
    both = samples(page.render([snapshot(engines=[engine(), {**bare, "engine": 1}])]))
    counts = [labels for name, labels in both if name == f"{names.KV_REUSE_DISTANCE_BYTES}_count"]
    assert counts == [ENGINE_0]


def test_an_engine_stands_for_rank_0_until_its_worker_reports() -> None:
    found = samples(page.render([snapshot(engines=[engine()])]))
    assert found[names.KV_CACHE_CAPACITY_BYTES, RANK_0] == 100 * MIB
    assert (names.MODEL_WEIGHTS_BYTES, RANK_0) not in found


def test_ranks_engines_and_servers_are_told_apart() -> None:
    snapshots = [
        snapshot(1, 1, engines=[engine(0), engine(1)], workers=[worker(0, 0), worker(0, 1), worker(1, 0)]),
        snapshot(9, 9, engines=[engine(0, "9-0")], workers=[worker(0, 0, "9-0")]),
    ]
    found = samples(page.render(snapshots))
    ranks = {labels for name, labels in found if name == names.MODEL_WEIGHTS_BYTES}
    assert {dict(labels)["engine"] + "/" + dict(labels)["rank"] for labels in ranks} == {"0/0", "0/1", "1/0", "1.0/0"}


def test_a_hook_that_is_off_anywhere_is_off() -> None:
    off = {"lookup": {"active": False, "errors": 5, "seconds": 0.0}}
    found = samples(page.render([snapshot(1), snapshot(2, 2, hooks=off)]))
    assert found[names.HOOKS_ACTIVE, (("hook", "lookup"),)] == 0
    assert found[names.HOOK_ERRORS, (("hook", "lookup"),)] == 5


# --- Snapshots ----------------------------------------------------------------------------------------------------


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def put(folder: SnapshotFolder, pid: int, started: int | None) -> Path:
    file = folder.path / f"{pid}.json"
    file.write_text(json.dumps({"pid": pid, "started": started}))
    return file


def test_only_living_processes_count(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    parent = os.getppid()
    living = put(folder, parent, start_time(parent))
    gone = put(folder, dead_pid(), 5)
    (folder.path / "123456789.json").write_text("{ torn")
    assert [other["pid"] for other in folder.others()] == [parent]
    assert (living.exists(), gone.exists()) == (True, False)


def test_a_reused_process_number_does_not_count(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    parent = os.getppid()
    put(folder, parent, (start_time(parent) or 0) - 1)
    assert folder.others() == []


def test_a_process_does_not_read_its_own(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    folder.write({"pid": os.getpid()})
    assert json.loads((folder.path / f"{os.getpid()}.json").read_text())["started"] == start_time(os.getpid())
    assert folder.others() == []


def test_the_folder_is_private_and_somebody_elses_is_refused(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "open").mkdir()
    (shared / "open").chmod(0o777)
    with pytest.raises(PermissionError):
        SnapshotFolder(shared / "open")
    (shared / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        SnapshotFolder(shared / "link")


def test_the_default_folder_differs_by_port() -> None:
    assert default_folder({}, 9415) != default_folder({}, 9416)
    assert default_folder({"VLLM_RIGHTSIZER_DIR": "/run/x"}, 9415) == Path("/run/x")


@pytest.mark.parametrize(("text", "port"), [(None, 9415), ("", 9415), ("9500", 9500), ("0", 9415), ("http", 9415)])
def test_ports(text: str | None, port: int) -> None:
    assert port_of(text) == port


# --- Serving ------------------------------------------------------------------------------------------------------


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    monkeypatch.setenv(names.ENV_PORT, str(number))
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "snapshots"))
    return number


@pytest.fixture
def exporters() -> Iterator[list[Exporter]]:
    """Exporters to be stopped after the test."""
    made: list[Exporter] = []
    yield made
    for exporter in made:
        exporter._step_down()


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_engine_serves_at_once(port: int, exporters: list[Exporter]) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    status, text = get(port)
    assert status == 200
    assert samples(text)[names.REQUESTS, ENGINE_0] == 30
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/")[0] == 404


def test_a_worker_waits_for_engines(port: int, exporters: list[Exporter]) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), workers=[worker()])))
    exporters[0].tick()
    with pytest.raises(urllib.error.URLError):
        get(port)
    exporters[0]._ready_since = time.monotonic() - 60
    exporters[0].tick()
    assert get(port)[0] == 200
    folder = SnapshotFolder(Path(os.environ[names.ENV_DIR]))
    parent = os.getppid()
    other = snapshot(parent, start_time(parent) or 0, engines=[engine()])
    (folder.path / f"{parent}.json").write_text(json.dumps(other))
    exporters[0].tick()
    with pytest.raises(urllib.error.URLError):
        get(port)


def test_only_one_of_them_leads(port: int, exporters: list[Exporter]) -> None:
    for _ in range(2):
        exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
        exporters[-1].tick()
    assert [exporter._server is not None for exporter in exporters] == [True, False]
    exporters[0]._step_down()
    exporters[1].tick()
    assert get(port)[0] == 200


def test_a_taken_port_is_said_once_and_tried_again(
    port: int, exporters: list[Exporter], caplog: pytest.LogCaptureFixture
) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", port))
        other.listen()
        for _ in range(3):
            exporters[0].tick()
        assert len([record for record in caplog.records if str(port) in record.getMessage()]) == 1
        assert list(Path(os.environ[names.ENV_DIR]).glob("*.json"))
    exporters[0].tick()
    assert get(port)[0] == 200


def test_without_a_folder_a_process_shows_itself(
    port: int, exporters: list[Exporter], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "file" / "folder"))
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    assert get(port)[0] == 200


def open_half(port: int, count: int) -> list[socket.socket]:
    """Connections on which a request begins and does not go on."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(count)]
    for client in clients:
        with suppress(OSError):
            client.sendall(b"GET /metrics HT")
    return clients


def is_closed(client: socket.socket, seconds: float) -> bool:
    client.settimeout(seconds)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_half_open_connections_are_few_and_do_not_stay(
    port: int, exporters: list[Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter_module, "_REQUEST_SECONDS", 4.0)
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    threads = threading.active_count()
    clients = open_half(port, 20)
    try:
        assert all(is_closed(client, 2) for client in clients[8:])
        assert threading.active_count() - threads == 8
        alive = [client for client in clients if not is_closed(client, 0.01)]
        assert alive == clients[:8]
        start = time.monotonic()
        while alive and time.monotonic() - start < 10:
            # Not even one that sends a byte now and then may stay.
            for client in alive:
                with suppress(OSError):
                    client.sendall(b"x")
            time.sleep(0.1)
            alive = [client for client in alive if not is_closed(client, 0.01)]
        assert not alive
        assert get(port)[0] == 200
    finally:
        for client in clients:
            client.close()


def test_a_connection_is_closed_after_its_answer(port: int, exporters: list[Exporter]) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"ok\n")
