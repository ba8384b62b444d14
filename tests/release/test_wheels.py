"""Both wheels, as somebody gets them: complete, checked as a package index does it, installed and run."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

from bench.lab.programs import ROOT
from vllm_plugin.names import ENTRY_POINT_GROUP, VERSION

from .checkouts import clone, of_working_tree
from .tools import TWINE, tool, uv, wrong_bills

pytestmark = pytest.mark.processes

PLUGIN = f"vllm_rightsizer_plugin-{VERSION}-py3-none-any.whl"
CONTROL_PLANE = f"vllm_rightsizer-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of both wheels, built by two people."""
    folder = tmp_path_factory.mktemp("wheels")
    one = of_working_tree(folder / "one", folder / "home-one")
    another = clone(one, folder / "of" / "another", folder / "home-another")
    for checkout in (one, another):
        checkout.run("make", "wheels", PYTHON=sys.executable)
    return [one.folder / "dist", another.folder / "dist"]


@pytest.fixture(scope="module")
def wheels(builds: list[Path]) -> list[Path]:
    return [builds[0] / PLUGIN, builds[0] / CONTROL_PLANE]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def test_two_builds_are_the_same(builds: list[Path]) -> None:
    for name in (PLUGIN, CONTROL_PLANE):
        assert (builds[0] / name).read_bytes() == (builds[1] / name).read_bytes(), name


def test_they_carry_the_licence_and_say_what_they_are(wheels: list[Path]) -> None:
    for wheel in wheels:
        said = metadata(wheel)
        licence = f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/licenses/LICENSE"
        assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()
        assert said["License-Expression"] == "Apache-2.0"
        assert said["Requires-Python"] in {">=3.9", ">=3.11"}
        assert said["Summary"]
        assert said["Description-Content-Type"] == "text/markdown"
        assert str(said.get_payload()).lstrip().startswith(f"# {said['Name']}")
        assert "Operating System :: POSIX :: Linux" in said.get_all("Classifier", [])


def test_an_index_takes_them(wheels: list[Path]) -> None:
    done = tool(TWINE, "twine", "check", "--strict", *map(str, wheels))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_both_run_in_an_environment_of_their_own(wheels: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "environment"
    locked = str(ROOT / "deploy" / "images" / "requirements.txt")
    assert uv("venv", "--quiet", "--python", sys.executable, str(place)).returncode == 0
    install = ("pip", "install", "--quiet", "--python", str(place / "bin" / "python"), "--constraint", locked)
    done = uv(*install, *map(str, wheels))
    assert done.returncode == 0, done.stderr
    for program in ("vllm-rightsizer", "kubectl-vllm_rightsizer"):
        assert printed(tmp_path, place / "bin" / program, "--version") == f"vllm-rightsizer {VERSION}"
    assert "doctor" in printed(tmp_path, place / "bin" / "vllm-rightsizer", "--help")


def test_the_plugin_alone_is_found_where_vllm_looks(wheels: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "environment"
    assert uv("venv", "--quiet", "--python", sys.executable, str(place)).returncode == 0
    done = uv("pip", "install", "--quiet", "--python", str(place / "bin" / "python"), "--no-index", str(wheels[0]))
    assert done.returncode == 0, done.stderr
    code = (
        "from importlib.metadata import entry_points\n"
        f"[found] = entry_points(group={ENTRY_POINT_GROUP!r})\n"
        "register = found.load()\n"
        "register()\n"
        "print(register.__module__)"
    )
    assert printed(tmp_path, place / "bin" / "python", "-I", "-c", code).startswith("vllm_plugin")


def printed(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_their_bills_name_what_they_need(wheels: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a folder of its own: a bill lies beside its file.
    copies = [tmp_path / wheel.name for wheel in wheels]
    for wheel, copy in zip(wheels, copies, strict=True):
        copy.write_bytes(wheel.read_bytes())
    files = [Path(f"{copy}.cdx.json") for copy in copies]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767323045")
    done = uv("run", "--quiet", "--no-project", "--script", ".ci/sbom", *map(str, copies))
    assert done.returncode == 0, done.stderr
    assert wrong_bills(files) == ""
    plugin, control_plane = (json.loads(file.read_text()) for file in files)
    assert plugin["metadata"]["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert plugin["metadata"]["component"]["purl"] == f"pkg:pypi/vllm-rightsizer-plugin@{VERSION}"
    assert plugin["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert "components" not in plugin
    needed = [part["properties"][0]["value"] for part in control_plane["components"]]
    assert sorted(needed) == sorted(metadata(wheels[1]).get_all("Requires-Dist", []))
    files[0].write_text(files[0].read_text().replace("Apache-2.0", "Apache"))
    assert "Apache" in wrong_bills(files)
