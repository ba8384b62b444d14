"""Where PromQL is answered, and how series of pods are told from others'."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_MATCHER = re.compile(r'[a-zA-Z_][a-zA-Z0-9_]*\s*(=|!=|=~|!~)\s*"(?:[^"\\\n]|\\.)*"')
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):\s*([\x20-\x7e]*)")

RECOMMENDER_JOB = 'job="vllm-rightsizer-recommender"'


class PrometheusSettingsError(ValueError):
    """A setting that cannot be used; the message names it and says what it should be."""


@dataclass(frozen=True)
class PrometheusSettings:
    """`url`: under which `/api/v1/query` lies. `headers`: sent along, such as a tenant's. `matchers` choose the
    plugins' series and `recommender_matchers` the recommender's own; the labels are those that service discovery
    writes.

    Raises `PrometheusSettingsError`.
    """

    url: str
    token_file: Path | None = None
    """Read anew for each query: tokens of service accounts change."""
    headers_file: Path | None = None
    """One header a line, where what it says is secret. Read anew for each query, too; it wins over `headers`."""
    ca_file: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    matchers: tuple[str, ...] = ()
    recommender_matchers: tuple[str, ...] = (RECOMMENDER_JOB,)
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    container_label: str = "container"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise PrometheusSettingsError(
                f"{self.url!r} is no URL of a Prometheus: it should be like http://prometheus.monitoring:9090"
            )
        if parts.username is not None:
            raise PrometheusSettingsError(
                "a URL with a password is written to logs: give a token file or a file of headers, with Authorization"
            )
        for matcher in (*self.matchers, *self.recommender_matchers):
            if _MATCHER.fullmatch(matcher) is None:
                raise PrometheusSettingsError(f'{matcher!r} is no label matcher: it should be like cluster="eu"')
        if not self.recommender_matchers:
            raise PrometheusSettingsError(
                f"without a matcher any pod could export the recommender's own series: give one, like {RECOMMENDER_JOB}"
            )
        for label in (self.namespace_label, self.pod_label, self.container_label):
            if _LABEL.fullmatch(label) is None:
                raise PrometheusSettingsError(f"{label!r} is no name of a label")
        for file in (self.token_file, self.headers_file, self.ca_file):
            if file is not None and not file.is_file():
                raise PrometheusSettingsError(f"there is no file {file}")
        self.tls_context()

    def tls_context(self) -> ssl.SSLContext | None:
        """For https with an authority of its own."""
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise PrometheusSettingsError(f"{self.ca_file} holds no certificates of an authority: {error}") from error


def secret_headers(file: Path) -> tuple[tuple[str, str], ...]:
    """The headers of a file, one a line; empty lines count for nothing. Nothing of it is repeated in messages.

    Raises `PrometheusSettingsError`.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PrometheusSettingsError(f"the file of headers {file} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found.append(_header(line, f"line {number} of {file}", "Authorization: Basic …"))
    return tuple(found)


def headers_of(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Headers from lines like `X-Scope-OrgID: team`. Raises `PrometheusSettingsError`."""
    # What stands behind the colon may be a secret.
    return tuple(_header(line, repr(line.partition(":")[0]), "X-Scope-OrgID: team") for line in lines)


def _header(line: str, called: str, example: str) -> tuple[str, str]:
    parts = _HEADER.fullmatch(line.strip())
    if parts is None:
        raise PrometheusSettingsError(f"{called} is no header: it should be like '{example}'")
    return parts[1], parts[2]
