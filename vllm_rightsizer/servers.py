"""`vllm-rightsizer webhook` and `recommender`: the settings, and the faults that are found before anything starts."""

from __future__ import annotations

from pathlib import Path

from vllm_rightsizer.errors import UsageError, UserError


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
    from webhook.server import ListenError, serve
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
    _require_folder(objects)
    try:
        serve(settings)
    except ListenError as error:
        raise UserError(str(error)) from error


def run_recommender(objects: Path, history: Path, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    from recommender.history_files import HistoryError
    from recommender.probes import PortInUseError
    from recommender.service import RecommenderSettings, serve

    _require_folder(objects)
    try:
        serve(RecommenderSettings(objects=objects, history=history, host=host, port=port))
    except (HistoryError, PortInUseError) as error:
        raise UserError(str(error)) from error


def _require_folder(objects: Path) -> None:
    if not objects.is_dir():
        raise UsageError(f"--objects {objects} is no folder; create it, or give the one in which the objects lie")
