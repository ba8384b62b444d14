"""What images are built with, and of what: looked at before anything is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.lab.programs import ROOT

from .checkouts import of_working_tree

BUILD = ROOT / "deploy" / "images" / "build"


def programs(folder: Path, *without: str) -> str:
    """A PATH with all of this machine's programs but some."""
    folder.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if program.name not in without and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def looked(**settings: str) -> subprocess.CompletedProcess[str]:
    of_a_person = ("ARCHITECTURES", "BUILDER", "PUSH", "REPOSITORY")
    environment = {name: value for name, value in os.environ.items() if name not in of_a_person}
    environment |= {"ONLY_CHECK": "1"} | settings
    return subprocess.run([BUILD], env=environment, capture_output=True, text=True, check=False)


def test_a_machine_without_a_builder_is_told_so_before_the_last_release_is_removed(tmp_path: Path) -> None:
    tree = of_working_tree(tmp_path / "tree", tmp_path / "home")
    former = tree.folder / "dist" / "former"
    former.parent.mkdir()
    former.touch()
    told = tree.attempt("make", "release", PATH=programs(tmp_path / "bin", "buildah", "docker"))
    assert told.returncode != 0
    assert "neither buildah nor docker is there" in told.stderr
    assert "ARCHITECTURES= leaves them out" in told.stderr
    assert former.exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"BUILDER": "kaniko"}, "BUILDER=kaniko builds no images: take buildah or docker"),
        ({"ARCHITECTURES": "amd64 s390x"}, "no images are built for s390x: take amd64, arm64 or both"),
        ({"PUSH": "1"}, "REPOSITORY=registry.example.com/team"),
        ({"PUSH": "1", "BUILDER": "buildah"}, "only docker's buildx writes bills of materials"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, str], says: str) -> None:
    told = looked(**settings)
    assert told.returncode != 0
    assert says in told.stderr


def test_a_builder_that_was_asked_for_and_is_not_there_is_named(tmp_path: Path) -> None:
    without = programs(tmp_path / "bin", "buildah", "docker")
    assert "buildah is not there" in looked(PATH=without, BUILDER="buildah").stderr
    assert "docker is not there, or lacks its plugin buildx" in looked(PATH=without, BUILDER="docker").stderr


def test_another_file_of_the_same_version_is_not_installed(tmp_path: Path) -> None:
    for name in ("uv", "uv.txt"):
        shutil.copy2(ROOT / ".ci" / name, tmp_path)
    pins = (tmp_path / "uv.txt").read_text()
    (tmp_path / "uv.txt").write_text(
        re.sub(r"sha256:\w", lambda found: f"sha256:{'0' if found[0][-1] != '0' else '1'}", pins)
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    told = subprocess.run([tmp_path / "uv"], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "DO NOT MATCH THE HASHES" in told.stderr
    assert not list(tmp_path.glob("cache/vllm-rightsizer/uv-*/bin"))


@pytest.mark.parametrize(
    ("file", "least"), [("deploy/images/requirements.txt", 40), (".ci/uv.txt", 1), (".ci/go.txt", 1)]
)
def test_what_goes_into_a_release_is_taken_by_its_sum(file: str, least: int) -> None:
    pins = re.split(r"\n(?=\S)", (ROOT / file).read_text().strip())
    pinned = [pin for pin in pins if not pin.startswith("#")]
    assert len(pinned) >= least
    assert [pin for pin in pinned if not re.search(r"==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", pin)] == []
