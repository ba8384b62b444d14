"""What the webhook's tests share: launch forms and what becomes of each, pods, reviews, recommendations."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass
from typing import Any

import jsonpatch

from recommender.api.fingerprints import fingerprint
from recommender.api.policies import AutomatedNamespaceSpec, ClusterAutomationSpec
from recommender.api.workloads import WorkloadRef, workload_of
from webhook.admission import admit
from webhook.knowledge import Knowledge, Recommended
from webhook.settings import InjectionSettings

Raw = dict[str, Any]
KV_BYTES = 4_294_967_296
UTILIZATION = "0.4321"
MAIN: Raw = {"name": "main", "image": "vllm/vllm-openai:v0.11.0", "args": ["--model=m"]}
FLAGS = [f"--gpu-memory-utilization={UTILIZATION}", f"--kv-cache-memory-bytes={KV_BYTES}"]
IMAGE = "vllm/vllm-openai:v0.11.0"
API_SERVER = "vllm.entrypoints.openai.api_server"

ENVIRONMENT = "by environment"
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Form:
    """A way to start vLLM. `becomes`: the vector afterwards, or `ENVIRONMENT`, or `UNTOUCHED`."""

    name: str
    command: list[str] | None
    args: list[str] | None
    becomes: list[str] | str
    image: str = IMAGE
    gpu: bool = True
    env: tuple[tuple[str, str], ...] = ()
    vllm_from: int = 0
    """Where vLLM's own arguments begin in `becomes`, for its parser."""

    def container(self) -> Raw:
        built: Raw = {"name": "main", "image": self.image}
        if self.command is not None:
            built["command"] = list(self.command)
        if self.args is not None:
            built["args"] = list(self.args)
        if self.env:
            built["env"] = [{"name": name, "value": value} for name, value in self.env]
        if self.gpu:
            built["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        return built


def visible(
    name: str,
    before: list[str],
    command: list[str] | None,
    args: list[str] | None = None,
    after: list[str] | None = None,
    **more: Any,
) -> Form:
    """A form whose arguments are visible: `before` are the tokens that are not vLLM's, `after` stand behind a `--`."""
    whole = [*(command or ()), *(args or ())]
    tail = after or []
    becomes = [*whole[: len(whole) - len(tail)], *FLAGS, *tail]
    return Form(name, command, args, becomes, vllm_from=len(before), **more)


MODULE = ["python3", "-m", API_SERVER]

FORMS: list[Form] = [
    visible("vllm serve, args", ["vllm", "serve"], ["vllm", "serve"], ["org/model", "--port=8000"]),
    visible("vllm serve, model in the command", ["vllm", "serve"], ["vllm", "serve", "org/model"], ["--port", "8000"]),
    visible("vllm serve, everything in the command", ["vllm", "serve"], ["vllm", "serve", "org/model"]),
    visible("vllm serve, args empty", ["vllm", "serve"], ["vllm", "serve", "org/model"], []),
    visible("vllm in the command, serve in args", ["vllm", "serve"], ["vllm"], ["serve", "org/model"]),
    visible("vllm by path", ["", ""], ["/opt/venv/bin/vllm", "serve", "org/model"]),
    visible("api server", MODULE, MODULE, ["--model", "org/model"]),
    visible("api server, all in the command", MODULE, [*MODULE, "--model", "org/model"]),
    visible("api server, all in args", MODULE, None, [*MODULE, "--model=org/model"]),
    visible("python by path and version", MODULE, ["/usr/bin/python3.12", "-m", API_SERVER], ["--model=m"]),
    visible(
        "python with options", ["", "", "", "", "", ""], ["python", "-u", "-X", "dev", "-m", API_SERVER, "--model=m"]
    ),
    visible("module glued to -m", ["", ""], ["python3", f"-m{API_SERVER}", "--model=m"]),
    visible(
        "the launcher's module", MODULE, ["python3", "-m", "vllm.entrypoints.launchers.api_server.entry"], ["--model=m"]
    ),
    visible("the cli's module", ["", "", "", ""], ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "org/model"]),
    visible("python on the vllm script", ["", "", ""], ["python3", "/usr/local/bin/vllm", "serve"], ["org/model"]),
    visible(
        "a copy of the api server",
        ["", ""],
        ["python3", "/workspace/api_server.py"],
        ["--model=m"],
        image="o/vllm-rocm",
    ),
    visible("args only", [], None, ["--model", "org/model"]),
    visible("args only, model first", [], None, ["org/model", "--port=8000"]),
    visible("args only, model by reference", [], None, ["$(MODEL_ID)", "--port=8000"]),
    visible("args only, serve first", ["serve"], None, ["serve", "org/model"]),
    visible("args only, by digest", [], None, ["--model=m"], image="host:5000/vllm/vllm-openai@sha256:0a"),
    visible("args only, command empty", [], [], ["--model=m"]),
    visible("utilization as two tokens", ["", ""], ["vllm", "serve", "m", "--gpu-memory-utilization", "0.95"]),
    visible("utilization with =", ["", ""], ["vllm", "serve", "m"], ["--gpu-memory-utilization=0.95", "--port=1"]),
    visible("utilization with underscores", ["", ""], ["vllm", "serve", "m"], ["--gpu_memory_utilization=0.95"]),
    visible("utilization abbreviated", ["", ""], ["vllm", "serve", "m"], ["--gpu-mem", "0.95"]),
    visible("utilization repeated", ["", ""], ["vllm", "serve", "m"], ["--gpu=0.1", "--gpu-memory-utilization=0.95"]),
    visible("utilization by reference", [], None, ["--model=m", "--gpu-memory-utilization=$(UTILIZATION)"]),
    visible("a list of values last", ["", ""], ["vllm", "serve", "m", "--served-model-name", "a", "b"]),
    visible("an optional value last", ["", ""], ["vllm", "serve", "m", "--hf-token"]),
    visible("a switch last", ["", ""], ["vllm", "serve", "m", "--enforce-eager"]),
    visible(
        "json in an item", ["", ""], ["vllm", "serve", "m", "--override-generation-config", '{"temperature": 0.5}']
    ),
    visible("dotted option", ["", ""], ["vllm", "serve", "m"], ["--override-generation-config.temperature", "0.5"]),
    visible("terminator before the model", ["", ""], ["vllm", "serve"], ["--port=8000", "--", "m"], ["--", "m"]),
    visible("terminator in the command", ["", ""], ["vllm", "serve", "--"], ["m"], ["--", "m"]),
    visible("tini", ["", "", "", ""], ["tini", "--", "vllm", "serve", "m"]),
    visible("env with assignments", ["", "", "", ""], ["/usr/bin/env", "A=b", "vllm", "serve"], ["m"]),
    visible("numactl", ["", "", "", ""], ["numactl", "--interleave=all", "vllm", "serve", "m"]),
    visible("uv run", ["", "", "", ""], ["uv", "run", "vllm", "serve", "m"]),
    visible("shell that hands its parameters on", [""] * 4, ["sh", "-c", 'ulimit -n 9; vllm serve "$@"', "--"], ["m"]),
    visible("shell that execs its parameters", [""] * 6, ["bash", "-ec", 'exec "$@"', "sh", "vllm", "serve", "m"]),
    Form("sh -c", ["sh", "-c", "vllm serve org/model --port 8000"], None, ENVIRONMENT),
    Form("sh -c in args", ["/bin/sh", "-c"], ["exec vllm serve org/model \\\n --port 8000\n"], ENVIRONMENT),
    Form("bash -lc --", ["/bin/bash", "-lc", "--"], ["ulimit -n 65536; $RAY; vllm serve m"], ENVIRONMENT),
    Form(
        "bash -exc, comment last",
        ["bash", "-exc", f"set -x\npython3 -m {API_SERVER} --model m\n# end"],
        None,
        ENVIRONMENT,
    ),
    Form("bash -o pipefail -c", ["bash", "-o", "pipefail", "-c", "vllm serve m | tee /log"], None, ENVIRONMENT),
    Form("shell with if", ["sh", "-c", "if true; then\n vllm serve m &\nelse echo no; fi; wait"], None, ENVIRONMENT),
    Form("shell with eval", ["sh", "-c", 'eval "vllm serve m $EXTRA"'], None, ENVIRONMENT),
    Form("shell in a shell", ["sh", "-c", "bash -lc 'vllm serve m'"], None, ENVIRONMENT),
    visible("parameters, then options", [""] * 4, ["sh", "-c", 'vllm serve "$@" --port 1', "sh"], ["m"]),
    Form("parameters replaced", ["sh", "-c", 'set -- m; vllm serve "$@"', "sh"], ["x"], ENVIRONMENT),
    Form("two engines in a script", ["sh", "-c", "vllm serve a --port 1 & vllm serve b --port 2"], None, ENVIRONMENT),
    Form("assignments first", ["sh", "-c", "CUDA_VISIBLE_DEVICES=0 HF_HOME=/x vllm serve m"], None, ENVIRONMENT),
    Form("env -S", ["/usr/bin/env", "-S", "vllm serve m"], None, ENVIRONMENT),
    Form("whole line in one item", ['/bin/bash -c "vllm serve m"'], None, ENVIRONMENT),
    Form("script named for vllm", ["/entrypoint/vllm-entrypoint.sh"], None, ENVIRONMENT),
    Form("script in the server's image", ["bash", "/scripts/start.sh"], None, ENVIRONMENT),
    Form(
        "python wrapper",
        ["python3", "/workspace/vllm/inference_api.py", "--gpu-memory-utilization=0.8"],
        None,
        ENVIRONMENT,
    ),
    Form("python -c", ["python3", "-c", "from vllm import LLM; LLM('m')"], None, ENVIRONMENT),
    Form("image's own arguments", None, None, ENVIRONMENT),
    Form("a server of one's own, on a GPU", None, None, ENVIRONMENT, image="registry/vllm-bench-server:1"),
    Form(
        "triton",
        ["tritonserver"],
        ["--model-repository=/m"],
        ENVIRONMENT,
        image="registry.example/nvidia/tritonserver:25.01-vllm-python-py3",
    ),
    Form("nim", None, None, ENVIRONMENT, image="registry.example/nim/meta/llama-3.1-8b-instruct:1.8"),
    Form(
        "ray worker",
        ["bash", "-c"],
        ["ray start --address=head:6379 --block"],
        ENVIRONMENT,
        image="rayproject/ray-llm:2.52",
    ),
    Form(
        "unknown entrypoint, vllm's option", None, ["--gpu-memory-utilization", "0.5"], ENVIRONMENT, image="corp/llm:1"
    ),
    Form("sleep", ["sleep", "infinity"], None, UNTOUCHED),
    Form("sleep in args", None, ["sleep", "infinity"], UNTOUCHED),
    Form("sleep in a shell", ["sh", "-c", "echo 'vllm serve m'; sleep infinity # vllm serve"], None, UNTOUCHED),
    Form("vllm bench", ["vllm", "bench", "serve", "--model", "m"], None, UNTOUCHED),
    Form("vllm bench in a shell", ["sh", "-c", "vllm bench throughput --model m"], None, UNTOUCHED),
    Form("vllm launch render", ["vllm", "launch", "render", "m"], None, UNTOUCHED),
    Form("vllm alone", ["vllm"], None, UNTOUCHED),
    Form("vllm collect-env", ["vllm", "collect-env"], None, UNTOUCHED),
    Form("a benchmark module", ["python3", "-m", "vllm.benchmarks.serve"], None, UNTOUCHED),
    Form("a client", None, ["--vllm-url", "http://x", "--model", "m"], UNTOUCHED, image="corp/vllm-bench-client:1"),
    Form("a router", None, ["--vllm-port=8200"], UNTOUCHED, image="corp/vllm-router:1"),
    Form("a mock", ["sh", "-c"], ["python app.py || true"], UNTOUCHED, image="aibrix/vllm-mock:1"),
    Form(
        "sglang",
        ["python3", "-m", "sglang.launch_server", "--model-path", "m"],
        None,
        UNTOUCHED,
        image="lmsysorg/sglang:1",
    ),
    Form("tgi", None, ["--model-id=m"], UNTOUCHED, image="registry.example/huggingface/text-generation-inference:2"),
    Form("ollama in a vllm image", ["sh", "-c"], ["bash /w/entrypoint.sh\n"], UNTOUCHED, image="rocm/vllm-dev:1"),
    Form("git clone of vllm", ["bash", "-c", "git clone https://github.com/vllm-project/vllm"], None, UNTOUCHED),
    Form("plain triton", ["tritonserver"], None, UNTOUCHED, image="registry.example/nvidia/tritonserver:25.01-py3"),
    Form("ray head without a gpu", None, None, UNTOUCHED, image="rayproject/ray-llm:2.52", gpu=False),
    Form("nginx", ["nginx", "-g", "daemon off;"], None, UNTOUCHED, image="nginx:1"),
    Form("nothing said", None, None, UNTOUCHED, image="corp/thing:1"),
]


def pod(container: Raw | None = None, *, pinned: bool = True, **metadata: Any) -> Raw:
    """A pod of Deployment `llama` with one container; with `pinned` it selects a GPU product."""
    spec: Raw = {"containers": [container or {"name": "main", "image": IMAGE, "args": ["--model=m"]}]}
    if pinned:
        spec["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-H200"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "llama-5d4f-",
            "labels": {"app": "llama", "pod-template-hash": "5d4f"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "llama-5d4f", "uid": "u", "controller": True}
            ],
            **metadata,
        },
        "spec": spec,
    }


def review(obj: Any, **request: Any) -> Raw:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7f3c",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "prod",
            "object": obj,
            **request,
        },
    }


def recommended(of: Raw, container: str = "main", **changes: Any) -> Recommended:
    """A recommendation made for exactly this pod."""
    values: dict[str, Any] = {
        "name": "deployment-llama-main-0a1b2c3d",
        "fingerprint": fingerprint(of, container),
        "paused": False,
        "degraded": None,
        "has_target": True,
        "kv_bytes": KV_BYTES,
        "utilization": UTILIZATION,
        "allocation_bytes": 60_000_000_000,
        "one_gpu_size": True,
        "vllm_version": "0.11.0",
    }
    return Recommended(**{**values, **changes})


def knowing(of: Raw, container: str = "main", **changes: Any) -> Knowledge:
    """Knowledge of one recommendation for this pod, in a cluster where automation is on."""
    return Knowledge(
        recommendations={("prod", workload_of(of), container): recommended(of, container, **changes)},
        cluster=ClusterAutomationSpec(vllm_optimize=True),
    )


def patched(obj: Raw, response: Raw) -> Raw:
    """What the API server makes of `obj` by the answer's patch."""
    text = response["response"].get("patch")
    if text is None:
        return copy.deepcopy(obj)
    result: Raw = jsonpatch.apply_patch(copy.deepcopy(obj), json.loads(base64.b64decode(text)))
    return result


def engine(**more: Any) -> Raw:
    """`MAIN` without a release, and with whatever else."""
    return {"name": "main", "image": "vllm/vllm-openai", "args": ["--model=m"], **more}


def injected(before: Raw, settings: InjectionSettings = InjectionSettings()) -> Raw:  # noqa: B008  # immutable
    """The pod with the plugin, where nothing is known; a second pass changes nothing."""
    after = patched(before, admit(review(before), Knowledge(), settings))
    again = admit(review(after), Knowledge(), settings)
    assert "patch" not in again["response"]
    return after


def outcome_of(answer: Raw) -> str:
    """What became of the review, in one word."""
    return str(answer["response"]["auditAnnotations"]["outcome"])


def reason_of(answer: Raw) -> str:
    return str(answer["response"]["auditAnnotations"]["reason"])


def vector(container: Raw) -> list[str]:
    return [*(container.get("command") or ()), *(container.get("args") or ())]


def environment(container: Raw) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container.get("env") or ()}


WORKLOAD = WorkloadRef("apps", "Deployment", "llama")
NAMESPACE_ON = {"prod": AutomatedNamespaceSpec(vllm_optimize=True)}
