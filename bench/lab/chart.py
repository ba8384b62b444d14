"""The Helm chart: `helm` itself, and what of `deploy` is made rather than written.

`python -m bench.lab.chart` (`make manifests`) makes the part of values.schema.json that comes from our types, a copy of
Prometheus' rules for the chart, and `deploy/kubernetes`, which is what the chart renders with its defaults.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.lab.programs import ROOT, LabError, folder_with
from bench.lab.webhook import MANIFESTS, NAMESPACE
from recommender.api.crds import definitions
from recommender.api.policies import ClusterAutomation, VLLMPolicy
from recommender.api.scopes import Scope
from recommender.prices import PriceMap

Raw = dict[str, Any]

CHART = ROOT / "deploy" / "chart"
SCHEMA = CHART / "values.schema.json"
RULES = ROOT / "deploy" / "prometheus" / "prometheus-rule.yaml"
RELEASE = "vllm-rightsizer"
KUBE_VERSION = "1.36.0"
"""For which it is rendered: what the program itself takes for the newest depends on how it was built."""

_OF_HELM = re.compile(
    r"^ +(?:helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^  annotations:\n    helm\.sh/resource-policy: keep\n",
    re.MULTILINE,
)
"""What speaks of Helm alone: who made an object, and what it is to do with it."""
_SOURCE = re.compile(r"^# Source: .*\n", re.MULTILINE)
_BLANKS = re.compile(r"^ *\n", re.MULTILINE)
_HEADING = "# Made from deploy/chart by `make manifests`.\n"


class HelmError(Exception):
    """Helm refused; the message is what it printed."""


class Helm:
    """Helm's program of major version `version`, which keeps what it needs in `folder`, on the cluster of `kubeconfig`
    where one is given."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None, version: int = 4) -> None:
        self.version = version
        name = {3: "helm3", 4: "helm"}[version]
        self._program = folder_with(name) / name
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))
        } | {f"HELM_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        self._environment["KUBECONFIG"] = str(kubeconfig or os.devnull)
        self._folder = folder

    def __call__(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """What it prints on standard output. Raises `HelmError`."""
        command = [str(self._program), *arguments]
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            if values is not None:
                file = Path(temporary) / "values.json"
                file.write_text(json.dumps(values))
                command.append(f"--values={file}")
            done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HelmError(done.stderr.strip())
        return done.stdout

    def render(self, values: Mapping[str, Any] | None = None, *options: str, chart: Path = CHART) -> str:
        """The chart's objects as YAML, its hooks too unless `options` say so."""
        where = (f"--namespace={NAMESPACE}", f"--kube-version={KUBE_VERSION}")
        return self("template", RELEASE, str(chart), *where, *options, values=values)


def manifests(helm: Helm, folder: Path) -> dict[str, str]:
    """`deploy/kubernetes` by file: what the chart renders with its defaults, less what says that Helm made it."""
    helm.render(None, "--no-hooks", f"--output-dir={folder}")
    rendered = sorted((folder / RELEASE / "templates").glob("*.yaml"))
    return {file.name: _HEADING + _plain(file.read_text()) for file in rendered}


def _plain(text: str) -> str:
    for part in (_OF_HELM, _SOURCE, _BLANKS):
        text = part.sub("", text)
    return text.removeprefix("---\n")


def schema() -> Raw:
    """values.schema.json with the definitions that come from our types."""
    found: Raw = json.loads(SCHEMA.read_text())
    found["definitions"] |= type_definitions()
    return found


def type_definitions() -> Raw:
    """What policies, automation, prices and scopes may be, as JSON Schema by the name of the definition."""
    specs = {
        found["spec"]["names"]["kind"]: found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for found in definitions()
    }
    cluster = specs[ClusterAutomation.KIND]["properties"]
    prices = PriceMap.model_json_schema(by_alias=True)
    return {
        "policySpec": _strict(specs[VLLMPolicy.KIND]),
        "emitter": _strict(cluster["emitter"]),
        "customOwnerGroups": _strict(cluster["customOwnerGroups"]),
        "prices": _strict(prices),
        "scope": {"enum": [scope.value for scope in Scope]},
    }


_KEPT = ("description", "type", "format", "enum", "pattern", "maxLength", "minLength", "anyOf", "maximum", "required")


def _strict(field: Raw) -> Raw:
    """A CRD's schema, or pydantic's, as a JSON Schema that takes no field that it does not know."""
    found = {key: field[key] for key in _KEPT if key in field}
    if "minimum" in field:
        found["exclusiveMinimum" if field.get("exclusiveMinimum") else "minimum"] = field["minimum"]
    if "items" in field:
        found["items"] = _strict(field["items"])
    if "properties" in field:
        found["properties"] = {name: _strict(inner) for name, inner in field["properties"].items()}
        found["additionalProperties"] = False
    elif isinstance(field.get("additionalProperties"), dict):
        found["additionalProperties"] = _strict(field["additionalProperties"])
    return found


def main() -> None:
    """Make all of it. Raises `LabError` where Helm refuses the chart."""
    SCHEMA.write_text(json.dumps(schema(), indent=2) + "\n")
    shutil.copyfile(RULES, CHART / "files" / RULES.name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = manifests(Helm(Path(folder)), Path(folder) / "rendered")
        except HelmError as error:
            raise LabError(f"the chart cannot be rendered:\n{error}") from error
    for name, text in made.items():
        (MANIFESTS / name).write_text(text)


if __name__ == "__main__":
    main()
