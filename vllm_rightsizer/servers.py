"""`vllm-rightsizer webhook` and `recommender`: the settings, and the faults that are found before anything starts."""

from __future__ import annotations

from pathlib import Path

from vllm_rightsizer.errors import UsageError, UserError, require_folder


def run_webhook(
    objects: Path,
    tls_dir: Path,
    host: str,
    port: int,
    injection: str,
    injector_image: str | None,
    plugin_port: int,
) -> None:
    """Serve until a signal ends it."""
    from recommender.api.listening import ListenError
    from webhook.server import serve
    from webhook.settings import WebhookSettings

    settings = WebhookSettings(
        objects=objects,
        tls_dir=tls_dir,
        host=host,
        port=port,
        injection="init-container" if injection == "init-container" else "config-map",
        injector_image=injector_image,
        plugin_port=plugin_port,
    )
    try:
        _ = settings.injecting
    except ValueError as error:
        raise UsageError(str(error)) from error
    require_folder(objects)
    try:
        serve(settings)
    except ListenError as error:
        raise UserError(str(error)) from error


def run_recommender(objects: Path, history: Path, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    from recommender.api.listening import ListenError
    from recommender.history_files import HistoryError
    from recommender.service import RecommenderSettings, serve

    require_folder(objects)
    try:
        serve(RecommenderSettings(objects=objects, history=history, host=host, port=port))
    except (HistoryError, ListenError) as error:
        raise UserError(str(error)) from error
