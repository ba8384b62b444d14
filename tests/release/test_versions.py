"""The version is one, and what is released is a commit of that version."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from bench.lab.programs import ROOT

from .checkouts import Checkout, of_working_tree

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PLACES = {
    "pyproject.toml": rf'^version = "{VERSION}"',
    "vllm_plugin/pyproject.toml": rf'^version = "{VERSION}"',
    "vllm_plugin/names.py": f'VERSION = "{VERSION}"',
    "deploy/chart/Chart.yaml": f"^appVersion: {VERSION}",
    "docs/gitops.md": rf"^    targetRevision: v{VERSION}",
    "CHANGELOG.md": rf"^## \[{VERSION}\]",
}


@pytest.fixture
def tree(tmp_path: Path) -> Checkout:
    """The files alone that have it."""
    made = Checkout(tmp_path / "tree", tmp_path / "home")
    for name in (".ci/version", *PLACES):
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, made.folder / name)
    return made


def change(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    file.write_text(text)


@pytest.mark.parametrize("file", PLACES)
def test_a_file_that_disagrees_is_named(tree: Checkout, file: str) -> None:
    assert tree.run(".ci/version").strip() == VERSION
    change(tree.folder / file, PLACES[file], PLACES[file].strip("^").replace(VERSION, "9.9.9").replace("\\", ""))
    told = tree.attempt(".ci/version")
    assert told.returncode != 0
    assert f"9.9.9      {file}" in told.stderr


def test_a_new_one_is_written_everywhere(tree: Checkout) -> None:
    assert tree.run(".ci/version", "1.2.3").strip() == "1.2.3"
    assert tree.run(".ci/version").strip() == "1.2.3"
    left = [name for name in PLACES if VERSION in (tree.folder / name).read_text()]
    assert left == ["CHANGELOG.md"]
    assert re.search(r"## \[Unreleased\]\n\n## \[1\.2\.3\] - \d{4}-\d\d-\d\d\n", (tree.folder / left[0]).read_text())
    assert tree.attempt(".ci/version", "v2").returncode != 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("refusals")
    return of_working_tree(folder / "tree", folder / "home")


def test_changes_are_not_released(checkout: Checkout) -> None:
    extra = checkout.folder / "recommender" / "extra.py"
    extra.write_text("")
    try:
        told = checkout.attempt("make", "release")
    finally:
        extra.unlink()
    assert told.returncode != 0
    assert "differ from the commit" in told.stderr
    assert "recommender/extra.py" in told.stderr
    assert not (checkout.folder / "dist").exists()


def test_the_tag_is_that_of_the_version(checkout: Checkout) -> None:
    told = checkout.attempt("make", "release", "TAG=v9.9.9")
    assert told.returncode != 0
    assert f"the tag v9.9.9 is not that of version {VERSION}, v{VERSION}" in told.stderr


def test_a_version_without_a_heading_in_the_changelog_is_not_released(checkout: Checkout) -> None:
    changelog = checkout.folder / "CHANGELOG.md"
    before = changelog.read_text()
    changelog.write_text(re.sub(r"^## \[\d.*\n", "", before, flags=re.MULTILINE))
    try:
        told = checkout.attempt("make", "release")
    finally:
        changelog.write_text(before)
    assert told.returncode != 0
    assert "CHANGELOG.md names no version: a line like ## [VERSION] - YYYY-MM-DD is missing" in told.stderr


def test_a_registry_is_a_host_and_a_folder(checkout: Checkout) -> None:
    told = checkout.attempt("make", "release", "REPOSITORY=https://registry.example.com/team")
    assert told.returncode != 0
    assert "take one like registry.example.com/team" in told.stderr
