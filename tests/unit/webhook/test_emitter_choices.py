"""Which emitter writes, what becomes of its record, and what it leaves where nothing is recommended any more."""

from __future__ import annotations

import dataclasses
import json

import pytest
from emitted_pods import (
    ALLOCATION,
    CARD,
    KAI,
    MAIN,
    MIB,
    NAME,
    SECOND,
    SETTINGS,
    a_pod,
    declined,
    knowing_size,
)
from webhook_cases import KV_BYTES, WORKLOAD, knowing, patched, review, vector

from recommender.api.claims import claim_template_name
from recommender.api.fingerprints import fingerprint
from recommender.api.owners import Owner
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.rounding import GIBIBYTE, MEBIBYTE
from recommender.api.savings import SavingsSplit, split_savings
from recommender.api.sharing import EMITTERS, Emitted, as_written, emitted_of
from vllm_plugin.names import (
    ANNOTATION_AUTO,
    ANNOTATION_EMITTED,
    ANNOTATION_EMITTER,
    ANNOTATION_SKIPPED,
)
from webhook.admission import admit


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"cluster": "hami"}, "nvidia.com/gpumem"),
        ({"cluster": "hami", "workload": "gpushare"}, "aliyun.com/gpu-mem"),
        ({"cluster": "hami", "workload": "gpushare", "pod": "volcano"}, "volcano.sh/vgpu-memory"),
        ({"cluster": "hami", "pod": "none"}, "nvidia.com/gpu"),
        ({"pod": "hami"}, "nvidia.com/gpumem"),
    ],
)
def test_who_chooses_the_emitter(levels: dict[str, str], words: str) -> None:
    annotations = {ANNOTATION_EMITTER: levels["pod"]} if "pod" in levels else {}
    before = a_pod(annotations=annotations)
    known = knowing_size(before, levels.get("cluster", "none"))
    if "workload" in levels:
        key = ("prod", WORKLOAD)
        known = dataclasses.replace(known, owners={key: Owner({ANNOTATION_EMITTER: levels["workload"]}, ())})
    after = patched(before, admit(review(before), known, SETTINGS))
    limits = after["spec"]["containers"][0]["resources"]["limits"]
    assert words in limits
    assert len(limits) == 2 or words != "nvidia.com/gpumem"


def test_an_emitter_that_nobody_knows() -> None:
    before = a_pod(annotations={ANNOTATION_EMITTER: "hammi"})
    answer = admit(review(before), knowing_size(before, "none"), SETTINGS)
    after = patched(before, answer)
    assert "there is no emitter 'hammi'" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert "hammi" in " ".join(answer["response"]["warnings"])


def test_not_all_engines_sized() -> None:
    before = a_pod({**MAIN, "name": "second"})
    declined(before, "hami", "not all of the pod's engines")


def test_two_engines_have_each_their_share() -> None:
    before = a_pod(SECOND)
    known = knowing_size(before, "hami")
    [recommended] = known.recommendations.values()
    other = dataclasses.replace(recommended, fingerprint=fingerprint(before, "second"), allocation_bytes=GIBIBYTE)
    known = dataclasses.replace(known, recommendations={**known.recommendations, ("prod", WORKLOAD, "second"): other})
    after = patched(before, admit(review(before), known, SETTINGS))
    first, second = after["spec"]["containers"]
    assert first["resources"]["limits"]["nvidia.com/gpumem"] == MIB
    assert second["resources"]["limits"]["nvidia.com/gpumem"] == "2048"
    assert emitted_of(after).request_bytes == int(MIB) * MEBIBYTE  # type: ignore[union-attr]
    kai = {**known.__dict__, "cluster": ClusterAutomationSpec(vllm_optimize=True, emitter="gpushare")}
    after = patched(before, admit(review(before), type(known)(**kai), SETTINGS))
    assert "one container of a pod" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]


@pytest.mark.parametrize("first", EMITTERS)
@pytest.mark.parametrize("second", EMITTERS)
def test_a_second_pass_in_other_words_undoes_the_first(first: str, second: str) -> None:
    before = a_pod(**KAI)
    template = claim_template_name(NAME, int(MIB) * MEBIBYTE, 1)
    one, two = (knowing_size(before, emitter, claim_template=template) for emitter in (first, second))
    once = patched(before, admit(review(before), one, SETTINGS))
    twice = patched(once, admit(review(once), two, SETTINGS))
    straight = patched(before, admit(review(before), two, SETTINGS))
    for result in (twice, straight):
        # Removing the last claim leaves an empty place where none was.
        result["metadata"]["annotations"].pop("vllm-rightsizer.io/original-args", None)
        result["spec"]["containers"][0]["env"].sort(key=lambda entry: entry["name"])
        text = result["metadata"]["annotations"].pop(ANNOTATION_EMITTED, "{}")
        result["edits"] = sorted(map(json.dumps, json.loads(text).get("edits", ())))
    assert twice == straight


def test_back_to_whole_gpus_where_nothing_is_recommended_any_more() -> None:
    before = a_pod()
    once = patched(before, admit(review(before), knowing_size(before, "volcano"), SETTINGS))
    back = patched(once, admit(review(once), knowing_size(before, "volcano", paused=True), SETTINGS))
    assert back["spec"]["containers"][0]["resources"] == MAIN["resources"]
    assert not back["spec"].get("schedulerName")
    assert ANNOTATION_EMITTED not in back["metadata"]["annotations"]
    assert vector(back["spec"]["containers"][0]) == ["--model=m"]


def test_what_others_changed_since_stays() -> None:
    before = a_pod()
    once = patched(before, admit(review(before), knowing_size(before, "hami"), SETTINGS))
    once["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] = "1"
    assert as_written(once)["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] == "1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"emitter": "hami"}',
        '{"emitter": "none", "bytes": true, "edits": []}',
        '{"emitter": "x", "bytes": 1, "edits": []}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["image"], "a", "b"]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [[null, ["spec", "hostPID"], null, true]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [[null]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources"], null, 7]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources", "limits", "cpu"], null, "1"]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources", "limits", "nvidia.com/gpu"], null, "x"]]}',
        '{"emitter": "kai", "bytes": 1, "edits": [[null, ["metadata", "annotations"], null, {"a": 1}]]}',
        '{"emitter": "kai", "bytes": 1, "edits": [[null, ["metadata", "annotations", "gpu-memory"], null, 7]]}',
        '{"emitter": "volcano", "bytes": 1, "edits": [[null, ["spec", "schedulerName"], null, {}]]}',
        '{"emitter": "dra", "bytes": 1, "edits": [[null, ["spec", "resourceClaims"], null, [{"name": 1}]]]}',
        '{"emitter": "dra", "bytes": 1, "edits": [["main", ["resources", "claims"], null, ["gpu"]]]}',
        "[" * 20_000,
    ],
)
def test_a_record_that_we_would_not_write_is_none(text: str) -> None:
    before = a_pod(annotations={ANNOTATION_EMITTED: text, ANNOTATION_AUTO: "true"})
    assert emitted_of(before) is None
    assert as_written(before) is before


def test_no_share_where_it_could_not_be_noted() -> None:
    before = a_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1"}}})
    before["spec"]["containers"][0]["name"] = "m" * 9000
    known = knowing(before, "m" * 9000, allocation_bytes=ALLOCATION, largest_gpu_bytes=CARD)
    known = dataclasses.replace(known, cluster=ClusterAutomationSpec(vllm_optimize=True, emitter="hami"))
    after = patched(before, admit(review(before), known, SETTINGS))
    assert "would be too long" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]


def test_dry_run_shows_the_share() -> None:
    before = a_pod()
    known = dataclasses.replace(
        knowing_size(before, "hami"), cluster=ClusterAutomationSpec(vllm_optimize=True, emitter="hami", mode="DryRun")
    )
    answer = admit(review(before), known, SETTINGS)
    after = patched(before, answer)
    assert after["spec"]["containers"][0]["resources"] == MAIN["resources"]
    assert f"+ nvidia.com/gpumem: {MIB}" in answer["response"]["warnings"][0]


@pytest.mark.parametrize(
    ("saved", "request_", "split"),
    [
        (52, None, (0, 52)),
        (52, 21, (52, 0)),
        (52, 40, (40, 12)),
        (52, 90, (0, 52)),
        (0, 21, (0, 0)),
        (-5, 21, (0, -5)),
    ],
)
def test_bankable_and_potential(saved: int, request_: int | None, split: tuple[int, int]) -> None:
    emitted = None if request_ is None else Emitted("hami", request_, ())
    assert split_savings(saved, 80, emitted) == SavingsSplit(*split)


def test_the_users_own_bytes_still_hold() -> None:
    before = a_pod(main={"args": ["--model=m", "--kv-cache-memory-bytes=1G"]})
    after = patched(before, admit(review(before), knowing_size(before, "hami"), SETTINGS))
    assert "nvidia.com/gpumem" not in after["spec"]["containers"][0]["resources"]["limits"]
    assert str(KV_BYTES) not in str(after["spec"])
