"""What a shell offers for a value that is half typed: contexts, namespaces, workloads. It never complains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vllm_rightsizer.errors import UserError

if TYPE_CHECKING:
    from vllm_rightsizer.reading import Source
    from vllm_rightsizer.workload_names import Known


def contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Those of the kubeconfig."""
    from vllm_rightsizer.kubeconfigs import context_names

    return [name for name in context_names(_path(ctx, "kubeconfig")) if name.startswith(incomplete)]


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Those with a recommendation."""
    found = {one.key.namespace for one in _known(ctx, None)}
    return sorted(name for name in found if name.startswith(incomplete))


def workloads(ctx: typer.Context, incomplete: str) -> list[str]:
    """Those with a recommendation in the namespace that is said, or else in that of the context: by their names, and
    once a kind and a slash are typed, those of this kind."""
    from vllm_rightsizer.workload_names import is_of

    try:
        namespace = ctx.params.get("namespace") or _source(ctx).namespace
    except UserError:
        return []
    kind, slash, _ = incomplete.partition("/")
    found = {one.key.workload.name for one in _known(ctx, namespace) if not slash or is_of(kind, one)}
    typed = f"{kind}/" if slash else ""
    return sorted(f"{typed}{name}" for name in found if f"{typed}{name}".startswith(incomplete))


def _known(ctx: typer.Context, namespace: str | None) -> list[Known]:
    """Those that may be seen."""
    from recommender.api.recommendations import VLLMRecommendation
    from vllm_rightsizer.reading import read_recommendations
    from vllm_rightsizer.workload_names import known_of

    try:
        return known_of(read_recommendations(_source(ctx), namespace).list(VLLMRecommendation.KIND, namespace))
    except UserError:
        return []


def _source(ctx: typer.Context) -> Source:
    from vllm_rightsizer.reading import Source

    context = ctx.params.get("context")
    return Source(_path(ctx, "objects"), _path(ctx, "kubeconfig"), context)


def _path(ctx: typer.Context, option: str) -> Path | None:
    found = ctx.params.get(option)
    return None if found is None else Path(found)
