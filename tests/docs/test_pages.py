"""What pages name is there, what they show of our kinds and of the chart is valid, and the index has them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from recommender.api.objects import ApiObject
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, VLLMPolicy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CHART = ROOT / "deploy" / "chart"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# `deploy/vllm-…` is how kubectl abbreviates a Deployment.
_FILE = re.compile(r"(?<![\w./-])(?:deploy(?!/vllm-)|tests|bench|vllm_plugin|recommender|webhook)/[\w./-]*[\w/]")
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KINDS: dict[str, type[ApiObject]] = {kind.KIND: kind for kind in (AutomatedNamespace, ClusterAutomation, VLLMPolicy)}
_HELM = re.compile(r"^helm (?:.*\\\n)*.*$", re.MULTILINE)
_SET = re.compile(r"--set[= ]([\w.]+)=")
_ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """The fragments by which the page's headings are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _shown(page: Path) -> list[dict[str, Any]]:
    """The YAML that the page shows, document by document."""
    blocks = _YAML.findall(page.read_text())
    return [found for block in blocks for found in YAML(typ="safe", pure=True).load_all(block)]


def _over(values: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """`values` with what is said in their place, as Helm puts them together before it looks at the schema."""
    inner = {key: _over(values[key], at) for key, at in said.items() if isinstance(at, dict) and values.get(key)}
    return {**values, **said, **inner}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert not [name for name in _FILE.findall(page.read_text()) if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sections_that_a_page_links_to_are_there(page: Path) -> None:
    links = [(target, anchor) for target, anchor in _ANCHOR.findall(page.read_text()) if "://" not in target]
    assert not [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in _anchors((page.parent / target).resolve() if target else page)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_objects_that_a_page_shows_are_valid(page: Path) -> None:
    shown = [
        found for block in _YAML.findall(page.read_text()) for found in YAML(typ="safe", pure=True).load_all(block)
    ]
    for found in shown:
        assert isinstance(found, dict), found
        if str(found.get("apiVersion")).startswith("vllm-rightsizer.io/"):
            _KINDS[found["kind"]].from_json(found)


def test_values_that_pages_show_are_the_charts() -> None:
    values = YAML(typ="safe", pure=True).load(CHART / "values.yaml")
    valid = Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    given = 0
    for page in PAGES:
        for found in _shown(page):
            spec = found.get("spec") or {}
            helm = (spec.get("source") or {}).get("helm") or {}
            for said in (helm.get("valuesObject"), spec.get("values") if found.get("kind") == "HelmRelease" else None):
                if said is not None:
                    valid.validate(_over(values, said))
                    given += 1
        for path in (path for command in _HELM.findall(page.read_text()) for path in _SET.findall(command)):
            at = values
            for part in path.split("."):
                assert part in at, f"{page.name}: {path}"
                at = at[part]
            given += 1
    assert given >= 4


def test_the_index_has_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
