"""`vllm-rightsizer webhook` and `recommender`: the settings, and the faults that are found before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_rightsizer.errors import UsageError, UserError, require_folder

_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """The namespace of the pod that this runs in; outside of a pod the one that the chart proposes."""
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return "vllm-rightsizer"


def run_webhook(listening: dict[str, Any], injecting: dict[str, Any], cluster: dict[str, Any]) -> None:
    """Serve until a signal ends it. The three are fields of `WebhookSettings`, and of what is in it."""
    from recommender.api.apiserver.connection import CredentialsError
    from recommender.api.listening import ListenError
    from webhook.server import serve
    from webhook.settings import ClusterSettings, InjectionSettings, WebhookSettings

    try:
        settings = WebhookSettings(
            **listening, injecting=InjectionSettings(**injecting), cluster=ClusterSettings(**cluster)
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if settings.objects is not None:
        require_folder(settings.objects)
    try:
        serve(settings)
    except (CredentialsError, ListenError) as error:
        raise UserError(str(error)) from error


def run_recommender(objects: Path | None, history: Path, host: str, port: int, **more: Any) -> None:
    """Serve until a signal ends it. `more`: further fields of `RecommenderSettings`."""
    from recommender.api.apiserver.connection import CredentialsError
    from recommender.api.listening import ListenError
    from recommender.history_files import HistoryError
    from recommender.prices import PricesError
    from recommender.service import RecommenderSettings, serve

    if objects is not None:
        require_folder(objects)
    try:
        serve(RecommenderSettings(objects=objects, history=history, host=host, port=port, **more))
    except (CredentialsError, HistoryError, ListenError, PricesError) as error:
        raise UserError(str(error)) from error
