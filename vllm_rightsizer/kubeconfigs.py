"""Which API server, by which context, and in which namespace: as kubectl finds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_rightsizer.errors import UsageError, require_kubeconfig

DEFAULT_NAMESPACE = "default"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Access:
    """`kubeconfig`: a file, or several that are read together, as KUBECONFIG writes them; None: the service account of
    the pod. `context`: None for the current one. `namespace`: where a name is looked for that says none."""

    kubeconfig: Path | None
    context: str | None
    namespace: str


def access(kubeconfig: Path | None, context: str | None) -> Access:
    """What the options `--kubeconfig` and `--context` name, and without them kubectl would take. Raises `UsageError`
    where there is no such context."""
    files = [kubeconfig] if kubeconfig is not None else _own_files()
    joined = Path(os.pathsep.join(map(str, files))) if files else None
    require_kubeconfig(joined, context)
    if not files:
        return Access(None, None, _namespace_of_pod())
    contents = [content for file in files if (content := _content(file)) is not None]
    contexts = _contexts(contents)
    if context is not None and contexts and context not in contexts:
        raise UsageError(f"context {context} is not in {joined}: there {_listed(sorted(contexts))}")
    if context is None and len(files) > 1:
        # Of several files the first one decides; whoever connects would take the last.
        context = next((str(current) for one in contents if (current := one.get("current-context"))), None)
    current = context or next((one.get("current-context") for one in contents), None)
    namespace = contexts.get(str(current), {}).get("namespace")
    return Access(joined, context, str(namespace or DEFAULT_NAMESPACE))


def context_names(kubeconfig: Path | None) -> list[str]:
    """All contexts that there are to choose from."""
    files = [kubeconfig] if kubeconfig is not None else _own_files()
    return sorted(_contexts([content for file in files if (content := _content(file)) is not None]))


def _own_files() -> list[Path]:
    """Those that kubectl would take; none in a pod, which has a service account."""
    named = [Path(path) for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    if len(named) > 1:
        # As kubectl does, which passes over those that are not there; where none is, it is said of all.
        return [path for path in named if path.is_file()] or named
    if named:
        return named
    own = Path(os.environ.get("HOME", "/")) / ".kube" / "config"
    return [own] if own.is_file() else []


def _content(file: Path) -> dict[str, Any] | None:
    """None where it is no kubeconfig: whoever connects by it says what is wrong."""
    # It takes a while to be brought in.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe").load(file.read_text())
    except (OSError, ValueError, YAMLError):
        return None
    return found if isinstance(found, dict) else None


def _contexts(contents: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By name; of two by one name the first counts."""
    found: dict[str, dict[str, Any]] = {}
    for content in contents:
        named = content.get("contexts")
        for one in named if isinstance(named, list) else ():
            if isinstance(one, dict) and isinstance(one.get("context"), dict):
                found.setdefault(str(one.get("name")), one["context"])
    return found


def _namespace_of_pod() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def _listed(names: Sequence[str]) -> str:
    return f"are {', '.join(names)}" if len(names) > 1 else f"is {names[0]}"
