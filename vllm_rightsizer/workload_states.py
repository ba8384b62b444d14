"""How a workload stands, in a few words that need no knowledge of our conditions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recommender.api.objects import Condition
from recommender.api.recommendations import (
    APPLIED,
    AUTOSCALER_CONFLICT,
    DEGRADED,
    PLUGIN_REPORTING,
    RECOMMENDED,
    VERIFIED,
    VLLMRecommendation,
)
from recommender.conditions import ESTIMATED, PLUGIN_MISSING, SHORT
from recommender.samples import ASLEEP, KVCACHED, NO_KV_CACHE

Mood = Literal["good", "waiting", "bad", "off"]
"""`waiting` passes by itself or when the user acts; `bad` wants to be looked at; `off` is as somebody chose."""


@dataclass(frozen=True)
class State:
    """`words` for people; `reason` is that of the condition which decided, `message` its sentence."""

    words: str
    mood: Mood
    reason: str = ""
    message: str = ""


_WITHOUT_DATA: dict[str, tuple[str, Mood]] = {
    "NoPods": ("no pods", "waiting"),
    "PodsNotRunning": ("pods not running", "waiting"),
    "ScrapeFailed": ("pods say nothing", "bad"),
    PLUGIN_MISSING: ("no plugin in the pods", "bad"),
    ESTIMATED: ("only estimated", "waiting"),
}
"""By the reason for which no pod reports."""
_WITHOUT_SIZE: dict[str, tuple[str, Mood]] = {
    "PolicyNotFound": ("policy missing", "bad"),
    "PolicyInvalid": ("policy invalid", "bad"),
    "InsufficientData": ("still measuring", "waiting"),
    ESTIMATED: ("only estimated", "waiting"),
    ASLEEP: ("asleep", "waiting"),
    KVCACHED: ("sized by kvcached", "off"),
    NO_KV_CACHE: ("no KV cache", "off"),
}
"""By the reason for which nothing is recommended."""
_NOT_APPLIED: dict[str, tuple[str, Mood]] = {
    "AutomationOff": ("automation off", "off"),
    "DryRun": ("dry run", "off"),
    "AwaitingNewPods": ("waits for new pods", "waiting"),
    "OverrideRefused": ("could not be set", "bad"),
    "NoPodReports": ("no pod reports", "waiting"),
}
"""By the reason for which pods run with another size."""
_APPLIED: dict[str, tuple[str, Mood]] = {
    "RaisedToStart": ("applied, raised to start", "waiting"),
    "EarlierRecommendation": ("applied, an earlier size", "good"),
}
"""By the reason for which a size that is not the recommended one counts as applied."""


def state_of(recommendation: VLLMRecommendation) -> State:
    """What the user would ask first: is it switched off, has it failed, is there data, a size, and do pods have it?"""
    if recommendation.spec.paused:
        return State("paused", "off", "Paused", "spec.paused is true: pods start as their author wrote them")
    degraded = recommendation.condition(DEGRADED)
    if degraded is not None and degraded.status == "True":
        return _state("withdrawn", "bad", degraded)
    recommended = recommendation.condition(RECOMMENDED)
    if recommended is None:
        return State("not looked at yet", "waiting", "", "the recommender wrote no conditions yet")
    reporting = recommendation.condition(PLUGIN_REPORTING)
    if reporting is not None and reporting.status == "False":
        words, mood = _WITHOUT_DATA.get(reporting.reason, (_plain(reporting.reason), "bad"))
        return _state(words, mood, reporting)
    if recommended.status != "True":
        words, mood = _WITHOUT_SIZE.get(recommended.reason, (_plain(recommended.reason), "bad"))
        return _state(words, mood, recommended)
    return _with_warnings(_application(recommendation, recommended), recommendation, recommended)


def _application(recommendation: VLLMRecommendation, recommended: Condition) -> State:
    applied = recommendation.condition(APPLIED)
    if applied is None:
        return _state("recommended", "waiting", recommended)
    if applied.status != "True":
        words, mood = _NOT_APPLIED.get(applied.reason, (_plain(applied.reason), "waiting"))
        return _state(words, mood, applied)
    if applied.reason in _APPLIED:
        return _state(*_APPLIED[applied.reason], applied)
    verified = recommendation.condition(VERIFIED)
    if verified is not None and verified.status == "True":
        return _state("applied, verified", "good", verified)
    return _state("applied", "good", applied)


def _with_warnings(state: State, recommendation: VLLMRecommendation, recommended: Condition) -> State:
    """What holds beside it and must not be overlooked; where there is a warning, its sentence is the one to read."""
    if recommended.reason == SHORT:
        return _state(f"{state.words}, short of KV cache", "bad", recommended)
    conflict = recommendation.condition(AUTOSCALER_CONFLICT)
    if conflict is not None and conflict.status == "True":
        return _state(f"{state.words}, misleads autoscaler", "bad", conflict)
    if recommended.reason == "LastValidPolicy":
        return _state(f"{state.words}, policy invalid", "bad", recommended)
    return state


def _state(words: str, mood: Mood, condition: Condition) -> State:
    return State(words, mood, condition.reason, condition.message)


def _plain(reason: str) -> str:
    """A reason that a newer recommender knows: `SomeReason` as `some reason`."""
    return "".join(f" {char.lower()}" if char.isupper() else char for char in reason).strip() or "unknown"
