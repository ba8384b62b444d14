"""Volumes as folders, mount paths as paths of this machine."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from vllm_rightsizer.demo.volumes import make_volumes, mounts_of, translate
from vllm_rightsizer.errors import UserError

MAP = {"data": {"a.txt": "text"}, "binaryData": {"b.bin": base64.b64encode(b"\x00\x01").decode()}}


def volumes(folder: Path, *entries: dict[str, Any]) -> dict[str, Path]:
    return make_volumes({"spec": {"volumes": list(entries)}}, folder, {"map": MAP}.get)


def test_empty_dir_is_an_empty_folder(tmp_path: Path) -> None:
    made = volumes(tmp_path, {"name": "run", "emptyDir": {}})
    assert list(made["run"].iterdir()) == []


def test_config_map_has_text_and_binary_files(tmp_path: Path) -> None:
    made = volumes(tmp_path, {"name": "m", "configMap": {"name": "map"}})
    assert (made["m"] / "a.txt").read_text() == "text"
    assert (made["m"] / "b.bin").read_bytes() == b"\x00\x01"


def test_config_map_items_choose_and_rename(tmp_path: Path) -> None:
    source = {"name": "map", "items": [{"key": "a.txt", "path": "in/a"}]}
    made = volumes(tmp_path, {"name": "m", "configMap": source})
    assert [path.relative_to(made["m"]).as_posix() for path in made["m"].rglob("*") if path.is_file()] == ["in/a"]


def test_a_missing_map_is_an_error_unless_optional(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="volume m: there is no ConfigMap gone"):
        volumes(tmp_path / "1", {"name": "m", "configMap": {"name": "gone"}})
    made = volumes(tmp_path / "2", {"name": "m", "configMap": {"name": "gone", "optional": True}})
    assert list(made["m"].iterdir()) == []


def test_host_path(tmp_path: Path) -> None:
    assert volumes(tmp_path, {"name": "h", "hostPath": {"path": str(tmp_path)}})["h"] == tmp_path
    with pytest.raises(UserError, match=r"volume h: .*gone is not there"):
        volumes(tmp_path, {"name": "h", "hostPath": {"path": str(tmp_path / "gone")}})
    made = volumes(tmp_path, {"name": "h", "hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}})
    assert made["h"].is_dir()


def test_other_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"volume s: .* not secret"):
        volumes(tmp_path, {"name": "s", "secret": {"secretName": "x"}})


def test_a_mount_without_its_volume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="container vllm: mounts gone, which is no volume of the pod"):
        mounts_of({"name": "vllm", "volumeMounts": [{"name": "gone", "mountPath": "/x"}]}, {"run": tmp_path})


def test_sub_paths(tmp_path: Path) -> None:
    container = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/x/", "subPath": "in"}]}
    assert mounts_of(container, {"v": tmp_path}) == {"/x": tmp_path / "in"}


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("/model", "/host/m"),
        ("--model=/model/config.json", "--model=/host/m/config.json"),
        ("/model:/model/sub:/other", "/host/m:/host/s:/other"),
        ("/model/sub/x", "/host/s/x"),
        ("/models", "/models"),
        ("/model-2", "/model-2"),
        ("/srv/model", "/srv/model"),
        ("open('/model/a')", "open('/host/m/a')"),
        ("file:///model", "file:///model"),
    ],
)
def test_paths_are_translated_as_wholes(text: str, translated: str) -> None:
    assert translate(text, {"/model": Path("/host/m"), "/model/sub": Path("/host/s")}) == translated
