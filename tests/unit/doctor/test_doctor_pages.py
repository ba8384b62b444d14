"""What the doctor reads of a plugin's page, which the plugin itself has written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.lab.plugin_pods import PluginPod
from vllm_plugin.exporter import Exporter
from vllm_plugin.formats import chosen
from vllm_plugin.names import COMPACT_TYPE
from vllm_rightsizer.doctor.facts import Page
from vllm_rightsizer.doctor.proxied import page_of


def page(pod: PluginPod) -> Any:
    return json.loads(Exporter(pod.report).page(chosen(COMPACT_TYPE)))


def test_page_of_a_plugin_that_is_well() -> None:
    assert page_of(page(PluginPod("llama"))) == Page(vllm_version="0.32.0")


def test_hooks_without_which_figures_stand_still() -> None:
    found = page_of(page(PluginPod("llama", hooks_off=("lookup", "reuse"))))
    assert found == Page(hooks_off={"lookup": 0}, vllm_version="0.32.0")


@pytest.mark.parametrize("answer", [{}, [1], [["vllm_rightsizer_hooks_active", {}, 0]]])
def test_what_is_no_page(answer: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        page_of(answer)
