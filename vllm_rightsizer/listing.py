"""`vllm-rightsizer list`: every workload with a recommendation, as a table and as documents; and where there is none,
what to do next."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from recommender.api.object_store import Raw
from recommender.api.objects import InvalidObjectError
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.scopes import DISABLED, ENABLED, Scope
from recommender.discovery import opted_in
from vllm_plugin.names import LABEL_INJECT, LABEL_INJECTED
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.output import csv_of, write_document, write_out
from vllm_rightsizer.reading import Source, read_namespaces, read_recommendations
from vllm_rightsizer.reading_options import Color, Output, SortColumn
from vllm_rightsizer.tables import Paper, drawn
from vllm_rightsizer.workload_rows import Row, row_of, sorted_by, total_of
from vllm_rightsizer.workload_tables import table_of

_MOST_NAMES = 5


def print_list(source: Source, namespace: str | None, sort: SortColumn, output: Output, color: Color) -> None:
    """Print the workloads of `namespace`, None for all. What is empty is no error: standard error says what to do."""
    raws = read_recommendations(source, namespace).list(VLLMRecommendation.KIND, namespace)
    found, faults = rows_in(raws)
    for fault in faults:
        print(f"passed over: {fault}", file=sys.stderr)
    rows = sorted_by(found, sort)
    if not rows:
        print(hint_for(source, namespace), file=sys.stderr)
    if output is Output.CSV:
        write_out(csv_of([row.to_json() for row in rows]))
    elif not output.is_table:
        document = {"workloads": [row.to_json() for row in rows], "total": total_of(rows).to_json()}
        write_document(document, as_yaml=output is Output.YAML)
    elif rows:
        paper, wide = Paper.of(color), output is Output.WIDE
        table = table_of(rows, paper.width, wide=wide)
        write_out(drawn(lambda wanted: wanted.print(table), None if wide else paper.width, paper))


def rows_in(raws: Iterable[Raw]) -> tuple[list[Row], list[str]]:
    """Of recommendations; and what is wrong with each that cannot be understood."""
    found: list[Row] = []
    faults: list[str] = []
    for raw in raws:
        try:
            found.append(row_of(VLLMRecommendation.from_json(raw)))
        except InvalidObjectError as error:
            faults.append(str(error))
    return found, faults


def hint_for(source: Source, namespace: str | None) -> str:
    """What to do where nothing is recommended, as far as the user may look."""
    try:
        namespaces = read_namespaces(source).list("Namespace")
    except UserError:
        # Whoever may see one namespace alone is helped without.
        return hint_of(None, namespace)
    return hint_of(namespaces, namespace)


def hint_of(namespaces: Sequence[Raw] | None, namespace: str | None) -> str:
    """What to do where nothing is recommended, in `namespace` or at all; `namespaces`: all, None where they may not be
    seen."""
    label = f"{LABEL_INJECT}={ENABLED}"
    # The scope stands among the options of the servers, which not everybody may see.
    begin = (
        f"`kubectl label namespace {namespace or 'NAME'} {label} --overwrite` (where the scope is {Scope.OPT_OUT}, "
        f"only for one labelled {DISABLED}), then restart its vLLM workloads"
    )
    where = f" in namespace {namespace}" if namespace else ""
    if namespaces is None:
        return f"nothing is recommended{where}: vLLM pods are measured once their namespace opted in, with {begin}"
    found = sorted(filter(None, map(opted_in, namespaces)))
    if namespace is not None and all(raw["metadata"]["name"] != namespace for raw in namespaces):
        return f"there is no namespace {namespace}: see `kubectl get namespaces`"
    if namespace is not None and namespace not in found:
        return f"nothing is recommended{where}, which does not carry the label {label}: {begin}"
    if not found:
        return f"nothing is recommended, and no namespace carries the label {label}: {begin}"
    names = ", ".join(found[:_MOST_NAMES]) + (", …" if len(found) > _MOST_NAMES else "")
    return (
        f"nothing is recommended yet in {namespace or names}: the recommender begins with the first vLLM pod that "
        f"started since the namespace opted in. `kubectl get pods -A -l {LABEL_INJECTED}` shows pods with the plugin; "
        "where there are some, `vllm-rightsizer doctor` says why they are not measured"
    )
