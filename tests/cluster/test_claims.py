"""GPUs by claims, on a real API server: the recommender makes the template, the webhook points pods at it, and
Kubernetes makes a claim from it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from synthetic import SyntheticEngine, served

from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import Webhook
from recommender.api.workloads import WorkloadRef
from vllm_plugin import names

from .recommenders import (
    HASTY,
    RecommenderProcess,
    found,
    install,
    install_claims,
    measured_pod,
    opted_in,
    path_of,
    put_policy,
    run,
)

LLAMA = WorkloadRef("", "Pod", "llama")
PATIENT = {**HASTY, "observationWindow": "120s", "windowCoverage": 1}
"""What is looked up once counts until the end of the test, and what has no pod any longer is kept."""
TEMPLATES = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaimtemplates"


@pytest.fixture
def recommender(controllers: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecommenderProcess]:
    install(controllers)
    install_claims(controllers)
    put_policy(controllers, "hasty-claims", **PATIENT)
    made = RecommenderProcess(controllers, tmp_path_factory.mktemp("claims"))
    try:
        made.start("--gpu-claims")
        yield made
    finally:
        made.stop()
        controllers.client.http.delete(f"/apis/{names.API_VERSION}/vllmpolicies/hasty-claims")


@pytest.mark.usefixtures("recommender")
def test_from_a_size_to_a_claim(webhook: Webhook) -> None:
    plane, client = webhook.plane, webhook.plane.client
    namespace = opted_in(plane, "claims", "hasty-claims")
    path, pods = path_of(namespace, LLAMA), f"/api/v1/namespaces/{namespace}/pods"
    engine, draw = SyntheticEngine(demand_blocks=300, active_blocks=200), random.Random(1)
    with served(lambda: engine.page().encode()) as port:
        pod = measured_pod(port)
        pod["metadata"]["annotations"] = {names.ANNOTATION_EMITTER: "dra"}
        client.create(pods, pod)
        run(plane, namespace, "llama")
        plane.wait_for(lambda: found(plane, path).get("status", {}).get("measured"), "measurement")
        for _ in range(6):
            engine.look_up([draw.randrange(1200) for _ in range(800)] + [None] * 200, requests=50)
        plane.wait_for(lambda: found(plane, path)["status"].get("claimTemplate"), "claim's template")
        recommendation = client.get(path)
        name = recommendation["status"]["claimTemplate"]

        template = client.get(f"{TEMPLATES.format(namespace)}/{name}")
        [owner] = template["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("VLLMRecommendation", recommendation["metadata"]["uid"])
        [request] = template["spec"]["spec"]["devices"]["requests"]
        allocation = recommendation["status"]["target"]["allocationBytes"]
        mebibytes = -(-(allocation + (1 << 30)) // (1 << 20))
        # The API server has kept the field, which older ones do not know.
        assert request["exactly"]["capacity"]["requests"] == {"memory": f"{mebibytes}Mi"}

        client.delete(f"{pods}/llama", gracePeriodSeconds="0")
        plane.wait_for(lambda: not plane.exists(f"{pods}/llama"), "end of the pod")

        def claiming() -> bool:
            spec = client.create(pods, pod, dryRun="All")["spec"]
            return bool(spec.get("resourceClaims"))

        plane.wait_for(claiming, "webhook's knowledge of the template")
        made = client.create(pods, pod)
    [claim] = made["spec"]["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == name
    [container] = made["spec"]["containers"]
    assert container["resources"]["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
    # kube-controller-manager makes the claim; the pod's status names it.
    claims = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"
    plane.wait_for(lambda: client.get(claims)["items"], "claim of the pod")
    [made_claim] = client.get(claims)["items"]
    assert made_claim["spec"]["devices"]["requests"] == template["spec"]["spec"]["devices"]["requests"]
