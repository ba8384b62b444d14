"""The two wheels, their versions and the lock file agree with each other."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_config_map, plugin_map_name, plugin_wheel
from vllm_plugin import names

ROOT = Path(__file__).parents[3]


def _project(path: str) -> dict[str, object]:
    project = tomllib.loads((ROOT / path).read_text())["project"]
    assert isinstance(project, dict)
    return project


def test_one_version_everywhere() -> None:
    control_plane, plugin = _project("pyproject.toml"), _project("vllm_plugin/pyproject.toml")
    assert control_plane["version"] == plugin["version"] == names.VERSION
    assert f"{names.DISTRIBUTION}=={names.VERSION}" in control_plane["dependencies"]
    assert plugin["name"] == names.DISTRIBUTION


def test_the_plugin_needs_nothing_and_registers_where_vllm_looks() -> None:
    plugin = _project("vllm_plugin/pyproject.toml")
    assert "dependencies" not in plugin
    assert plugin["entry-points"] == {names.ENTRY_POINT_GROUP: {names.ENTRY_POINT: names.ENTRY_POINT_VALUE}}


@pytest.mark.processes
def test_the_config_map_carries_the_wheel_that_the_build_makes(tmp_path: Path) -> None:
    uv = subprocess.run([ROOT / ".ci/uv"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(
        [uv, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", tmp_path, ROOT / "vllm_plugin"],
        check=True,
    )
    built = zipfile.ZipFile(tmp_path / WHEEL_FILE)
    carried = zipfile.ZipFile(io.BytesIO(plugin_wheel()))
    info = re.sub(r"-py3.*", ".dist-info/", WHEEL_FILE)
    code = {name for name in built.namelist() if not name.startswith(info)}
    assert code == {name for name in carried.namelist() if not name.startswith(info)}
    assert len(code) > 5
    for name in [*code, info + "entry_points.txt"]:
        assert carried.read(name).split() == built.read(name).split(), name
    assert (
        HeaderParser().parsestr(carried.read(info + "METADATA").decode())["Version"]
        == HeaderParser().parsestr(built.read(info + "METADATA").decode())["Version"]
    )


def test_the_wheel_is_small_and_its_map_is_named_by_content() -> None:
    assert len(plugin_wheel()) <= 200_000
    config_map = plugin_config_map("chat")
    assert config_map["metadata"]["name"] == plugin_map_name()
    assert config_map["immutable"] is True
    assert list(config_map["binaryData"]) == [WHEEL_FILE]


def test_an_interpreter_finds_the_entry_point_in_the_zipped_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / WHEEL_FILE
    wheel.write_bytes(plugin_wheel())
    script = (
        "import importlib.metadata as m; "
        f"[point] = [p for p in m.entry_points(group={names.ENTRY_POINT_GROUP!r}) if p.name == {names.ENTRY_POINT!r}]; "
        "print(point.load().__module__, __import__('vllm_plugin').__file__)"
    )
    # Isolated from this environment's own packages: only the wheel can give the entry point.
    found = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(wheel)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found == ["vllm_plugin", str(wheel / "vllm_plugin" / "__init__.py")]


def test_the_lock_file_names_no_host_and_pins_every_package() -> None:
    lines = [line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    assert all("==" in line.partition(";")[0] for line in lines if line.strip())
