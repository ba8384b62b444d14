"""Each right of the Job that brings the definitions up to date is needed, for one thing each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import Helm
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import folder_with
from recommender.api.crds import definitions

from .single_rights import Right, holds, rights_of, without
from .test_recommender_rights import grant

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RESOURCE = "customresourcedefinitions"
ALL = ("create", "get", "patch")


@pytest.fixture(scope="module")
def rules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Raw]:
    """Of the Job, as the chart has them."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    text = Helm(tmp_path_factory.mktemp("helm")).render()
    [found] = [
        one["rules"]
        for one in YAML(typ="safe", pure=True).load_all(StringIO(text))
        if one and one["kind"] == "ClusterRole" and one["metadata"]["name"].endswith("-crds")
    ]
    return list(found)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without our definitions."""
    with running(tmp_path_factory.mktemp("definitions")) as made:
        yield made


def _user(plane: ControlPlane, rules: list[Raw], missing: str | None) -> Path:
    """Who has all of these rights but one."""
    name = f"definitions-without-{missing}"
    left = without(rules, (missing or "", RESOURCE))
    grant(plane, name, left)
    plane.wait_for(lambda: holds(plane, name, left), "rights")
    return plane.kubeconfig_of(name, plane.user(name))


def _remove(plane: ControlPlane) -> None:
    for definition in definitions():
        name = definition["metadata"]["name"]
        if plane.exists(f"{DEFINITIONS}/{name}"):
            plane.client.delete(f"{DEFINITIONS}/{name}")
            plane.wait_for(lambda name=name: not plane.exists(f"{DEFINITIONS}/{name}"), f"end of {name}")


def _job(plane: ControlPlane, rules: list[Raw], missing: str | None = None) -> str:
    """The Job's program, as somebody who lacks that verb; what it says where it fails, otherwise nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_rightsizer", "crds", "--apply"],
        env=os.environ | {"KUBECONFIG": str(_user(plane, rules, missing))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stderr if done.returncode else ""


def test_these_are_all(rules: list[Raw]) -> None:
    expected: list[Right] = [(verb, RESOURCE) for verb in ALL]
    assert sorted(rights_of(rules)) == expected


@pytest.mark.parametrize("verb", ALL)
def test_what_an_installation_needs(bare: ControlPlane, rules: list[Raw], verb: str) -> None:
    _remove(bare)
    assert f'cannot {verb} resource "{RESOURCE}"' in _job(bare, rules, verb)


@pytest.mark.parametrize("verb", ALL)
def test_what_an_upgrade_needs(bare: ControlPlane, rules: list[Raw], verb: str) -> None:
    """Where all are there, changing them."""
    assert _job(bare, rules) == ""
    said = _job(bare, rules, verb)
    assert (f'cannot patch resource "{RESOURCE}"' in said) if verb == "patch" else said == ""
    for definition in definitions():
        assert bare.exists(f"{DEFINITIONS}/{definition['metadata']['name']}")
