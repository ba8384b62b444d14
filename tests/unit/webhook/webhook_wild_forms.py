"""Ways to start vLLM that were met in published charts and manifests, and others of their kinds."""

from __future__ import annotations

from webhook_cases import API_SERVER, ENVIRONMENT, FLAGS, FORMS, MODULE, UNTOUCHED, Form, visible
from webhook_chart_forms import CHART_FORMS

SHELL = ["sh", "-c"]
RAY = ["/bin/bash", "-c", "--"]
PLAIN = "python:3.12-slim"
ENGINE_VARIABLE = (("VLLM_CACHE_ROOT", "/gcs"),)

VISIBLE: list[Form] = [
    visible("grpc server", MODULE, ["python3", "-m", "vllm.entrypoints.grpc_server"], ["--model=m"]),
    visible("sagemaker's api server", MODULE, ["python3", "-m", "vllm.entrypoints.sagemaker.api_server", "--model=m"]),
    visible("batches", MODULE, ["python3", "-m", "vllm.entrypoints.openai.run_batch"], ["--model=m"]),
    visible("fastchat's worker", MODULE, ["python3", "-m", "fastchat.serve.vllm_worker"], ["--model=m"]),
    visible("dynamo, module in args", MODULE, ["python3"], ["-m", "dynamo.vllm", "--model=m"], image="r/runtime:1"),
    visible("dynamo, all in args", MODULE, None, ["python3", "-m", "dynamo.vllm", "--model=m"], image="r/runtime:1"),
    visible("huggingfaceserver's module", MODULE, ["python", "-m", "huggingfaceserver"], ["--model=m"], image="r/h:1"),
    visible(
        "huggingfaceserver's image", [], None, ["--model=m", "--dtype=auto"], image="kserve/huggingfaceserver:v0.15"
    ),
    visible("abbreviated utilization, =", ["", ""], ["vllm", "serve", "m"], ["--gpu-memory-util=0.9"]),
    visible("abbreviated sequences", MODULE, MODULE, ["--model=m", "--max-num-seq", "1024"]),
    visible("headless rank", ["", ""], ["vllm", "serve"], ["m", "--headless", "--data-parallel-start-rank=8"]),
    visible("omni", ["", ""], ["vllm", "serve"], ["m", "--uvicorn-log-level=warning"], image="vllm/vllm-omni:v0.20.0"),
    visible("template of another tool", ["", ""], ["vllm", "serve"], ["{{.Name}}", "--port=8080"], image="$(image)"),
    visible("image filled in later", MODULE, MODULE, ["--model=/gcs/$(MODEL_ID)"], image="replaced-by-kustomize"),
    visible("shared image, no gpu asked for", ["", ""], ["vllm", "serve", "m"], image="llm-d-cuda:1", gpu=False),
    visible("model by a literal variable", [], None, ["--model=$(MODEL_ID)"], env=(("MODEL_ID", "org/model"),)),
    visible("serve by a variable", ["", ""], ["vllm"], ["$(WHAT)", "org/model"], env=(("WHAT", "serve"),)),
    visible("tini in the image", ["", "", "", ""], None, ["tini", "--", "vllm", "serve", "m"], image="r/llm:1"),
    visible("NVIDIA's image", ["", ""], None, ["vllm", "serve", "m"], image="registry.example/nvidia/vllm:25.09-py3"),
    visible("conda run", [""] * 6, ["conda", "run", "-n", "vllm", "vllm", "serve", "m"]),
    visible("timeout", [""] * 4, ["timeout", "3600", "vllm", "serve", "m"]),
    visible("nsys", [""] * 4, ["nsys", "profile", "vllm", "serve", "m"]),
    visible("parameters, -ec", [""] * 4, ["bash", "-ec", 'vllm serve "$@"', "--"], ["m", "--port=1"]),
    visible("parameters in braces", [""] * 4, [*SHELL, 'vllm serve "${@}"', "--"], ["m"]),
    visible("parameters without quotes", [""] * 4, [*SHELL, "exec vllm serve $@", "x"], ["m"]),
    visible(
        "parameters, then the rank",
        [""] * 4,
        [*SHELL, 'RANK=3\nexec vllm serve "$@" --node-rank=${RANK}\n', "--"],
        ["m", "--headless"],
    ),
    visible("parameters into a log", [""] * 4, [*SHELL, 'vllm serve "$@" 2>&1 | tee /log', "sh"], ["m"]),
    visible("parameters, in the background", [""] * 4, [*SHELL, 'vllm serve "$@" & wait', "sh"], ["m"]),
    visible(
        "parameters behind ray",
        [""] * 4,
        [*SHELL, f'ray start --head; python3 -m {API_SERVER} "$@"', "--"],
        ["--model=m"],
    ),
    visible("parameters through eval", [""] * 4, ["bash", "-c", 'eval "vllm serve m $@"', "--"], ["--port=1"]),
    visible("shell in the command, -c in args", [""] * 4, ["/bin/bash"], ["-c", 'vllm serve "$@"', "sh", "m"]),
    visible("AMD's image", ["", ""], ["vllm", "serve"], ["m"], image="rocm/vllm:rocm6.4_vllm_0.11.0"),
    visible("TPU", MODULE, MODULE, ["--model=m"], image="vllm/vllm-tpu:nightly"),
    visible("vLLM's own CPU image", MODULE, MODULE, ["--model=m"], image="vllm/vllm-openai-cpu:v0.32.0", gpu=False),
]

# The front end in Rust refuses what it does not know; the engine's options stand behind a `--`.
BEHIND_SEPARATOR: list[Form] = [
    Form(
        "vllm-rs with engine options",
        ["vllm-rs", "serve", "m", "--port=1"],
        ["--", "--enforce-eager"],
        ["vllm-rs", "serve", "m", "--port=1", "--", "--enforce-eager", *FLAGS],
        vllm_from=5,
    ),
    Form(
        "vllm-rs without engine options",
        ["vllm-rs", "serve", "m"],
        ["--port=1"],
        ["vllm-rs", "serve", "m", "--port=1", "--", *FLAGS],
        vllm_from=5,
    ),
    Form(
        "vllm-rs, all in the command",
        ["vllm-rs", "serve", "m", "--grpc-port", "50051"],
        None,
        ["vllm-rs", "serve", "m", "--grpc-port", "50051", "--", *FLAGS],
        vllm_from=6,
    ),
]

HIDDEN: list[Form] = [
    Form("a value behind the parameters", [*SHELL, 'vllm serve "$@" $EXTRA', "--"], ["m"], ENVIRONMENT),
    Form("a size behind the parameters", [*SHELL, 'vllm serve "$@" --gpu-mem=0.9', "--"], ["m"], ENVIRONMENT),
    Form("eval of parameters with syntax", ["bash", "-c", 'eval "$@"', "--"], ["vllm serve m; true"], ENVIRONMENT),
    Form("some of the parameters", [*SHELL, 'vllm serve "${@:2}"', "--"], ["m"], ENVIRONMENT),
    Form("-c in args", ["/bin/sh"], ["-c", "vllm serve m"], ENVIRONMENT),
    Form(
        "-exc",
        ["/bin/bash", "-exc", "set -x\nvllm serve $M \\\n  --port 1\n#while true; do :; done"],
        None,
        ENVIRONMENT,
    ),
    Form("ends in a continuation", SHELL, ["vllm serve m \\\n--port 1 \\\n"], ENVIRONMENT),
    Form("ends in a semicolon", SHELL, ["vllm serve m --port 1;"], ENVIRONMENT),
    Form("ends in the background", SHELL, ["vllm serve m & wait\n"], ENVIRONMENT),
    Form("ends in a comment", SHELL, ["vllm serve m # --gpu-memory-utilization 0.5"], ENVIRONMENT),
    Form("in the middle of an if", SHELL, ["if [ $A = 0 ]; then vllm serve m; else sleep 1; fi"], ENVIRONMENT),
    Form("by rank", SHELL, ['if [ "$R" = 0 ]; then vllm serve m; else vllm serve m --headless; fi'], ENVIRONMENT),
    Form("in a case", SHELL, ["case $R in 0) vllm serve m;; *) ray start --block;; esac"], ENVIRONMENT),
    Form("in a loop", SHELL, ["while true; do vllm serve m; sleep 5; done"], ENVIRONMENT),
    Form("in a function", SHELL, ["run() { vllm serve m; }\nrun"], ENVIRONMENT),
    Form("flags from a file", SHELL, ["vllm serve m $(cat /config/flags)"], ENVIRONMENT),
    Form("json over several lines", SHELL, ['vllm serve m --kv-transfer-config \'{\n"a": "b"\n}\'\n'], ENVIRONMENT),
    Form("by which", SHELL, ["exec $(which vllm) serve m"], ENVIRONMENT),
    Form("activated first", SHELL, [". /opt/venv/bin/activate && vllm serve m"], ENVIRONMENT),
    Form("KServe's tail", ["/bin/bash", "-c"], ['eval "vllm serve /m ${VLLM_ADDITIONAL_ARGS} --port 1"'], ENVIRONMENT),
    Form("command in a variable", SHELL, ["$RUN"], ENVIRONMENT, PLAIN, env=(("RUN", "vllm serve m"),)),
    Form("command in a variable, eval", SHELL, ['eval "$RUN"'], ENVIRONMENT, PLAIN, env=(("RUN", "vllm serve m"),)),
    Form("command by reference", SHELL, ["$(RUN)"], ENVIRONMENT, PLAIN, env=(("RUN", "exec vllm serve m"),)),
    Form("command in a shell's variable", SHELL, ['RUN="vllm serve m"\nexec $RUN --port 1'], ENVIRONMENT, PLAIN),
    Form("installed at run time", SHELL, ["pip install vllm==0.11 && vllm serve m"], ENVIRONMENT, PLAIN),
    Form("installed, then a program", SHELL, ["uv pip install 'vllm>=0.9'\npython3 app.py"], ENVIRONMENT, PLAIN),
    Form("installed, then ray", SHELL, ["pip install vllm; ray start --block"], ENVIRONMENT, PLAIN),
    Form("a program in the script", SHELL, ["python3 - <<'E'\nfrom vllm import LLM\nLLM('m')\nE"], ENVIRONMENT, PLAIN),
    Form("ray's worker in LWS", SHELL, ["bash /vllm-workspace/multi-node-serving.sh worker"], ENVIRONMENT),
    Form(
        "ray's worker, variable", ["/bin/bash", "-lc", "--"], ["ulimit -n 1; $KUBERAY_GEN_RAY_START_CMD"], ENVIRONMENT
    ),
    Form("ray's worker, KubeRay", RAY, ["ulimit -n 1; ray start --block"], ENVIRONMENT, "r/ray-2.41-vllm0.7.0:latest"),
    Form("kaito", [*SHELL, "python3 /workspace/vllm/inference_api.py --a"], None, ENVIRONMENT, "aks/kaito-base:1"),
    Form(
        "a script, vllm's variables",
        ["/bin/bash", "-c"],
        ["/mnt/tune.sh"],
        ENVIRONMENT,
        "filled-in-later",
        env=ENGINE_VARIABLE,
    ),
    Form("xinference", ["xinference-worker"], ["-e", "http://s:9997"], ENVIRONMENT, "xprobe/xinference:v0.14.0"),
    Form("xinference's image", None, None, ENVIRONMENT, "xprobe/xinference:v1.5"),
    Form("gpustack", None, ["--server-url=http://s"], ENVIRONMENT, "gpustack/gpustack:v0.7"),
    Form("djl", None, None, ENVIRONMENT, "deepjavalibrary/djl-serving:0.33.0-lmi"),
    Form("a backend by variable", None, None, ENVIRONMENT, "corp/llm:1", env=(("OPTION_ROLLING_BATCH", "vllm"),)),
    Form("somebody's module", ["python3", "-m", "corp.vllm_server"], ["--port=1"], ENVIRONMENT, "corp/llm:1"),
    Form("the image's command, engine's variable", None, None, ENVIRONMENT, "corp/llm:1", env=(("VLLM_USE_V1", "1"),)),
    Form(
        "triton in a shell",
        SHELL,
        ["tritonserver --model-store=/m"],
        ENVIRONMENT,
        "n/tritonserver:25.01-vllm-python-py3",
    ),
    Form("unknown entrypoint, engine's options", None, ["--max-model-len=8"], ENVIRONMENT, "corp/llm:1"),
]

HIDDEN += [
    Form("trl's server", ["trl", "vllm-serve"], ["--model=m"], ENVIRONMENT, "corp/trl:1"),
    Form("dynamo-run", ["dynamo-run"], ["in=http", "out=vllm", "m"], ENVIRONMENT, "n/vllm-runtime:0.3.0"),
    Form("a script in AMD's image", ["bash", "/scripts/serve.sh"], None, ENVIRONMENT, "rocm/vllm:latest"),
    Form("ray's worker, llm-d", [*SHELL, "ray start --block"], None, ENVIRONMENT, "g/llm-d-cuda:v0.9.0"),
]

LEFT_ALONE: list[Form] = [
    Form(
        "another engine by its variables",
        ["bash", "/scripts/serve.sh"],
        None,
        UNTOUCHED,
        "rocm/vllm:latest",
        env=(("OLLAMA_KEEP_ALIVE", "-1"),),
    ),
    Form("a tool's options for the server's image", None, ["--print=x"], UNTOUCHED, gpu=False),
    Form("a stack that talks to vllm", None, ["--env", "VLLM_URL=x"], UNTOUCHED, "l/distribution-remote-vllm:1"),
    Form("vllm launch render in a shell", ["/bin/bash", "-c"], ["exec vllm launch render /m \\\n --port=1"], UNTOUCHED),
    Form("vllm chat", ["vllm", "chat"], ["--url=http://x"], UNTOUCHED),
    Form("a tail that holds the pod", SHELL, ["tail -f /dev/null"], UNTOUCHED),
    Form("a notebook", ["jupyter", "lab"], None, UNTOUCHED),
    Form("a benchmark script", ["python3", "/b/benchmark_serving.py"], ["--model=m"], UNTOUCHED),
    Form("a training script", ["torchrun", "--nproc-per-node=8", "train_grpo.py"], None, UNTOUCHED),
    Form(
        "waiting, then a client",
        SHELL,
        ["until curl -s http://v:8000/health; do sleep 1; done; python3 client.py"],
        UNTOUCHED,
    ),
    Form("an activated environment alone", SHELL, ["source /opt/venv/bin/activate; sleep infinity"], UNTOUCHED),
    Form("a command for later", ["/requester"], None, UNTOUCHED, "r/requester:1", env=(("CMD", "vllm serve m"),)),
    Form("a planner", ["python3", "-m", "planner_sla"], ["--backend=vllm"], UNTOUCHED, "n/vllm-runtime:0.8.0"),
    Form("dynamo's front end", ["python3", "-m", "dynamo.frontend"], None, UNTOUCHED, "n/vllm-runtime:0.8.0"),
    Form("dynamo's sidecar", ["dynamo-vllm-sidecar"], ["--grpc-endpoint=x"], UNTOUCHED, "n/vllm-runtime:1"),
    Form("the stack's router", ["vllm-router"], ["--port=1"], UNTOUCHED, "lmcache/lmstack-router:latest", gpu=False),
    Form("the router's module", ["python3", "-m", "vllm_router.app"], ["--port=1"], UNTOUCHED, "corp/thing:1"),
    Form("an endpoint picker", None, ["-poolName", "vllm-llama3"], UNTOUCHED, "lmcache/gateway:latest", gpu=False),
    Form("a routing sidecar", None, ["--vllm-port=8200"], UNTOUCHED, "g/llm-d-routing-sidecar:1", gpu=False),
    Form("a simulator", None, ["--model=m", "--port=1"], UNTOUCHED, "g/llm-d-inference-sim:1", gpu=False),
    Form(
        "huggingfaceserver without vllm",
        None,
        ["--model_name=x", "--backend=huggingface"],
        UNTOUCHED,
        "k/huggingfaceserver:1",
    ),
    Form("training with vllm inside", RAY, ["ulimit -n 1; ray start --block"], UNTOUCHED, "verlai/verl:vllm011.latest"),
    Form("ray without vllm", RAY, ["ray start --block"], UNTOUCHED, "rayproject/ray:2.56.0-gpu"),
    Form("sglang with options alike", None, ["--enable-prefix-caching"], UNTOUCHED, "lmsysorg/sglang:1"),
    Form("lorax", None, ["--model-id=m", "--compile"], UNTOUCHED, "registry.example/predibase/lorax:latest"),
    Form("an embedding NIM", None, None, UNTOUCHED, "registry.example/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1"),
    Form(
        "a checkout and a microbenchmark",
        SHELL,
        ["git clone https://g/vllm.git\npip install x\npython benchmarking/b.py"],
        UNTOUCHED,
    ),
    Form("a client's variable", None, None, UNTOUCHED, "corp/app:1", env=(("VLLM_URL", "http://x"),)),
    Form("sleep in a vendor's image", ["sleep", "infinity"], None, UNTOUCHED, "harbor/vllm_vacc:VVI"),
]

ALL_FORMS: list[Form] = [*FORMS, *VISIBLE, *BEHIND_SEPARATOR, *HIDDEN, *LEFT_ALONE, *CHART_FORMS]
