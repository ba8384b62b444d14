"""What somebody else needs to help: our objects, what was found, logs of our pods. No Secret, no value of a variable.

`contents` and `scrubbed` are pure; `logs_and_events` asks the API server.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer
from recommender.api.apiserver.resources import Resource
from recommender.cluster_objects import PODS
from recommender.events import CONTROLLER
from vllm_plugin.names import ANNOTATION_ORIGINAL_ARGS, GROUP, VERSION
from vllm_rightsizer.doctor.facts import CONFIGURATION, RECOMMENDER, WEBHOOK, Facts, Raw
from vllm_rightsizer.doctor.findings import Finding
from vllm_rightsizer.doctor.report import documents
from vllm_rightsizer.errors import UserError

LEFT_OUT = """\
What is not in this bundle:
- Secrets: none was kept; of the webhook's, only the public certificate was looked at, and it is not here either.
- Values of environment variables of all containers, literal ones and references: their names are here.
- Values in commands, arguments, messages and logs behind an option or a variable whose name has a word such as key,
  token, secret, password or header in it; users and passwords in addresses; what looks like a token.
- Annotations of others, arguments as they were before the webhook changed them, headers of probes, managed fields.
- ConfigMaps' contents; Pods of namespaces that have not opted in; objects of kinds that are not ours.
"""
_EVENTS = Resource("", "v1", "events", "Event")
_KINDS = ("VLLMPolicy", "AutomatedNamespace", "ClusterAutomation", "VLLMRecommendation", "Lease", "Service")
_LOG_QUERY = {"tailLines": "2000", "timestamps": "true"}
_SILENCE_SECONDS = 10.0
_KEPT_ANNOTATIONS = (
    f"{GROUP}/",
    "scaleops.sh/",
    "argocd.argoproj.io/",
    "cert-manager.io/inject-ca-from",
    "meta.helm.sh/",
)
_HIDDEN = "(left out)"
_NAME = r"[\w.-]*(?:key|token(?!s|i)|secret|password|passwd|credential|authorization|header|bearer)[\w.-]*+"
_BEGIN = r"(?<![\w.-])"
"""Names are looked for from their beginnings alone: long lines have many letters."""
_IN_JSON = r"""["']\s*:\s*"""
_CONFIDENTIAL = re.compile(
    rf"""({_BEGIN}{_NAME}(?:=|:\s*|\s+|{_IN_JSON}))(?!\(left\ out\))("[^"]*"|'[^']*'|\S+)""", re.IGNORECASE
)
_CONFIDENTIAL_NAME = re.compile(rf"-*{_NAME}", re.IGNORECASE)
_CONFIDENTIAL_FLAG = re.compile(rf"(--?{_NAME}=).*", re.IGNORECASE | re.DOTALL)
_IN_TEXT = re.compile(
    rf"""(?P<login>://)[^/\s@]+(?=@)
    |(?P<option>{_BEGIN}--?{_NAME}(?:=|\s+)|{_BEGIN}{_NAME}(?:=|{_IN_JSON})|\bbearer\s+)(?:"[^"]*"|'[^']*'|\S+)
    |\b(?:hf_\w{{16,}}|sk-[\w-]{{16,}}|eyJ[\w-]+\.[\w-]+\.[\w-]+)""",
    re.IGNORECASE | re.VERBOSE,
)
"""In what people and programs write: who logs in at an address, an option or a variable with its value, and what looks
like a token by itself."""


def contents(facts: Facts, findings: Sequence[Finding], fetched: Mapping[str, str]) -> dict[str, str]:
    """The bundle's files by path; `fetched` are logs and events."""
    kept = {kind: facts.of(kind) for kind in _KINDS}
    kept[CONFIGURATION] = facts.configurations
    kept["CustomResourceDefinition"] = [raw for raw in facts.of("CustomResourceDefinition") if _is_ours(raw)]
    kept["Deployment"] = facts.of("Deployment", facts.namespace)
    seen = {facts.namespace, *facts.opted_in}
    kept["Pod"] = [raw for raw in facts.of("Pod") if raw["metadata"]["namespace"] in seen]
    kept["Namespace"] = [raw for raw in facts.of("Namespace") if raw["metadata"]["name"] in seen]
    kept["NetworkPolicy"] = [raw for raw in facts.of("NetworkPolicy") if raw["metadata"]["namespace"] in seen]
    found = {f"objects/{kind.lower()}.json": _json([scrubbed(raw) for raw in raws]) for kind, raws in kept.items()}
    found["findings.json"] = _json(scrubbed(documents(findings)))
    found["versions.json"] = _json({"doctor": VERSION, "at": facts.now.isoformat(), "images": _images(facts)})
    found["not-looked-at.json"] = _json(dict(facts.unseen))
    found["LEFT-OUT.txt"] = LEFT_OUT
    return found | dict(fetched)


def write(file: Path, files: Mapping[str, str]) -> None:
    """A tar.gz with all of it. Raises `UserError` where `file` cannot be written."""
    try:
        with tarfile.open(file, "w:gz") as tar:
            for path, text in sorted(files.items()):
                entry, data = tarfile.TarInfo(f"vllm-rightsizer/{path}"), text.encode()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}", exit_code=2) from error


async def logs_and_events(server: ApiServer, facts: Facts) -> dict[str, str]:
    """Texts by path, as far as they may be read; where not, the file says why."""
    found: dict[str, str] = {}
    for component in (WEBHOOK, RECOMMENDER):
        deployment = facts.deployment(component)
        for pod in facts.pods_of(deployment) if deployment is not None else ():
            name = pod["metadata"]["name"]
            found[f"logs/{name}.log"] = await _log(server, facts.namespace, name)
    try:
        events = await server.request("GET", _EVENTS.path(facts.namespace))
        kinds = await server.request("GET", _EVENTS.path(), query={"fieldSelector": f"reportingComponent={CONTROLLER}"})
        found["events.json"] = _json([scrubbed(raw) for raw in (*events["items"], *kinds["items"])])
    except (ApiError, *CONNECTION_ERRORS) as error:
        found["events.json"] = _json({"notRead": str(error)})
    return found


async def _log(server: ApiServer, namespace: str, pod: str) -> str:
    path = f"{PODS.path(namespace, pod)}/log"
    try:
        async with server.stream(path, _LOG_QUERY, "*/*", _SILENCE_SECONDS) as lines:
            return "".join([f"{without_tokens(line.decode(errors='replace'))}\n" async for line in lines])
    except (ApiError, *CONNECTION_ERRORS) as error:
        return f"not read: {error}\n"


def scrubbed(value: Any) -> Any:
    """A copy without what nobody else is to see; see `LEFT_OUT`."""
    if isinstance(value, list):
        return [scrubbed(one) for one in value]
    if isinstance(value, str):
        return without_tokens(value)
    if not isinstance(value, dict):
        return value
    found: Raw = {}
    for key, inner in value.items():
        if key in ("managedFields", "httpHeaders", "envFrom"):
            continue
        if key == "env" and isinstance(inner, list):
            found[key] = [{"name": one.get("name"), "value": _HIDDEN} for one in inner]
        elif key == "annotations" and isinstance(inner, dict):
            found[key] = {
                name: _without_confidential(str(text))
                for name, text in inner.items()
                if name.startswith(_KEPT_ANNOTATIONS) and name != ANNOTATION_ORIGINAL_ARGS
            }
        elif key in ("command", "args") and isinstance(inner, list):
            found[key] = _arguments([str(one) for one in inner])
        else:
            found[key] = scrubbed(inner)
    return found


def _arguments(given: Sequence[str]) -> list[str]:
    """`--api-key value` in two items, too."""
    found: list[str] = []
    for at, one in enumerate(given):
        behind = at > 0 and _CONFIDENTIAL_NAME.fullmatch(given[at - 1])
        flagged = _CONFIDENTIAL_FLAG.fullmatch(one)
        if behind and not one.startswith("-"):
            found.append(_HIDDEN)
        else:
            found.append(f"{flagged[1]}{_HIDDEN}" if flagged else _without_confidential(one))
    return found


def _without_confidential(text: str) -> str:
    return _CONFIDENTIAL.sub(rf"\1{_HIDDEN}", without_tokens(text))


def without_tokens(text: str) -> str:
    """A text that people read, as little changed as can be."""
    return _IN_TEXT.sub(lambda found: f"{found['login'] or found['option'] or ''}{_HIDDEN}", text)


def _is_ours(raw: Raw) -> bool:
    return str(raw["metadata"]["name"]).endswith(f".{GROUP}")


def _images(facts: Facts) -> list[str]:
    containers = (
        container
        for raw in facts.of("Deployment", facts.namespace)
        for container in raw["spec"]["template"]["spec"].get("containers") or ()
    )
    return sorted({str(container.get("image")) for container in containers})


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"
