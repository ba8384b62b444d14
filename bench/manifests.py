"""Published manifests against what should become of them: `python -m bench.manifests DIR --json`.

DIR holds YAML files and an `index.json`: a list with `file`, `expected` and `vllm_container` for each. `expected` is
how vLLM's sizes can be reached: `args` (an argument list that its parser sees), `shell` (a command line inside a shell
string), `env` (made elsewhere), `none` (to be left alone). Both `shell` and `env` are met by the override in process.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonpatch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench.parsing import Parsed, SizesParser
from bench.pods import FoundPod, Raw, pods_of
from recommender.api.fingerprints import fingerprint
from recommender.api.sizing_flags import KV_CACHE_MEMORY_BYTES
from recommender.api.workloads import workload_of
from vllm_plugin.names import ANNOTATION_AUTO, ENV_GPU_MEMORY_UTILIZATION, ENV_KV_BYTES
from webhook.admission import decide_pod
from webhook.detection import Engine, detect
from webhook.knowledge import Knowledge, Recommended
from webhook.launches import Form, launch_of
from webhook.settings import InjectionSettings
from webhook.shells import read_script

KV_BYTES = 4_294_967_296
UTILIZATION = "0.4321"
_NEWEST = "0.32.0"
_VERSION_IN_TAG = re.compile(r"vllm(?:-(?:openai|omni|cpu|tpu|rocm|neuronx))*:.*?(?<![\d.])v?(0\.\d+\.\d+)")
_V0_OPTIONS = ("--engine-use-ray", "--num-scheduler-steps", "--use-v2-block-manager", "--worker-use-ray")
_V0_RELEASE = "0.8.5"
"""What a `latest` with options of the first engine really is; the webhook is told the release by the plugin."""
_OVERRIDES = (ENV_KV_BYTES, ENV_GPU_MEMORY_UTILIZATION)


@dataclass(frozen=True)
class Reached:
    """What became of one container."""

    place: str
    container: str
    got: str
    reason: str
    values: Raw | None = None
    as_wanted: bool = True
    """The values are those that were written; so too where no parser is at hand."""
    complaint: str | None = None


def judge(folder: Path, entry: Raw, parser: SizesParser | None) -> Raw:
    """The line for one file of the index."""
    try:
        reached = list(_reached(folder / str(entry["file"]), parser))
    except (OSError, YAMLError) as error:
        reached = [Reached("", "", "none", f"the file cannot be read: {error}")]
    expected = str(entry["expected"])
    asked = [item for item in reached if item.container == entry.get("vllm_container")] or reached
    # Containers of one name stand in several pods (an engine and its router, say): one of them is meant.
    chosen = next((item for item in asked if item.got != "none"), asked[0] if asked else None)
    if chosen is None:
        chosen = Reached("", "", "none", "no pod comes of it")
    if expected == "none":
        chosen = next((item for item in reached if item.got != "none"), chosen)
    return {
        "file": entry["file"],
        "expected": expected,
        "got": chosen.got,
        "ok": _meets(chosen, expected),
        "container": chosen.container,
        "reason": chosen.reason,
        "values": chosen.values,
        "complaint": chosen.complaint,
        "confidence": entry.get("confidence"),
        "others": [asdict(item) for item in reached if item != chosen and item.got != "none"],
    }


def _meets(item: Reached, expected: str) -> bool:
    if expected == "none":
        return item.got == "none"
    if expected == "args":
        return item.got == "args" and item.as_wanted
    return item.got in ("env", "shell")


def _reached(path: Path, parser: SizesParser | None) -> Iterator[Reached]:
    yaml = YAML(typ="safe", pure=True)
    # Helm charts in the wild render keys twice; the API server takes the last.
    yaml.allow_duplicate_keys = True
    with path.open() as stream:
        documents = list(yaml.load_all(stream))
    for found in pods_of(documents):
        yield from _in_pod(found, parser)


def _in_pod(found: FoundPod, parser: SizesParser | None) -> Iterator[Reached]:
    """What the webhook makes of a pod whose workload is automated, on a cluster with one kind of GPU."""
    pod = found.pod
    pod["metadata"].setdefault("annotations", {})[ANNOTATION_AUTO] = "true"
    pod["spec"].setdefault("nodeSelector", {})["nvidia.com/gpu.product"] = "bench"
    detection = detect(pod)
    workload = workload_of(pod)
    knowledge = Knowledge({("bench", workload, engine.name): _recommended(pod, engine) for engine in detection.engines})
    outcome = decide_pod(pod, "bench", knowledge, InjectionSettings())
    changed: Raw = jsonpatch.apply_patch(pod, list(outcome.patch))
    engines = {engine.path[1:]: engine for engine in detect(changed).engines}
    for kind in ("initContainers", "containers"):
        for at, container in enumerate(pod["spec"].get(kind) or ()):
            name = str(container.get("name"))
            engine = engines.get((kind, at))
            if engine is None:
                yield Reached(found.place, name, "none", detection.reason or "it is no vLLM engine")
            else:
                yield _reached_engine(found.place, container, engine, outcome.message, parser)


def _reached_engine(place: str, before: Raw, engine: Engine, message: str, parser: SizesParser | None) -> Reached:
    after = engine.container
    environment = {str(item.get("name")): item.get("value") for item in after.get("env") or ()}
    if (after.get("command"), after.get("args")) != (before.get("command"), before.get("args")):
        parsed = _parsed(engine, environment, parser)
        if parsed is None:
            return Reached(place, engine.name, "args", message)
        values = _values(parsed.gpu_memory_utilization, parsed.kv_cache_memory_bytes)
        has_bytes = any(token.startswith(KV_CACHE_MEMORY_BYTES) for token in engine.arguments.vector)
        as_wanted = values == _values(float(UTILIZATION), KV_BYTES if has_bytes else None)
        return Reached(place, engine.name, "args", message, values, as_wanted, parsed.complaint)
    if any(name in environment for name in _OVERRIDES):
        utilization, kv_bytes = environment.get(ENV_GPU_MEMORY_UTILIZATION), environment.get(ENV_KV_BYTES)
        values = _values(float(utilization) if utilization else None, int(kv_bytes) if kv_bytes else None)
        return Reached(place, engine.name, "shell" if _in_shell_string(engine) else "env", message, values)
    return Reached(place, engine.name, "none", message)


def _parsed(engine: Engine, environment: Raw, parser: SizesParser | None) -> Parsed | None:
    if parser is None:
        return None
    tokens = engine.arguments.vector[engine.launch.start :]
    if engine.launch.behind_separator:
        tokens = tokens[tokens.index("--") + 1 :]
    return parser.parse(tokens, environment)


def _values(utilization: float | None, kv_bytes: int | None) -> Raw:
    return {"gpu_memory_utilization": utilization, "kv_cache_memory_bytes": kv_bytes}


def _in_shell_string(engine: Engine) -> bool:
    """vLLM's command line, with its options, stands in a string that a shell reads."""
    lines = [words for item in engine.arguments.vector if " " in item for words in read_script(item).commands]
    return any(
        launch_of(words).form is Form.ARGUMENTS
        or (launch_of(words).form is Form.HIDDEN and any(word.startswith("--") for word in words))
        for words in lines
    )


def _recommended(pod: Raw, engine: Engine) -> Recommended:
    stated = _VERSION_IN_TAG.search(str(engine.container.get("image") or "").rpartition("/")[2])
    is_v0 = any(token in _V0_OPTIONS for token in engine.arguments.vector)
    return Recommended(
        name="bench",
        fingerprint=fingerprint(pod, engine.name),
        paused=False,
        degraded=None,
        has_target=True,
        kv_bytes=KV_BYTES,
        utilization=UTILIZATION,
        allocation_bytes=0,
        one_gpu_size=True,
        vllm_version=stated[1] if stated else (_V0_RELEASE if is_v0 else _NEWEST),
    )


def run(folder: Path) -> list[Raw]:
    """A line for each file of the index, and the summary last."""
    index = json.loads((folder / "index.json").read_text())
    try:
        parser: SizesParser | None = SizesParser()
    except ImportError:
        # Without vLLM the ways are judged, not the values.
        parser = None
    lines = [judge(folder, entry, parser) for entry in index]
    good = sum(line["ok"] for line in lines)
    summary: dict[str, Any] = {
        "name": "manifests_as_expected",
        "value": good,
        "unit": "files",
        "target": len(lines),
        "ok": good == len(lines),
        "n": len(lines),
        "values_parsed": parser is not None,
    }
    return [*lines, summary]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.manifests", description=__doc__)
    parser.add_argument("folder", type=Path, help="YAML files and their index.json")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if not (options.folder / "index.json").is_file():
        parser.error(f"{options.folder} has no index.json: name a folder of manifests with one")
    *lines, summary = run(options.folder)
    for line in lines:
        text = (
            f"{'ok  ' if line['ok'] else 'MISS'} {line['expected']:5} {line['got']:5} {line['file']}: {line['reason']}"
        )
        print(json.dumps(line) if options.json else text)
    print(json.dumps(summary) if options.json else f"{summary['value']} of {summary['n']} as expected")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
