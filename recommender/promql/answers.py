"""Answers of the PromQL API, read while they come: one series at a time is held as text. Pure.

A fleet's answer is tens of megabytes of JSON, and ten times that as objects.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recommender.promql.native import NotOurHistogramError, cumulative_of

Value = float | tuple[int, ...] | NotOurHistogramError
"""A number, or a native histogram's cumulative counts in our buckets; or why it has none: one pod's is not the others'
trouble."""

_RESULT = '"result":'
_OF_THE_QUERY = "PromQL "
"""So begin what Prometheus remarks on an expression; other warnings say that data is missing."""
_LONGEST_HEAD = 4096
"""Characters before the first series: some words."""
_DECODER = json.JSONDecoder()


class AnswerError(ValueError):
    """An answer that cannot be believed; the message says what is wrong with it."""


@dataclass(frozen=True)
class PromSeries:
    """Labels of a series and its samples: seconds since the epoch, and value. An instant vector has one each."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, Value]]


class AnswerReader:
    """Takes the body in pieces; `feed` and `finish` give the series that have become whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._head: str | None = None
        self._done = False
        self.warnings: tuple[str, ...] = ()
        """Why the answer may be a part of what there is; known after `finish`."""

    def feed(self, piece: bytes) -> list[PromSeries]:
        """Raises `AnswerError`."""
        try:
            self._text += self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise AnswerError(f"the answer is no text: {error}") from error
        if self._head is None and not self._found_result():
            return []
        return [] if self._done else self._series()

    def finish(self) -> None:
        """Look at what stands around the series. Raises `AnswerError` where the answer is no success, or not whole."""
        if self._head is not None and not self._done:
            raise AnswerError("the answer ends in the middle")
        try:
            around = json.loads((self._head or "") + self._text)
        except ValueError as error:
            raise AnswerError(f"the answer is no JSON: {error}: is this a PromQL API?") from error
        if not isinstance(around, dict) or around.get("status") != "success":
            said = around.get("error") if isinstance(around, dict) else None
            raise AnswerError(f"the query was refused: {said or str(around)[:200]}")
        if self._head is None or not self._done:
            raise AnswerError("the answer has no result: is this a PromQL API?")
        said = [str(warning) for warning in around.get("warnings") or ()]
        warnings = [one for one in said if not one.startswith(_OF_THE_QUERY)]
        if around.get("isPartial"):
            # VictoriaMetrics' word for it.
            warnings.append("the answer is partial")
        self.warnings = tuple(warnings)

    def _found_result(self) -> bool:
        place = self._text.find(_RESULT)
        begin = self._text.find("[", place + len(_RESULT)) if place >= 0 else -1
        if begin < 0:
            # Without a result it is a short complaint.
            if len(self._text) > _LONGEST_HEAD:
                raise AnswerError("the answer has no result: is this a PromQL API?")
            return False
        if self._text[place + len(_RESULT) : begin].strip():
            raise AnswerError("the answer's result is no list")
        self._head, self._text = self._text[: begin + 1], self._text[begin + 1 :]
        return True

    def _series(self) -> list[PromSeries]:
        found, at, text = [], 0, self._text
        while True:
            while at < len(text) and text[at] in ", \n\r\t":
                at += 1
            if at == len(text):
                break
            if text[at] == "]":
                self._done = True
                break
            try:
                raw, at = _DECODER.raw_decode(text, at)
            except ValueError:
                # Not whole yet; what never becomes whole is found at the end.
                break
            found.append(_series_of(raw))
        self._text = text[at:]
        return found


def _series_of(raw: Any) -> PromSeries:
    try:
        labels = raw["metric"]
        moments: list[tuple[float, Value]] = [(float(at), float(text)) for at, text in _some(raw, "value", "values")]
        moments += [(float(at), _histogram(shown)) for at, shown in _some(raw, "histogram", "histograms")]
    except (KeyError, TypeError, ValueError) as error:
        raise AnswerError(f"a series is not as it should be: {type(error).__name__}: {error}") from error
    if not isinstance(labels, dict) or not all(math.isfinite(at) for at, _ in moments):
        raise AnswerError("a series is not as it should be")
    return PromSeries(labels, moments)


def _some(raw: Any, one: str, many: str) -> list[Any]:
    return [raw[one]] if one in raw else raw.get(many) or []


def _histogram(shown: Any) -> Value:
    try:
        return cumulative_of(shown)
    except NotOurHistogramError as error:
        return error
