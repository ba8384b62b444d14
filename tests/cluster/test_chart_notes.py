"""What Helm says after an installation: what becomes of sizes, and what keeps pods from starting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import CHART, KUBE_VERSION, Helm
from bench.lab.programs import folder_with

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

SHOWN = """
apiVersion: v1
kind: ConfigMap
metadata: {name: shown}
data: {notes: {{ include "shown" . | toJson }}}
"""
REGISTRY = {"image": {"registry": "registry.example/team", "pullSecrets": [{"name": "registry"}]}}
AUTOMATED = "kind: AutomatedNamespace"
DRY_RUN = "mode is DryRun: sizes are shown and written nowhere"
REAL = "--set clusterAutomation.vllm.mode=\n"
PULLED = "registry.example/team/vllm-rightsizer-injector:"
GATED = "feature gate ImageVolume"


def _by(way: str) -> Raw:
    return {**REGISTRY, "vllm": {"injection": {"way": way}}}


def _automation(**said: Any) -> Raw:
    return {"clusterAutomation": {"vllm": said}}


@pytest.fixture(scope="module")
def notes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """For values and a version of Kubernetes. `helm template` leaves them out, and only it can be told of a version:
    so they are shown by an object of a copy of the chart."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    folder: Path = tmp_path_factory.mktemp("notes")
    templates = shutil.copytree(CHART, folder / "chart") / "templates"
    text = (templates / "NOTES.txt").read_text()
    (templates / "_shown.tpl").write_text(f'{{{{- define "shown" -}}}}\n{text}{{{{ end }}}}')
    (templates / "shown.yaml").write_text(SHOWN)
    helm = Helm(folder)

    def made(values: Raw, version: str = KUBE_VERSION) -> str:
        options = (f"--kube-version={version}", "--show-only=templates/shown.yaml")
        rendered = helm.render(values, *options, chart=templates.parent)
        return str(YAML(typ="safe", pure=True).load(StringIO(rendered))["data"]["notes"])

    return made


@pytest.mark.parametrize(
    ("values", "said", "unsaid"),
    [
        ({}, [AUTOMATED], [DRY_RUN, REAL]),
        (_automation(mode="Apply"), [AUTOMATED], [DRY_RUN, REAL]),
        (_automation(optimize=True), [], [AUTOMATED, DRY_RUN, REAL]),
        (_automation(mode="DryRun"), [DRY_RUN, REAL, "From then on they are written where"], [AUTOMATED]),
        (_automation(mode="DryRun", optimize=True), [DRY_RUN, REAL], [AUTOMATED, "From then on"]),
        ({"clusterAutomation": {"create": False, "vllm": {"mode": "DryRun"}}}, [], [AUTOMATED, DRY_RUN, REAL]),
        ({**_automation(mode="DryRun"), "vllm": {"observability": {"enabled": False}}}, [], [AUTOMATED, DRY_RUN, REAL]),
    ],
)
def test_whether_sizes_are_written(notes: Callable[..., str], values: Raw, said: list[str], unsaid: list[str]) -> None:
    text = notes(values)
    assert [one for one in said if one not in text] == []
    assert [one for one in unsaid if one in text] == []


@pytest.mark.parametrize(("scope", "label"), [("OptIn", "inject=enabled"), ("OptOut", "inject=disabled")])
def test_whose_pods_never_count(notes: Callable[..., str], scope: str, label: str) -> None:
    [line] = [one for one in notes({"webhook": {"scope": scope}}).splitlines() if one.startswith("2. ")]
    assert "vllm-rightsizer itself" in line
    assert f"vllm-rightsizer.io/{label}" in notes({"webhook": {"scope": scope}})


def test_whose_secrets_pull_the_injectors_image(notes: Callable[..., str]) -> None:
    """Those of vLLM's pods, whatever `image.pullSecrets` says."""
    for way in ("init-container", "image-volume"):
        text = notes(_by(way))
        assert PULLED in text
        assert "with pull secrets of their own" in text
    assert "pull secrets" not in notes(_by("config-map"))
    assert "pull secrets" not in notes({**_by("init-container"), "vllm": {"observability": {"enabled": False}}})


def test_image_volumes_are_behind_a_gate_before_1_35(notes: Callable[..., str]) -> None:
    assert f"Kubernetes v1.34.5 has image volumes only with its {GATED}" in notes(_by("image-volume"), "1.34.5")
    assert GATED not in notes(_by("image-volume"), "1.35.0-gke.1")
    assert GATED not in notes(_by("init-container"), "1.34.5")
