"""`vllm-rightsizer explain`, `what-if` and `plan` as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllm_rightsizer.errors import require_one_scope, require_url
from vllm_rightsizer.reading_options import (
    AllNamespaces,
    Color,
    ColorOption,
    Context,
    Objects,
    OpenCostUrl,
    Output,
    OutputOption,
    OwnKubeconfig,
    OwnNamespace,
    PriceFile,
    SomeNamespace,
    SomeScope,
    SomeWorkload,
    Workload,
)


def explain(
    workload: Workload,
    history: Annotated[
        Path | None,
        typer.Option(
            help="File in which the recommender keeps its measurements; without it, only what stands in the cluster."
        ),
    ] = None,
    objects: Objects = None,
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
    namespace: OwnNamespace = None,
    output: OutputOption = Output.TABLE,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show every sample, rule and bound behind one recommendation."""
    from vllm_rightsizer.explaining import print_explanation
    from vllm_rightsizer.reading import Source

    print_explanation(Source(objects, kubeconfig, context), history, namespace, workload, output, color)


def what_if(
    history: Annotated[Path, typer.Option(help="File in which the recommender keeps its measurements.")],
    workload: SomeWorkload = None,
    objects: Objects = None,
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
    policy: Annotated[str | None, typer.Option(help="VLLMPolicy to try; without it, each workload's own.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Field to change in it, such as hitRateLoss.points=2; repeatable.")
    ] = None,
    namespace: SomeNamespace = None,
    all_namespaces: AllNamespaces = False,
    output: OutputOption = Output.TABLE,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show what another policy would recommend, and how the window seen would have gone with it."""
    from vllm_rightsizer.reading import Source
    from vllm_rightsizer.what_if import print_what_if

    require_one_scope(namespace, all_namespaces)
    source = Source(objects, kubeconfig, context)
    print_what_if(source, history, policy, settings or [], namespace, workload, output, color)


def plan(
    workload: SomeWorkload = None,
    objects: Objects = None,
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only GPUs on which pods of this namespace are to lie.")
    ] = None,
    prices: PriceFile = None,
    opencost: OpenCostUrl = None,
    scope: SomeScope = None,
    output: OutputOption = Output.TABLE,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show which workloads fit together on which GPUs after right-sizing, and how many GPUs that frees."""
    from vllm_rightsizer.plan import print_plan
    from vllm_rightsizer.reading import Source

    require_url(opencost, "--opencost")
    source = Source(objects, kubeconfig, context)
    print_plan(source, prices, opencost, scope, namespace, workload, output, color)
