"""What the doctor reads of a plugin's page, which the plugin itself has written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from installation import Installation

from bench.lab.plugin_pods import PluginPod
from recommender.api.apiserver.connection import ApiError
from vllm_plugin.exporter import Exporter
from vllm_plugin.formats import chosen
from vllm_plugin.names import COMPACT_TYPE
from vllm_rightsizer.doctor.facts import RECOMMENDER, WEBHOOK, Page
from vllm_rightsizer.doctor.proxied import is_answer, page_of, readiness_path


def page(pod: PluginPod) -> Any:
    return json.loads(Exporter(pod.report).page(chosen(COMPACT_TYPE)))


def test_page_of_a_plugin_that_is_well() -> None:
    assert page_of(page(PluginPod("llama"))) == Page(vllm_version="0.32.0")


def test_hooks_without_which_figures_stand_still() -> None:
    found = page_of(page(PluginPod("llama", hooks_off=("lookup", "reuse"))))
    assert found == Page(hooks_off={"lookup": 0}, vllm_version="0.32.0")


def test_servers_that_are_not_ready_are_asked_at_the_number_of_their_port() -> None:
    there = Installation()
    container = there.one("Deployment", "vllm-rightsizer-webhook")["spec"]["template"]["spec"]["containers"][0]
    container["args"].append("--port=9443")
    facts, pods = there.facts(), "/api/v1/namespaces/vllm-rightsizer/pods"
    assert readiness_path(facts, WEBHOOK, "one") == f"{pods}/https:one:9443/proxy/readyz"
    assert readiness_path(facts, RECOMMENDER, "two") == f"{pods}/two:9416/proxy/readyz"


def test_who_speaks_another_protocol_has_the_port() -> None:
    trouble = "error trying to reach service: net/http: HTTP/1.x transport connection broken: "
    assert is_answer(ApiError(503, "ServiceUnavailable", f'{trouble}malformed HTTP response "\\x00"'))
    assert not is_answer(ApiError(503, "ServiceUnavailable", "error trying to reach service: dial tcp: refused"))
    assert is_answer(ApiError(404, "NotFound", "404 page not found"))


@pytest.mark.parametrize("answer", [{}, [1], [["vllm_rightsizer_hooks_active", {}, 0]]])
def test_what_is_no_page(answer: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        page_of(answer)
