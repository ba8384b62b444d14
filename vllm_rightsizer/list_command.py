"""`vllm-rightsizer list` as it is typed."""

from __future__ import annotations

from typing import Annotated

import typer

from vllm_rightsizer.errors import require_one_scope
from vllm_rightsizer.reading_options import (
    AllNamespaces,
    Context,
    ListOutput,
    Objects,
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
    output: Annotated[ListOutput, typer.Option("--output", "-o", help="What to print.")] = ListOutput.TABLE,
) -> None:
    """Show each workload: what it claims of its GPUs, uses and needs, what that saves, and where it stands."""
    from vllm_rightsizer.listing import print_list
    from vllm_rightsizer.reading import Source

    require_one_scope(namespace, all_namespaces)
    print_list(Source(objects, kubeconfig, context), namespace, sort, output)
