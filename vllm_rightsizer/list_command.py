"""`vllm-rightsizer list` as it is typed."""

from __future__ import annotations

from typing import Annotated

import typer

from vllm_rightsizer.errors import require_one_scope
from vllm_rightsizer.reading_options import (
    AllNamespaces,
    Color,
    ColorOption,
    Context,
    Objects,
    Output,
    OutputOption,
    OwnKubeconfig,
    SomeNamespace,
    SortColumn,
)


def list_workloads(
    objects: Objects = None,
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
    namespace: SomeNamespace = None,
    all_namespaces: AllNamespaces = False,
    sort: Annotated[
        SortColumn, typer.Option(help="Texts from A to Z, amounts from the largest down.")
    ] = SortColumn.WORKLOAD,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Go on: a table that stays true, or where there is no terminal, changes."),
    ] = False,
    output: OutputOption = Output.TABLE,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show each workload: what it claims of its GPUs, uses and needs, what that saves, and where it stands."""
    from vllm_rightsizer.reading import Source

    require_one_scope(namespace, all_namespaces)
    source = Source(objects, kubeconfig, context)
    if watch:
        from vllm_rightsizer.watching import watch_list

        watch_list(source, namespace, sort, output, color)
    else:
        from vllm_rightsizer.listing import print_list

        print_list(source, namespace, sort, output, color)
