"""The images as they are built: who runs in them, what is in them and what is not, for which machines."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import pytest

from bench.lab.programs import ROOT
from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin.names import VERSION

from .archives import MACHINES, Archive, is_static, machine
from .checkouts import Checkout
from .conftest import FOREIGN, REGISTRY

pytestmark = pytest.mark.e2e

NAMES = ("control-plane", "injector")
OURS = "opt/vllm-rightsizer/"
INSTALLERS = re.compile(r"/(site|dist)-packages/(pip|setuptools|wheel|_distutils_hack)(/|-)|/ensurepip/|bin/pip[\d.]*$")


@pytest.fixture(scope="module")
def own(releases: tuple[Path, Path], architecture: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archive]:
    """Both images of a release, for this machine's architecture."""
    folder, found = tmp_path_factory.mktemp("images"), {}
    for name in NAMES:
        archive = folder / f"{name}.tar"
        with gzip.open(releases[0] / f"{name}-{architecture}-{VERSION}.tar.gz") as packed, archive.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        found[name] = Archive(archive)
    return found


@pytest.fixture
def control_plane(own: dict[str, Archive]) -> Archive:
    return own["control-plane"]


@pytest.fixture
def injector(own: dict[str, Archive]) -> Archive:
    return own["injector"]


@pytest.fixture(scope="module")
def foreign(foreign_images: Path, architecture: str) -> dict[str, Archive]:
    """Both images of the other architecture."""
    return {name: Archive(foreign_images / f"{name}-{FOREIGN[architecture]}.tar") for name in NAMES}


def test_nobody_is_root(own: dict[str, Archive], foreign: dict[str, Archive]) -> None:
    for image in (*own.values(), *foreign.values()):
        assert image.config["User"] == "65532:65532"
        assert "Healthcheck" not in image.config
        assert "Volumes" not in image.config
        assert "ExposedPorts" not in image.config


def test_what_runs(control_plane: Archive, injector: Archive) -> None:
    assert control_plane.config["Entrypoint"] == ["python3", "-m", "vllm_rightsizer"]
    assert "PYTHONPATH=/opt/vllm-rightsizer" in control_plane.config["Env"]
    # The pod says what: it copies.
    assert not injector.config.get("Entrypoint")


def test_labels_say_what_it_is(
    control_plane: Archive, injector: Archive, foreign: dict[str, Archive], people: tuple[Checkout, Checkout]
) -> None:
    revision = people[0].run("git", "rev-parse", "HEAD").strip()
    for image, title, licences in (
        (control_plane, "vllm-rightsizer", "Apache-2.0"),
        # Its busybox has another one than we have.
        (injector, "vllm-rightsizer-injector", "Apache-2.0 AND GPL-2.0-only"),
    ):
        prefix = "org.opencontainers.image."
        labels = {name.removeprefix(prefix): value for name, value in image.config["Labels"].items()}
        assert labels["title"] == title
        assert labels["description"]
        assert (labels["version"], labels["revision"], labels["licenses"]) == (VERSION, revision, licences)
        assert "source" not in labels
        assert image.name.endswith(f"vllm-rightsizer/{title}:{VERSION}")
    for name, title in (("control-plane", "vllm-rightsizer"), ("injector", "vllm-rightsizer-injector")):
        assert foreign[name].name == f"{REGISTRY}/{title}:{VERSION}"
        assert foreign[name].config["Labels"]["org.opencontainers.image.source"] == "https://example.com/source"


def test_nothing_is_written_at_run_time(control_plane: Archive) -> None:
    """The root file system is read-only: modules are compiled, belong to root, and nobody else may write them."""
    files = {path: entry for path, entry in control_plane.files.items() if path.startswith(OURS)}
    sources = [path for path in files if path.endswith(".py")]
    assert len(sources) > 2000
    for path in sources:
        folder, _, name = path.rpartition("/")
        compiled = f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-311.pyc"
        assert compiled in files, path
        # No date and no sum of the source is looked at: PEP 552.
        assert files[compiled].content[4:8] == b"\x01\0\0\0", compiled
    assert {entry.owner for entry in files.values()} == {(0, 0)}
    assert [path for path, entry in files.items() if entry.mode & 0o022 or not entry.mode & 0o004] == []


def test_no_installer_is_left(control_plane: Archive, foreign: dict[str, Archive]) -> None:
    """Of the bases the foreign one has some."""
    for image in (control_plane, foreign["control-plane"]):
        assert len(image.files) > 5000
        assert [path for path in image.files if INSTALLERS.search(path)] == []


def test_packages_are_those_that_are_locked(control_plane: Archive, foreign: dict[str, Archive]) -> None:
    locked = (ROOT / "deploy" / "images" / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([a-z0-9.-]+)==([^ \n]+)", locked, re.MULTILINE))
    for image in (control_plane, foreign["control-plane"]):
        found = dict(re.findall(rf"(?m)^{OURS}([^/]+?)-([^/-]+)\.dist-info/METADATA$", "\n".join(image.files)))
        assert len(found) > 40
        for name, version in found.items():
            normal = re.sub(r"[-_.]+", "-", name).lower()
            if normal not in ("vllm-rightsizer", "vllm-rightsizer-plugin", "numpy"):
                assert pins[normal] == version, name
        assert found["vllm_rightsizer"] == found["vllm_rightsizer_plugin"] == VERSION


def test_the_injector_is_small_and_holds_the_plugin_and_a_copier(
    injector: Archive, foreign: dict[str, Archive]
) -> None:
    for image in (injector, foreign["injector"]):
        assert image.compressed_bytes <= 5_000_000
        assert sorted(image.files) == ["bin/busybox", f"plugin/{WHEEL_FILE}"]
        wheel = image.files[f"plugin/{WHEEL_FILE}"]
        assert wheel.content == plugin_wheel()
        assert wheel.mode & 0o777 == 0o644
        assert is_static(image.files["bin/busybox"].content)


def test_every_program_is_of_its_architecture(
    own: dict[str, Archive], foreign: dict[str, Archive], architecture: str
) -> None:
    for images, name in ((own, architecture), (foreign, FOREIGN[architecture])):
        for image in images.values():
            assert image.image["architecture"] == name
            found = {path: machine(entry.content) for path, entry in image.files.items()}
            assert {path: one for path, one in found.items() if one not in (None, MACHINES[name])} == {}
            assert any(one == MACHINES[name] for one in found.values())
        control_plane = images["control-plane"]
        extensions = [path for path in control_plane.files if path.startswith(OURS) and path.endswith(".so")]
        assert len(extensions) > 30
