"""Ways to start vLLM as charts, runtimes and guides write them: vLLM's own, production-stack, llm-d, KServe, AIBrix,
LeaderWorkerSet, Triton, NIM, SkyPilot, GPUStack, and the tools that people put around them.
"""

from __future__ import annotations

from webhook_cases import API_SERVER, ENVIRONMENT, MODULE, UNTOUCHED, Form, visible

SHELL = ["/bin/sh", "-c"]
BASH = ["/bin/bash", "-c"]
SERVE = ["vllm", "serve"]
KV_TRANSFER = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'

VISIBLE: list[Form] = [
    visible(
        "a guide's 8B",
        [],
        None,
        ["--model", "org/Llama-3-8B", "--gpu-memory-utilization", "0.90", "--max-model-len", "8192"],
        image="vllm/vllm-openai:v0.8.5",
    ),
    visible("a guide's 70B", [], None, ["--model", "org/Llama-3-70B", "--tensor-parallel-size", "4"]),
    visible("KServe's vllm runtime", MODULE, MODULE, ["--port=8080", "--model", "org/Llama-3-8B"]),
    visible(
        "options from a ConfigMap",
        MODULE,
        MODULE,
        ["--model=$(MODEL_ID)", "--gpu-memory-utilization=$(UTILIZATION)", "--enable-prefix-caching"],
    ),
    visible(
        "production-stack",
        ["", ""],
        ["vllm", "serve", "org/model", "--host", "0.0.0.0", "--port", "8000", "--no-enable-prefix-caching"],
        image="lmcache/vllm-openai:v0.3",
    ),
    visible("llm-d's modelservice", ["", ""], SERVE, ["m", "--port", "8200", "--kv-transfer-config", KV_TRANSFER]),
    visible(
        "AIBrix", MODULE, [*MODULE, "--uvicorn-log-level", "warning", "--model", "m"], image="aibrix/vllm-openai:1"
    ),
    visible("the AI Lab's image", [], None, ["--model=m"], image="registry.example/rhaiis/vllm-cuda-rhel9:3.2"),
    visible("AWS's image", [], None, ["--model=m"], image="registry.example/deep-learning-containers/vllm:0.11-gpu"),
    visible("a release for ROCm", [], None, ["--model=m"], image="vllm/vllm-openai-rocm:v0.20.0"),
    visible("short options", ["", ""], [*SERVE, "m", "-tp", "4", "-pp=2"]),
    visible("an optimisation level", ["", ""], [*SERVE, "m", "-O3"]),
    visible("several adapters last", ["", ""], [*SERVE, "m", "--enable-lora", "--lora-modules", "a=/a", "b=/b"]),
    visible("json of media last", ["", ""], [*SERVE, "m", "--limit-mm-per-prompt", '{"image": 2}']),
    visible("media in dots", ["", ""], SERVE, ["m", "--limit-mm-per-prompt.image", "2"]),
    visible("tools", ["", ""], SERVE, ["m", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]),
    visible("several ranks of data", ["", ""], SERVE, ["m", "--data-parallel-size", "2", "--tensor-parallel-size=2"]),
    visible("one of several middlewares", ["", ""], SERVE, ["m", "--middleware", "a.b", "--middleware", "c.d"]),
    visible("a key of several", ["", ""], SERVE, ["m", "--api-key", "a", "b"]),
    visible("a block count of vLLM's own", ["", ""], SERVE, ["m", "--block-size=32", "--max-num-seqs", "64"]),
    visible("dumb-init", [""] * 5, ["/usr/bin/dumb-init", "--", "python3", "-m", API_SERVER, "--model=m"]),
    visible("catatonit", [""] * 4, ["catatonit", "--", *SERVE, "m"]),
    visible("nice", [""] * 5, ["nice", "-n", "10", *SERVE, "m"]),
    visible("stdbuf", [""] * 4, ["stdbuf", "-oL", *SERVE, "m"]),
    visible("a tracer", [""] * 3, ["ddtrace-run", *SERVE, "m"]),
    visible("a tracer with options", [""] * 5, ["opentelemetry-instrument", "--service_name", "x", *SERVE, "m"]),
    visible(
        "conda, the module",
        [""] * 8,
        ["conda", "run", "--no-capture-output", "-n", "e", "python", "-m", API_SERVER, "--model=m"],
    ),
    visible("uvx", [""] * 3, ["uvx", *SERVE, "m"]),
    visible("uv with vllm", [""] * 6, ["uv", "run", "--with", "vllm", *SERVE, "m"]),
    visible("env without a variable", [""] * 5, ["env", "-u", "LD_PRELOAD", *SERVE, "m"]),
    visible("python's warnings", [""] * 5, ["python3", "-W", "ignore", "-m", API_SERVER, "--model=m"]),
    visible("python, optimised", [""] * 4, ["python3", "-O", "-m", API_SERVER, "--model=m"]),
    visible(
        "a strict shell", [""] * 4, [*BASH, 'set -euo pipefail\nulimit -n 65536\nexec vllm serve "$@"\n', "x"], ["m"]
    ),
    visible(
        "limits, then all parameters", [""] * 6, ["sh", "-c", 'ulimit -l unlimited && exec "$@"', "x", *SERVE, "m"]
    ),
]

HIDDEN: list[Form] = [
    Form("vLLM's guide", SHELL, ["vllm serve m --trust-remote-code --max_num_batched_tokens 1024"], ENVIRONMENT),
    Form(
        "vLLM's guide for groups",
        ["sh", "-c", "bash /vllm-workspace/multi-node-serving.sh leader --ray_cluster_size=$(N); vllm serve m"],
        None,
        ENVIRONMENT,
    ),
    Form(
        "arithmetic in an option",
        BASH,
        ["START=$(( ${LWS_WORKER_INDEX:-0} * 8 ))\nexec vllm serve m --data-parallel-start-rank ${START} --headless"],
        ENVIRONMENT,
    ),
    Form("a trap", SHELL, ['trap "kill 0" TERM; vllm serve m & wait $!'], ENVIRONMENT),
    Form("waiting for another", SHELL, ["while ! nc -z redis 6379; do sleep 1; done; vllm serve m"], ENVIRONMENT),
    Form("downloaded first", SHELL, ["hf download m --local-dir /m && vllm serve /m"], ENVIRONMENT),
    Form("the program as $0", ["sh", "-c", 'exec "$0" "$@"', *SERVE, "m"], None, ENVIRONMENT),
    Form("a default in an expansion", SHELL, ['vllm serve "${MODEL:-org/model}" --port ${PORT:-8000}'], ENVIRONMENT),
    Form("KServe over several nodes", BASH, ["python3 -m huggingfaceserver --model_id=m --backend=vllm"], ENVIRONMENT),
    Form(
        "triton by path",
        ["/opt/tritonserver/bin/tritonserver"],
        ["--model-repository=/m"],
        ENVIRONMENT,
        "n/tritonserver:1-vllm-python-py3",
    ),
    Form(
        "triton under mpirun",
        ["mpirun", "-n", "1", "tritonserver"],
        None,
        ENVIRONMENT,
        "n/tritonserver:1-vllm-python-py3",
    ),
    Form("any model's NIM", None, None, ENVIRONMENT, "n/nim/nvidia/llm-nim:1", env=(("NIM_MODEL_NAME", "hf://m"),)),
    Form("a NIM by its script", ["/opt/nim/start_server.sh"], None, ENVIRONMENT, "n/nim/meta/llama3-8b-instruct:1"),
    Form("gpustack's worker", ["gpustack", "start"], ["--server-url", "http://s"], ENVIRONMENT, "gpustack/gpustack:v2"),
    Form("vLLM called from python", ["python3", "-c"], ["from vllm.entrypoints.openai import api_server"], ENVIRONMENT),
    Form("under time", SHELL, ["time vllm serve m"], ENVIRONMENT),
    Form("twice negated", SHELL, ["[ -f /m/ok ] || exit 1; cd /m && { vllm serve .; }"], ENVIRONMENT),
    Form("a subshell", SHELL, ["(cd /m && vllm serve .)"], ENVIRONMENT),
    Form("lmcache in front", SHELL, ["lmcache server --port 1 & vllm serve m"], ENVIRONMENT),
]

LEFT_ALONE: list[Form] = [
    Form(
        "SkyPilot's own pod",
        ["/bin/bash", "-c", "--"],
        ["sudo service ssh start; trap : TERM; sleep 31536000 & wait"],
        UNTOUCHED,
        "skypilot/skypilot-gpu:1",
    ),
    Form("the cache's server", ["lmcache_server"], ["0.0.0.0", "8080"], UNTOUCHED, "lmcache/vllm-openai:v0.3"),
    Form("mooncake's master", ["mooncake_master"], ["-port=50051"], UNTOUCHED, "lmcache/vllm-openai:v0.3"),
    Form("vllm's version", ["vllm", "--version"], None, UNTOUCHED),
    Form("a download", ["hf", "download", "m"], None, UNTOUCHED),
    Form("a download in a shell", SHELL, ["hf download m --local-dir /m && echo done"], UNTOUCHED),
    Form("a web server of python's", ["python3", "-m", "http.server"], ["8000"], UNTOUCHED),
    Form("a look at the GPU", ["nvidia-smi"], None, UNTOUCHED),
    Form("a list of packages", ["python3", "-m", "pip", "list"], None, UNTOUCHED),
    Form("ray's head without a GPU", BASH, ["ray start --head --num-gpus=0 --block"], UNTOUCHED, gpu=False),
    Form(
        "an evaluation", ["lm_eval", "--model", "local-completions"], ["--model_args", "base_url=http://v"], UNTOUCHED
    ),
    Form("a load generator", ["guidellm", "benchmark"], ["--target", "http://vllm:8000"], UNTOUCHED),
    Form(
        "a metrics exporter", ["python3", "/app/vllm_exporter.py"], None, UNTOUCHED, "corp/vllm-exporter:1", gpu=False
    ),
    Form(
        "a chat front end",
        None,
        None,
        UNTOUCHED,
        "open-webui/open-webui:1",
        env=(("OPENAI_API_BASE_URL", "http://vllm"),),
    ),
    Form("a test of the image", SHELL, ["python3 -c 'import torch' && vllm --help"], UNTOUCHED),
]

CHART_FORMS: list[Form] = [*VISIBLE, *HIDDEN, *LEFT_ALONE]
