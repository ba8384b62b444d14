"""The port of the plugin's metrics: declared, and nobody else's."""

from __future__ import annotations

import pytest
from webhook_cases import Raw, engine, environment, injected, pod


def test_another_port_where_ours_is_taken() -> None:
    before = pod(engine(ports=[{"containerPort": 9415}]))
    before["spec"]["containers"].append({"name": "side", "image": "x", "ports": [{"containerPort": 9416}]})
    container = injected(before)["spec"]["containers"][0]
    assert environment(container)["VLLM_RIGHTSIZER_PORT"] == "9417"
    assert container["ports"][-1]["containerPort"] == 9417


def test_the_authors_port_is_kept() -> None:
    container = injected(pod(engine(env=[{"name": "VLLM_RIGHTSIZER_PORT", "value": "7000"}])))["spec"]["containers"][0]
    assert environment(container)["VLLM_RIGHTSIZER_PORT"] == "7000"
    assert container["ports"] == [{"name": "rightsizer", "containerPort": 7000, "protocol": "TCP"}]


def test_no_port_is_declared_on_the_hosts_network() -> None:
    before = pod(engine())
    before["spec"]["hostNetwork"] = True
    assert "ports" not in injected(before)["spec"]["containers"][0]


@pytest.mark.parametrize(
    "more",
    [
        {"args": ["--model=m", "--port", "9415"]},
        {"args": ["--model=m", "--port=9415"]},
        {"command": ["sh", "-c", "vllm serve m --port 9415"], "args": None},
        {"args": ["--model=m", "--port=$(PORT)"], "env": [{"name": "PORT", "value": "9415"}]},
    ],
)
def test_vllms_own_port_is_not_ours(more: Raw) -> None:
    container = injected(pod(engine(**more)))["spec"]["containers"][0]
    assert environment(container)["VLLM_RIGHTSIZER_PORT"] == "9416"


def test_a_neighbours_port_is_not_ours() -> None:
    before = pod(engine())
    before["spec"]["containers"].append({"name": "proxy", "image": "p", "args": ["--listen=0.0.0.0:9415"]})
    assert environment(injected(before)["spec"]["containers"][0])["VLLM_RIGHTSIZER_PORT"] == "9416"


def test_pods_on_the_hosts_network_begin_at_ports_of_their_own() -> None:
    ports = set()
    for at in range(20):
        before = pod(engine())
        before["spec"]["hostNetwork"] = True
        before["metadata"]["uid"] = f"0b6f-{at}"
        ports.add(environment(injected(before)["spec"]["containers"][0])["VLLM_RIGHTSIZER_PORT"])
    assert len(ports) > 15
    assert all(9415 <= int(port) < 9415 + 256 for port in ports)


@pytest.mark.parametrize(
    "ports",
    [
        [{"name": "rightsizer", "containerPort": 1}],
        [{"name": "other", "containerPort": 9415}],
        [{"name": "a", "containerPort": 9415, "protocol": "UDP"}, {"name": "rightsizer", "containerPort": 9416}],
    ],
)
def test_port_names_stay_unique_and_short(ports: list[Raw]) -> None:
    names = [port["name"] for port in injected(pod(engine(ports=ports)))["spec"]["containers"][0]["ports"]]
    assert len(names) == len(set(names))
    assert max(map(len, names)) <= 15
