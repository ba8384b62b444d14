"""What docs/migration.md maps on exists under the names that it gives: annotations, fields, values, reasons, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from recommender.api.automation import resolve_automation
from recommender.api.policies import AutomatedNamespaceSpec, ClusterAutomationSpec, PolicySpec
from vllm_plugin import names
from vllm_rightsizer.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text()
QUOTED = re.compile(r"`([^`]+)`")
ANNOTATIONS = {value for name, value in vars(names).items() if "ANNOTATION" in name or name.startswith("LABEL_INJECT")}


def _rows() -> list[tuple[str, str]]:
    """The first two cells of each row."""
    found = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [(cells[0], cells[1]) for cells in found]


def _value(path: str) -> Any:
    at = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "chart" / "values.yaml")
    for part in path.split("."):
        at = at[part]
    return at


def test_annotations_are_those_that_are_read() -> None:
    named = {name for name in QUOTED.findall(PAGE) for name in [name.partition(":")[0]] if "/" in name and "." in name}
    ours = {name for name in named if name.startswith((f"{names.GROUP}/", "scaleops.sh/d"))}
    assert ours >= {names.FOREIGN_ANNOTATION_AUTO, names.FOREIGN_ANNOTATION_POLICY, names.ANNOTATION_EXCLUDE}
    assert ours <= ANNOTATIONS


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "false", "0", "no", "off"])
def test_words_for_true_and_false(word: str) -> None:
    assert f"`{word}`" in PAGE
    found = resolve_automation({}, {names.FOREIGN_ANNOTATION_AUTO: word.upper()}, None, None)
    assert found.enabled_source == "workload"
    assert found.enabled is (word in ("true", "1", "yes", "on"))


def test_fields_and_values_are_there() -> None:
    table = "\n".join(f"{there} | {here}" for there, here in _rows())
    assert {"vllmOptimize", "defaultVllmPolicy"} <= set(QUOTED.findall(table))
    for model in (AutomatedNamespaceSpec, ClusterAutomationSpec):
        aliases = {field.alias for field in model.model_fields.values()}
        assert {"vllmOptimize", "defaultVllmPolicy"} <= aliases
    assert _value("clusterAutomation.vllm.optimize") is False
    assert "defaultPolicy" in _value("clusterAutomation.vllm")
    assert "customOwnerGroups" in _value("clusterAutomation.vllm")
    assert _value("vllm.observability.enabled") is True


def test_a_policys_fields_are_there() -> None:
    [(_, here)] = [row for row in _rows() if "observation window" in row[0]]
    fields = {field.alias: field for field in PolicySpec.model_fields.values()}
    named = [name for name in QUOTED.findall(here) if name != "VLLMPolicy"]
    assert set(named) == {"observationWindow", "windowCoverage", "percentile"}
    assert set(named) <= fields.keys()
    assert get_args(PolicySpec.model_fields["percentile"].annotation) == (100, 99, 95, 90, 85, 80)
    assert PolicySpec().observation_window == "48h"
    assert PolicySpec().strategy == "OnCreate"


def test_commands_are_there() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"`vllm-rightsizer (\S+?)`", PAGE)) | {"what-if"}
    assert named >= {"list", "explain"}
    assert named <= {name.replace("_", "-").rstrip("-") for name in commands}
