"""Who serves the page, to whom, and for how long."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial, partialmethod
from pathlib import Path

import pytest

from vllm_plugin import exporter as exporter_module
from vllm_plugin import formats, names
from vllm_plugin.exporter import Exporter, _Server
from vllm_plugin.snapshots import SnapshotFolder, default_folder
from vllm_rightsizer.demo.ports import free_ports

from .pages import ENGINE_0, engine, samples, snapshot, worker

LONGEST_SECONDS = 30.0


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    [number] = free_ports(1)
    monkeypatch.setenv(names.ENV_PORT, str(number))
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "snapshots"))
    return number


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exporter]]:
    """Exporters to be stopped after the test, and soon."""
    monkeypatch.setattr(_Server, "serve_forever", partialmethod(_Server.serve_forever, 0.02))
    made: list[Exporter] = []
    yield made
    for exporter in made:
        exporter._step_down()
        if exporter._folder is not None:
            exporter._folder.close()


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
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
    other = SnapshotFolder(default_folder(os.environ, port))
    other.write(snapshot(engines=[engine()]))
    exporters[0].tick()
    with pytest.raises(urllib.error.URLError):
        get(port)
    other.close()


def test_only_one_of_them_leads(port: int, exporters: list[Exporter]) -> None:
    for _ in range(2):
        exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
        exporters[-1].tick()
    assert [exporter._server is not None for exporter in exporters] == [True, False]
    exporters[0]._step_down()
    exporters[1].tick()
    assert get(port)[0] == 200


def test_a_taken_port_is_said_once_and_tried_again(
    port: int, exporters: list[Exporter], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter_module, "_ANSWER_SECONDS", 0.1)
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", port))
        other.listen()
        for _ in range(3):
            exporters[0].tick()
        assert len([record for record in caplog.records if str(port) in record.getMessage()]) == 1
        assert list(default_folder(os.environ, port).glob("*.json"))
    exporters[0].tick()
    assert get(port)[0] == 200


def test_a_port_taken_by_a_plugin_that_does_not_know_of_this_one(
    port: int,
    exporters: list[Exporter],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two containers of a pod share its network, and not each other's files."""
    for name in ("one", "two"):
        monkeypatch.setenv(names.ENV_DIR, str(tmp_path / name))
        exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[{**engine(), "requests": len(exporters)}])))
        exporters[-1].tick()
    exporters[1].tick()
    advice = [record.getMessage() for record in caplog.records if "another vLLM's" in record.getMessage()]
    assert len(advice) == 1
    assert str(port) in advice[0]
    assert names.ENV_DIR in advice[0]
    assert samples(get(port)[1])[names.REQUESTS, ENGINE_0] == 0
    exporters[0]._step_down()
    exporters[1].tick()
    assert samples(get(port)[1])[names.REQUESTS, ENGINE_0] == 1


def test_each_reader_gets_its_form_and_what_that_takes_is_counted(port: int, exporters: list[Exporter]) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    for accept in (formats.TEXT_TYPE, formats.OPENMETRICS_TYPE, formats.PROTOBUF_TYPE, names.COMPACT_TYPE):
        before = exporter_module.hook("exporter").seconds
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["Content-Type"] == accept
            body = answer.read()
        assert body.endswith(b"# EOF\n") == (accept == formats.OPENMETRICS_TYPE)
        assert body.startswith(b"# HELP") == (accept == formats.TEXT_TYPE)
        assert exporter_module.hook("exporter").seconds > before


def test_without_a_folder_a_process_shows_itself(
    port: int, exporters: list[Exporter], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "file" / "folder"))
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    assert get(port)[0] == 200


def test_a_folder_without_room_for_a_lock_is_no_reason_not_to_serve(port: int, exporters: list[Exporter]) -> None:
    (default_folder(os.environ, port) / "leader.lock").mkdir(parents=True)
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    assert get(port)[0] == 200


def open_half(port: int, count: int) -> list[socket.socket]:
    """Connections on which a request begins and does not go on."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) for _ in range(count)]
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
    monkeypatch.setattr(exporter_module, "_REQUEST_SECONDS", 2 * LONGEST_SECONDS)
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    threads = set(threading.enumerate())
    clients = open_half(port, 20)
    try:
        assert all(is_closed(client, LONGEST_SECONDS) for client in clients[8:])
        assert len(set(threading.enumerate()) - threads) == 8
        alive = [client for client in clients if not is_closed(client, 0.01)]
        assert alive == clients[:8]
        monkeypatch.setattr(exporter_module, "_REQUEST_SECONDS", 0.2)
        server, start = exporters[0]._server, time.monotonic()
        assert server is not None
        while (alive or server._open) and time.monotonic() - start < LONGEST_SECONDS:
            # Not even one that sends a byte now and then may stay.
            for client in alive:
                with suppress(OSError):
                    client.sendall(b"x")
            time.sleep(0.05)
            alive = [client for client in alive if not is_closed(client, 0.01)]
        assert not alive
        monkeypatch.setattr(exporter_module, "_REQUEST_SECONDS", LONGEST_SECONDS)
        assert get(port)[0] == 200
    finally:
        for client in clients:
            client.close()


def test_a_connection_is_closed_after_its_answer(port: int, exporters: list[Exporter]) -> None:
    exporters.append(Exporter(partial(snapshot, os.getpid(), engines=[engine()])))
    exporters[0].tick()
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"ok\n")
