"""What a person can set about the webhook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_plugin.names import DEFAULT_PORT

InjectionWay = Literal["config-map", "init-container", "image-volume", "none"]

DEFAULT_WEBHOOK_PORT = 8443


@dataclass(frozen=True)
class InjectionSettings:
    """How the plugin comes into a pod.

    `config-map`: mounted from the namespace's ConfigMap, no container at all. `init-container`: copied from
    `injector_image`, for clusters where the ConfigMap is not wanted. `image-volume`: that image itself as a volume, on
    clusters whose nodes can mount images. `none`: nowhere, and then nothing is sized either.

    `init_cpu` and `init_memory` are requests and limits of the init container, at least what the cluster's LimitRanges
    ask for.
    """

    way: InjectionWay = "config-map"
    injector_image: str | None = None
    plugin_port: int = DEFAULT_PORT
    init_cpu: str = "100m"
    init_memory: str = "64Mi"

    def __post_init__(self) -> None:
        if self.way not in ("config-map", "none") and not self.injector_image:
            raise ValueError(f"injection by {self.way} needs an image; give one with --injector-image")


@dataclass(frozen=True)
class ClusterSettings:
    """How the webhook stands in a cluster: by which file it reaches the API server (without one, by its pod's service
    account), and what the objects around it are called.
    """

    kubeconfig: Path | None = None
    namespace: str = "vllm-rightsizer"
    service: str = "vllm-rightsizer-webhook"
    configuration: str = "vllm-rightsizer"
    tls_secret: str = "vllm-rightsizer-webhook-tls"
    drain_seconds: float = 10.0


@dataclass(frozen=True)
class WebhookSettings:
    """What `serve` needs to know.

    With a folder of `objects`, that is all it knows, and it makes its certificates in `tls_dir`. With a `cluster`, the
    certificates are in a Secret; a `tls_dir` then is one that cert-manager fills.
    """

    objects: Path | None = None
    tls_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_WEBHOOK_PORT
    injecting: InjectionSettings = InjectionSettings()
    cluster: ClusterSettings = ClusterSettings()

    def __post_init__(self) -> None:
        if self.objects is not None and self.tls_dir is None:
            raise ValueError("with --objects there is no Secret for the certificates; give a folder with --tls-dir")
