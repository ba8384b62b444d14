"""Two people release the same commit, on bases that are made from Debian's packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.base_images import BUILDING, PYTHON_BASE, make_bases, missing_for_images, own_architecture
from bench.lab.programs import folder_with, one_at_a_time

from .checkouts import Checkout, clone, of_working_tree

REGISTRY = "registry.example.com:5000/team"
WITH_PIP = "localhost/debian-python-with-pip:1"
FOREIGN = {"amd64": "arm64", "arm64": "amd64"}


@pytest.fixture(scope="session")
def architecture() -> str:
    lacking = missing_for_images()
    if lacking is not None:
        pytest.skip(f"no images are built here, so nothing of a release with images is tested: {lacking}")
    return own_architecture()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Checkout]:
    """With checkouts of the same commit."""
    folder = tmp_path_factory.mktemp("release")
    one = of_working_tree(folder / "one", folder / "home-one")
    return one, clone(one, folder / "somewhere" / "else", folder / "home-another")


@pytest.fixture(scope="session")
def releases(people: tuple[Checkout, Checkout], architecture: str) -> tuple[Path, Path]:
    """Their folders `dist`, with the images of this machine's architecture."""
    folder_with("helm")
    bases = make_bases(architecture)
    for person in people:
        with one_at_a_time(BUILDING):
            person.run("make", "release", f"ARCHITECTURES={architecture}", **bases)
    one, another = people
    return one.folder / "dist", another.folder / "dist"


@pytest.fixture(scope="session")
def foreign_images(people: tuple[Checkout, Checkout], architecture: str) -> Path:
    """A folder with both images of the other architecture, named after a registry, on a base that has installers."""
    foreign = FOREIGN[architecture]
    bases = make_bases(foreign)
    one, _ = people
    with_pip = one.run("buildah", "from", f"--arch={foreign}", PYTHON_BASE.replace("ARCH", foreign)).strip()
    try:
        for place in ("site-packages/pip/__init__.py", "site-packages/setuptools/__init__.py", "ensurepip/__init__.py"):
            one.run("buildah", "add", "--quiet", with_pip, "LICENSE", f"/usr/local/lib/python3.11/{place}")
        one.run("buildah", "commit", "--quiet", with_pip, WITH_PIP)
        settings = bases | {"BASE_CONTROL_PLANE": WITH_PIP, "SOURCE": "https://example.com/source"}
        with one_at_a_time(BUILDING):
            one.run("make", "images", f"ARCHITECTURES={foreign}", f"REPOSITORY={REGISTRY}", **settings)
    finally:
        one.attempt("buildah", "rm", with_pip)
        one.attempt("buildah", "rmi", WITH_PIP)
    return one.folder / "build" / "images"
