"""`vllm-rightsizer rewrite`: what the webhook would make of the pods in a manifest file."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from vllm_rightsizer.errors import UsageError
from vllm_rightsizer.yaml_edits import graft
from webhook.manifests import rewrite_object

_NEVER_WRAP = 1 << 20


@dataclass(frozen=True)
class RewrittenManifest:
    """The file before and after, written by the same hand, so that they differ in nothing but the changes."""

    before: str
    after: str
    notes: tuple[str, ...]
    """A line for each thing that was left alone, and why."""

    def diff(self, name: str) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        )
        return "".join(lines)


def rewrite_manifest(text: str, source: str, kv_bytes: int, utilization: str | None) -> RewrittenManifest:
    """Rewrite each object of the YAML stream `text`; `source` names it in messages. Raises `UsageError`."""
    try:
        return _rewritten(text, source, kv_bytes, utilization)
    except RecursionError:
        # Thousands of frames say no more than this.
        raise UsageError(
            f"{source} has no end, or is nested too deeply: take out the alias that refers to what it stands in"
        ) from None


def _rewritten(text: str, source: str, kv_bytes: int, utilization: str | None) -> RewrittenManifest:
    yaml = _round_trip(text)
    try:
        documents = list(yaml.load_all(text))
        plain = list(YAML(typ="safe", pure=True).load_all(text))
    except (YAMLError, ValueError) as error:
        # A day that no month has is a ValueError.
        raise UsageError(f"{source} is no YAML: {_one_line(error)}") from error
    before = _dump(yaml, documents)
    notes: list[str] = []
    objects = 0
    for document, obj in zip(documents, plain, strict=True):
        if obj is None:
            continue
        name = _name_of(obj, source)
        objects += 1
        try:
            rewritten = rewrite_object(obj, kv_bytes, utilization)
        except (AttributeError, KeyError, TypeError) as error:
            # An API server would have refused it before the webhook saw it.
            raise UsageError(f"{source}: {name} does not have the fields of its kind: {error}") from error
        notes += [f"{name}: {_without_name(reason, obj)}" for reason in rewritten.skipped]
        graft(document, rewritten.obj)
    if not objects:
        raise UsageError(f"{source} holds no object; give a manifest such as a Pod or a Deployment")
    return RewrittenManifest(before, _dump(yaml, documents), tuple(notes))


def _round_trip(text: str) -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _NEVER_WRAP
    yaml.explicit_start = text.lstrip().startswith("---")
    try:
        _, indent, offset = load_yaml_guess_indent(text.partition("\n---")[0])
    except (YAMLError, ValueError):
        return yaml
    if indent is not None:
        yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
    return yaml


def _dump(yaml: YAML, documents: Sequence[Any]) -> str:
    stream = io.StringIO()
    yaml.dump_all(documents, stream)
    return stream.getvalue()


def _name_of(obj: Any, source: str) -> str:
    if not isinstance(obj, dict) or not isinstance(obj.get("kind"), str):
        raise UsageError(f"{source} holds something that is no Kubernetes object: it has no `kind`")
    metadata = obj.get("metadata") or {}
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{obj['kind']}/{name}" if name else str(obj["kind"])


def _without_name(reason: str, obj: dict[str, Any]) -> str:
    """Where the reason begins with the object's kind and name, they need not stand twice."""
    name = (obj.get("metadata") or {}).get("name") or ""
    return reason.removeprefix(f"{obj['kind']} {name}".strip() + ": ")


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return problem if mark is None else f"{problem}, line {mark.line + 1}, column {mark.column + 1}"
