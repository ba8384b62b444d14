"""What somebody else needs to help: our objects, what was found, logs of our pods. No Secret, no value of a variable.

`contents` is pure; `logs_and_events` asks the API server.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer
from recommender.api.apiserver.resources import Resource
from recommender.cluster_objects import PODS
from recommender.events import CONTROLLER
from vllm_plugin.names import GROUP, VERSION
from vllm_rightsizer.doctor.confidential_texts import without_secrets
from vllm_rightsizer.doctor.facts import CONFIGURATION, RECOMMENDER, WEBHOOK, Facts, Raw
from vllm_rightsizer.doctor.findings import Finding
from vllm_rightsizer.doctor.report import documents
from vllm_rightsizer.doctor.scrubbing import LEFT_OUT, scrubbed, scrubbed_each, scrubbed_log
from vllm_rightsizer.errors import UserError

_EVENTS = Resource("", "v1", "events", "Event")
_KINDS = ("VLLMPolicy", "AutomatedNamespace", "ClusterAutomation", "VLLMRecommendation", "Lease", "Service")
_LOG_QUERY = {"tailLines": "2000", "timestamps": "true"}
_SILENCE_SECONDS = 10.0


def contents(facts: Facts, findings: Sequence[Finding], fetched: Mapping[str, str]) -> dict[str, str]:
    """The bundle's files by path; `fetched` are logs and events. What cannot be read as it should leaves a sentence in
    its place, and all else stays."""
    kept: dict[str, Callable[[], Sequence[Raw]]] = {kind: partial(facts.of, kind) for kind in _KINDS}
    kept |= {
        CONFIGURATION: lambda: facts.configurations,
        "CustomResourceDefinition": lambda: [raw for raw in facts.of("CustomResourceDefinition") if _is_ours(raw)],
        "Deployment": lambda: facts.of("Deployment", facts.namespace),
        "Pod": lambda: _of_seen(facts, "Pod", "namespace"),
        "Namespace": lambda: _of_seen(facts, "Namespace", "name"),
        "NetworkPolicy": lambda: _of_seen(facts, "NetworkPolicy", "namespace"),
    }
    found = {}
    for kind, raws in kept.items():
        found[f"objects/{kind.lower()}.json"] = _json(partial(_scrubbed_objects, raws))
    found["findings.json"] = _json(lambda: scrubbed_each(documents(findings)))
    about = {"doctor": VERSION, "at": facts.now.isoformat()}
    found["versions.json"] = _json(lambda: {**about, "images": scrubbed(_images(facts))})
    found["not-looked-at.json"] = _json(lambda: {what: without_secrets(why) for what, why in facts.unseen.items()})
    found["LEFT-OUT.txt"] = LEFT_OUT
    return found | dict(fetched)


def write(file: Path, files: Mapping[str, str]) -> None:
    """A tar.gz with all of it. Raises `UserError` where `file` cannot be written."""
    try:
        with tarfile.open(file, "w:gz") as tar:
            for path, text in sorted(files.items()):
                entry, data = tarfile.TarInfo(f"vllm-rightsizer/{path}"), text.encode(errors="replace")
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
    found["events.json"] = await _events(server, facts.namespace)
    return found


async def _log(server: ApiServer, namespace: str, pod: str) -> str:
    """What was read until something failed, too."""
    path = f"{PODS.path(namespace, pod)}/log"
    found: list[str] = []
    try:
        async with server.stream(path, _LOG_QUERY, "*/*", _SILENCE_SECONDS) as lines:
            async for line in lines:
                # One by one: what was read stays where a later line fails.
                found += [line.decode(errors="replace")]
    except (ApiError, *CONNECTION_ERRORS) as error:
        found.append(f"not read: {error}")
    except Exception as error:  # a line longer than any reader takes, or what no other log has
        found.append(f"not read: {type(error).__name__}")
    try:
        return scrubbed_log(found)
    except Exception as error:  # one file less is better than no bundle
        return f"left out: it cannot be read: {type(error).__name__}\n"


async def _events(server: ApiServer, namespace: str) -> str:
    try:
        ours = await server.request("GET", _EVENTS.path(namespace))
        kinds = await server.request("GET", _EVENTS.path(), query={"fieldSelector": f"reportingComponent={CONTROLLER}"})
    except (ApiError, *CONNECTION_ERRORS) as error:
        said = str(error)
        return _json(lambda: {"notRead": without_secrets(said)})
    return _json(lambda: scrubbed_each([*ours["items"], *kinds["items"]]))


def _of_seen(facts: Facts, kind: str, where: str) -> list[Raw]:
    """Of our namespace and of those that have opted in; by their own name, or by where they are."""
    seen = {facts.namespace, *facts.opted_in}
    return [raw for raw in facts.of(kind) if raw["metadata"].get(where) in seen]


def _scrubbed_objects(raws: Callable[[], Sequence[Raw]]) -> list[Raw]:
    return scrubbed_each(raws())


def _is_ours(raw: Raw) -> bool:
    return str(raw["metadata"]["name"]).endswith(f".{GROUP}")


def _images(facts: Facts) -> list[str]:
    containers = (
        container
        for raw in facts.of("Deployment", facts.namespace)
        for container in raw["spec"]["template"]["spec"].get("containers") or ()
    )
    return sorted({str(container.get("image")) for container in containers})


def _json(make: Callable[[], object]) -> str:
    try:
        return json.dumps(make(), indent=2, default=str) + "\n"
    except Exception as error:  # one file less is better than no bundle
        return json.dumps({"leftOut": f"it cannot be read: {type(error).__name__}"}) + "\n"
