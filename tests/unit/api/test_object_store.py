"""The folder that stands in for the API server."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from recommender.api.object_store import FileObjectStore


def obj(name: str = "a", namespace: str | None = "chat", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **fields}


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path / "objects")


def test_apply_get_list_delete(store: FileObjectStore) -> None:
    assert store.apply(obj())
    assert store.apply(obj("b", "other"))
    assert store.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "chat"}})
    found = store.get("Pod", "chat", "a")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "1"
    assert [one["metadata"]["name"] for one in store.list("Pod")] == ["a", "b"]
    assert [one["metadata"]["name"] for one in store.list("Pod", "chat")] == ["a"]
    assert store.get("Namespace", None, "chat") is not None
    assert store.delete("Pod", "chat", "a")
    assert not store.delete("Pod", "chat", "a")
    assert store.get("Pod", "chat", "a") is None


def test_nothing_is_written_where_nothing_changed(store: FileObjectStore) -> None:
    store.apply(obj(spec={"x": 1}))
    revision = store.revision()
    assert not store.apply(obj(spec={"x": 1}))
    assert store.revision() == revision
    assert store.apply(obj(spec={"x": 2}))
    assert store.revision() != revision
    found = store.get("Pod", "chat", "a")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "2"


def test_a_change_is_seen_whatever_the_clock_of_the_file_system(store: FileObjectStore) -> None:
    """Of many kernels it stands still for milliseconds."""
    store.apply(obj(spec={"x": 1}))
    revision = store.revision()
    [path] = store.folder.rglob("*.json")
    written = path.stat().st_mtime_ns
    store.apply(obj(spec={"x": 2}))
    os.utime(path, ns=(written, written))
    assert store.revision() != revision


def test_a_spoilt_file_is_passed_over_and_left(store: FileObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    store.apply(obj("good"))
    for name, text in {"cut": '{"metadata": {', "list": "[]", "bare": "{}"}.items():
        (store.folder / "pod" / "chat" / f"{name}.json").write_text(text)
    assert [one["metadata"]["name"] for one in store.list("Pod")] == ["good"]
    assert caplog.text.count("mend or remove the file") == 3
    assert (store.folder / "pod" / "chat" / "cut.json").exists()


def _count_up(folder: Path, worker: int) -> None:
    store = FileObjectStore(folder)
    for number in range(25):
        store.apply(obj(spec={"worker": worker, "number": number}))


def test_writers_do_not_lose_each_others_updates(store: FileObjectStore) -> None:
    workers = [multiprocessing.Process(target=_count_up, args=(store.folder, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = store.get("Pod", "chat", "a")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "75"
    assert not list(store.folder.rglob("*.tmp"))


def test_a_status_is_written_without_touching_the_rest(store: FileObjectStore) -> None:
    """A person pauses between our reading and our writing."""
    store.apply(obj(spec={"paused": False}, status={"x": 1}))
    seen = store.get("Pod", "chat", "a")
    assert seen is not None
    store.apply(obj(spec={"paused": True}, status={"x": 1}))
    assert store.apply_status({**seen, "status": {"x": 2}})
    found = store.get("Pod", "chat", "a")
    assert found is not None
    assert (found["spec"], found["status"]) == ({"paused": True}, {"x": 2})
    assert found["metadata"]["resourceVersion"] == "3"
    assert not store.apply_status({**seen, "status": {"x": 2}})


def test_a_status_alone_makes_no_object(store: FileObjectStore) -> None:
    assert not store.apply_status(obj(status={"x": 1}))
    assert store.get("Pod", "chat", "a") is None
