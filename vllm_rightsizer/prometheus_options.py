"""How `vllm-rightsizer recommender` is told of a Prometheus-compatible backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_rightsizer.errors import UsageError

if TYPE_CHECKING:
    from recommender.promql.settings import PrometheusSettings

_PANEL = "Measurements from Prometheus, Thanos, Mimir or VictoriaMetrics"

Url = Annotated[
    str | None,
    typer.Option(
        "--prometheus",
        metavar="URL",
        help="Under which /api/v1/query lies. Intervals come from there, and the history is a cache of them.",
        rich_help_panel=_PANEL,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--prometheus-token-file", help="Of a bearer token, read for each query.", rich_help_panel=_PANEL),
]
HeadersFile = Annotated[
    Path | None,
    typer.Option(
        "--prometheus-headers-file",
        help="Of headers with secrets, one a line, read for each query.",
        rich_help_panel=_PANEL,
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option("--prometheus-ca-file", help="Of the authority behind an https URL.", rich_help_panel=_PANEL),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--prometheus-header",
        metavar="HEADER",
        help="Sent with each query, such as 'X-Scope-OrgID: team'; may be given several times.",
        rich_help_panel=_PANEL,
    ),
]
Matchers = Annotated[
    list[str] | None,
    typer.Option(
        "--prometheus-matcher",
        metavar="MATCHER",
        help="Of the plugins' series, such as 'cluster=\"eu\"'; may be given several times.",
        rich_help_panel=_PANEL,
    ),
]
RecommenderMatchers = Annotated[
    list[str] | None,
    typer.Option(
        "--prometheus-recommender-matcher",
        metavar="MATCHER",
        help="Of the recommender's own series; 'job=\"vllm-rightsizer-recommender\"' by default.",
        rich_help_panel=_PANEL,
    ),
]
NamespaceLabel = Annotated[
    str,
    typer.Option("--prometheus-namespace-label", help="In which a target's namespace stands.", rich_help_panel=_PANEL),
]
PodLabel = Annotated[
    str, typer.Option("--prometheus-pod-label", help="In which its pod's name stands.", rich_help_panel=_PANEL)
]
ContainerLabel = Annotated[
    str,
    typer.Option("--prometheus-container-label", help="In which its container's name stands.", rich_help_panel=_PANEL),
]


def prometheus_settings(
    url: str | None,
    token_file: Path | None,
    headers_file: Path | None,
    ca_file: Path | None,
    headers: list[str] | None,
    matchers: list[str] | None,
    recommender_matchers: list[str] | None,
    labels: tuple[str, str, str],
) -> PrometheusSettings | None:
    """None without a URL. `labels`: of namespace, pod and container. Raises `UsageError`."""
    from recommender.promql.settings import (
        RECOMMENDER_JOB,
        PrometheusSettings,
        PrometheusSettingsError,
        headers_of,
    )

    if url is None:
        if token_file or headers_file or ca_file or headers or matchers or recommender_matchers:
            raise UsageError("options of Prometheus say nothing without --prometheus URL")
        return None
    namespace_label, pod_label, container_label = labels
    try:
        return PrometheusSettings(
            url=url,
            token_file=token_file,
            headers_file=headers_file,
            ca_file=ca_file,
            headers=headers_of(headers or ()),
            matchers=tuple(matchers or ()),
            recommender_matchers=tuple(recommender_matchers or (RECOMMENDER_JOB,)),
            namespace_label=namespace_label,
            pod_label=pod_label,
            container_label=container_label,
        )
    except PrometheusSettingsError as error:
        raise UsageError(str(error)) from error
