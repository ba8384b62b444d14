"""What a person can set about the webhook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_plugin.names import DEFAULT_PORT

InjectionWay = Literal["config-map", "init-container"]

DEFAULT_WEBHOOK_PORT = 8443


@dataclass(frozen=True)
class InjectionSettings:
    """How the plugin comes into a pod.

    `config-map`: mounted from the namespace's ConfigMap, no container at all. `init-container`: copied from
    `injector_image`, for clusters where the ConfigMap is not wanted.
    """

    way: InjectionWay = "config-map"
    injector_image: str | None = None
    plugin_port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if self.way == "init-container" and not self.injector_image:
            raise ValueError("injection by init container needs an image; give one with --injector-image")


@dataclass(frozen=True)
class WebhookSettings:
    """What `serve` needs to know: where objects and certificates lie, where to listen, how to inject."""

    objects: Path
    tls_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_WEBHOOK_PORT
    injection: InjectionWay = "config-map"
    injector_image: str | None = None
    plugin_port: int = DEFAULT_PORT

    @property
    def injecting(self) -> InjectionSettings:
        return InjectionSettings(self.injection, self.injector_image, self.plugin_port)
