"""`make release`: the same bytes for the same commit, whoever builds it; and what else its files must be."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.lab.programs import ROOT, folder_with
from vllm_plugin.names import VERSION

from .checkouts import Checkout
from .conftest import REGISTRY
from .tools import wrong_bills

pytestmark = pytest.mark.e2e

WHEELS = tuple(f"{name}-{VERSION}-py3-none-any.whl" for name in ("vllm_rightsizer", "vllm_rightsizer_plugin"))
CHART = f"vllm-rightsizer-{VERSION}.tgz"


def test_two_releases_of_a_commit_are_the_same(releases: tuple[Path, Path], architecture: str) -> None:
    sums = [(folder / "SHA256SUMS").read_text() for folder in releases]
    assert sums[0] == sums[1]
    images = [f"{image}-{architecture}-{VERSION}.tar.gz" for image in ("control-plane", "injector")]
    described = [*WHEELS, *images]
    expected = sorted([CHART, *described, *(f"{name}.cdx.json" for name in described)])
    assert [line.split("  ")[1] for line in sums[0].splitlines()] == expected
    for line in sums[0].splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((releases[0] / name).read_bytes()).hexdigest() == digest, name


def test_bills_are_as_their_schema_says_and_name_what_is_inside(releases: tuple[Path, Path], architecture: str) -> None:
    folder, _ = releases
    assert wrong_bills(sorted(folder.glob("*.cdx.json"))) == ""
    names = {}
    for image in ("control-plane", "injector"):
        archive = folder / f"{image}-{architecture}-{VERSION}.tar.gz"
        bill = json.loads(Path(f"{archive}.cdx.json").read_text())
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert {"alg": "SHA-256", "content": digest} in bill["metadata"]["component"]["hashes"]
        names[image] = {part.get("purl", part["name"]).split("?")[0] for part in bill["components"]}
    plugin = f"pkg:pypi/vllm-rightsizer-plugin@{VERSION}"
    assert names["injector"] == {plugin, "bin/busybox"}
    assert plugin in names["control-plane"]
    assert "debian" in names["control-plane"]
    parts = [name.rpartition("@")[0] for name in names["control-plane"]]
    assert {"pkg:pypi/vllm-rightsizer", "pkg:pypi/aiohttp", "pkg:deb/debian/libc6", "pkg:deb/debian/python3"} < {*parts}


def packed(chart: Path, name: str) -> str:
    with tarfile.open(chart) as archive:
        file = archive.extractfile(f"vllm-rightsizer/{name}")
        assert file is not None
        return file.read().decode()


def test_the_chart_takes_images_from_where_it_was_told(people: tuple[Checkout, Checkout], tmp_path: Path) -> None:
    one, _ = people
    told = {}
    for registry in ("", REGISTRY):
        out = tmp_path / (registry.replace("/", "-") or "none")
        one.run("make", "release", "ARCHITECTURES=", f"REPOSITORY={registry}", OUT=str(out))
        assert not list(out.glob("*.tar.gz"))
        told[registry] = out / CHART
    plain, named = (packed(chart, "values.yaml").splitlines() for chart in told.values())
    assert [line for line, other in zip(named, plain, strict=True) if line != other] == [f"  registry: {REGISTRY}"]
    assert YAML(typ="safe", pure=True).load("\n".join(plain))["image"]["registry"] == ""
    assert one.run("git", "status", "--porcelain") == ""
    assert packed(told[""], "LICENSE") == (ROOT / "LICENSE").read_text()
    helm = folder_with("helm") / "helm"

    def rendered(registry: str, *options: str) -> str:
        command = [helm, "template", "name", told[registry], *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace('"', "")

    assert f"image: vllm-rightsizer/vllm-rightsizer:{VERSION}\n" in rendered("")
    # The way that needs the injector's image asks for a registry, and has one.
    with_both = rendered(REGISTRY, "--set=vllm.injection.way=init-container")
    assert f"image: {REGISTRY}/vllm-rightsizer:{VERSION}\n" in with_both
    assert f"--injector-image={REGISTRY}/vllm-rightsizer-injector:{VERSION}\n" in with_both
