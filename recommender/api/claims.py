"""The ResourceClaimTemplate by which a pod asks for a share of a GPU through dynamic resource allocation.

Templates are immutable, and the webhook makes none: the recommender makes one for each size beforehand, named by what
it holds, and the webhook points pods at it once the recommendation's status says that it is there.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from recommender.api.recommendations import VLLMRecommendation
from vllm_plugin.names import GROUP

KIND = "ResourceClaimTemplate"
DEVICE_CLASS = "gpu.nvidia.com"
LABEL_RECOMMENDATION = f"{GROUP}/recommendation"
_DIGITS = 8
_MEBIBYTE = 1 << 20


def claim_spec(request_bytes: int, gpus: int) -> dict[str, Any]:
    """The claim: `gpus` devices, different ones, and `request_bytes` of the memory of each (whole MiB, rounded up)."""
    memory = f"{-(-request_bytes // _MEBIBYTE)}Mi"
    request = {
        "name": "gpu",
        "exactly": {
            "deviceClassName": DEVICE_CLASS,
            "allocationMode": "ExactCount",
            "count": gpus,
            "capacity": {"requests": {"memory": memory}},
        },
    }
    devices: dict[str, Any] = {"requests": [request]}
    if gpus > 1:
        # A device that may be allocated several times could otherwise serve two ranks of one engine.
        devices["constraints"] = [{"requests": ["gpu"], "distinctAttribute": f"{DEVICE_CLASS}/uuid"}]
    return {"devices": devices}


def claim_template_name(recommendation: str, request_bytes: int, gpus: int) -> str:
    """`<recommendation>-<hash of the claim>`."""
    text = json.dumps(claim_spec(request_bytes, gpus), sort_keys=True)
    return f"{recommendation}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def claim_labels(recommendation: str) -> dict[str, str]:
    """By which the templates of a recommendation are found."""
    return {"app.kubernetes.io/managed-by": "vllm-rightsizer", LABEL_RECOMMENDATION: recommendation}


def claim_template(recommendation: VLLMRecommendation, request_bytes: int, gpus: int) -> dict[str, Any]:
    """The object, in the recommendation's namespace, and owned by it where that has a UID to be known by."""
    metadata = recommendation.metadata
    owner = {
        "apiVersion": recommendation.api_version,
        "kind": recommendation.kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "blockOwnerDeletion": False,
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": KIND,
        "metadata": {
            "name": claim_template_name(metadata.name, request_bytes, gpus),
            "namespace": metadata.namespace,
            "labels": claim_labels(metadata.name),
            **({"ownerReferences": [owner]} if metadata.uid else {}),
        },
        "spec": {"spec": claim_spec(request_bytes, gpus)},
    }
